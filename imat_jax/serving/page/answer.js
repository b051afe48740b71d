/** The answer in words, and its values as bars with numbers. */

import { bar } from "./bars.js";
import { $, h, table } from "./dom.js";
import { sample } from "./series.js";
import { highest } from "./subsets.js";

const or = (names) =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} or ${names.at(-1)}`;

const NOTES = {
  multilabel: "Each is judged alone; they do not add up to 100 %.",
  binary_pairs: "Each is judged alone; they do not add up to 100 %.",
  sentiment: "From −3, very negative, to +3, very positive.",
};

/** The value that the page explains: the label, else the one that stands out most. */
export function named(prediction) {
  const sizes = Object.entries(prediction.values).map(([name, v]) => [name, Math.abs(v)]);
  return prediction.label ?? highest(Object.fromEntries(sizes));
}

export function sentence(prediction, scale, task) {
  const name = named(prediction);
  const value = prediction.values[name];
  if (task === "sentiment") {
    const words = value > 0.5 ? "positive" : value < -0.5 ? "negative" : "about neutral";
    return `${words}, ${scale.show(value)}`;
  }
  return `${name}, ${scale.show(value)}`;
}

/** The conformal set or interval in words; "" where the model was not calibrated. */
function likely(prediction, { scale, task, coverage, whole }) {
  const { set, low } = prediction;
  if (!set && low == null) {
    return whole || !coverage ? "" : "How sure this is, is known of the whole answer only.";
  }
  const share = `(${Math.round(100 * coverage)} %)`;
  if (!set) {
    const [from, to] = interval(prediction, named(prediction)).map(scale.show);
    return `Likely: ${from} to ${to} ${share}`;
  }
  const kind = task === "multiclass" ? "Likely" : "May be there";
  return `${kind}: ${set.length ? or(set) : "none of them"} ${share}`;
}

const MEANING =
  "In brackets: in how many of 100 clips, like those it was calibrated with, this holds.";

/** [low, high] of one value, or null. */
function interval({ low, high }, name) {
  if (low == null) return null;
  return typeof low === "number" ? [low, high] : [low[name], high[name]];
}

export function drawAnswer({ prediction, scale, task, names, coverage, whole, note }) {
  const top = named(prediction);
  $("label").textContent = sentence(prediction, scale, task);
  const told = likely(prediction, { scale, task, coverage, whole });
  $("likely").textContent = told;
  const rows = names.map((name, i) => {
    const head = h("span", { class: name === top ? "top" : "" }, sample(i), name);
    const value = prediction.values[name];
    return [head, bar(value, scale.low, scale.high, interval(prediction, name)), scale.show(value)];
  });
  const heads = ["value", h("span", { class: "unseen" }, "drawn"), "number"];
  $("bars").replaceChildren(table("values of the answer", heads, rows));
  $("answer-note").textContent = [note, NOTES[task], told.endsWith(")") && MEANING].filter(Boolean).join(" ");
}

/** Where there is nothing to answer from. */
export function drawNoAnswer(why) {
  $("label").textContent = "–";
  $("likely").textContent = why;
  $("bars").replaceChildren();
  $("answer-note").textContent = "";
}
