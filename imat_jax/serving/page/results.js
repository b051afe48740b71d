/** Draws an answer: what it is, what it rests on, how it went over time. */

import { drawAnswer, drawNoAnswer, named, sentence } from "./answer.js";
import { announce } from "./announcer.js";
import { drawContributions } from "./contributions.js";
import { $ } from "./dom.js";
import { scaleOf } from "./scale.js";
import { curve, restricted } from "./subsets.js";
import { drawTimeline, forgetTimeline } from "./timeline.js";
import { drawWords } from "./transcript.js";

const SHOWN = 30; // seconds of live answers

/** The cards that an answer fills. */
export function hideResults() {
  for (const id of ["answer-card", "switch-card", "words-card"]) $(id).hidden = true;
  forgetTimeline();
  announce("");
}

/** The answer of /predict as it is from the modalities `on` alone. */
export function drawClip(facts, answer, on) {
  const one = restricted(answer, on);
  const whole = one === answer;
  const windows = answer.windows ?? [];
  const points = curve(windows, on, facts.hop);
  const scale = scaleOf(facts.task, [one.prediction.values, ...windows.flatMap((w) => Object.values(w.subsets))]);
  const note = whole ? "Of the whole clip." : `Of the whole clip, from ${on.join(" and ")} alone.`;
  drawOne(facts, one, { scale, whole, note });
  announce(sentence(one.prediction, scale, facts.task));
  drawWords({ words: answer.words, text: answer.transcript, on: on.includes("text") });
  drawTimeline({
    points,
    names: facts.values,
    scale,
    domain: [0, answer.seconds],
    top: named(one.prediction),
    wave: answer.waveform ? { ...answer.waveform, start: 0 } : null,
  });
}

/** The newest of the live answers, and how they went. */
export function drawLive(facts, updates, wave, on) {
  const newest = updates.at(-1);
  const one = newest.prediction ? newest : null; // null: nothing was there to answer from
  const shown = updates.filter((u) => u.time > newest.time - SHOWN);
  const points = shown.map((u) => ({ time: u.time, values: u.prediction?.values ?? null }));
  const scale = scaleOf(facts.task, points.flatMap((p) => p.values ?? []));
  if (one) drawOne(facts, one, { scale, whole: true, note: `Of the last ${facts.window} seconds.` });
  else drawNothing();
  announce(one ? named(one.prediction) : "no answer"); // the number moves too often to be read
  drawWords({ words: one?.words ?? [], text: "", on: on.includes("text") });
  const start = Math.max(0, newest.time - SHOWN);
  drawTimeline({
    points,
    names: facts.values,
    scale,
    domain: [start, Math.max(newest.time, start + 10)],
    top: one && named(one.prediction),
    wave,
  });
}

function drawNothing() {
  $("answer-card").hidden = false;
  $("contributions").replaceChildren();
  drawNoAnswer("Nothing seen or heard in the last seconds.");
}

function drawOne(facts, one, { scale, whole, note }) {
  const { prediction, contributions, base } = one;
  const { task, coverage, values: names } = facts;
  $("answer-card").hidden = $("switch-card").hidden = $("download-row").hidden = false;
  drawAnswer({ prediction, scale, task, names, coverage, whole, note });
  const name = named(prediction);
  drawContributions({ contributions, base, prediction, name, names, scale });
}
