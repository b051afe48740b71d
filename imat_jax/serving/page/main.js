/** The page: a clip or live, switches, and what is shown of the answers. */

import { health } from "./api.js";
import { makeClip } from "./clip.js";
import { $, h } from "./dom.js";
import { makeLive } from "./live.js";
import { drawClip, drawLive, hideResults } from "./results.js";
import { complain, say } from "./status.js";
import { there } from "./subsets.js";
import { makeSwitches } from "./switches.js";
import { moveHead } from "./timeline.js";

const KEPT = 1200; // live answers for the download: ten minutes

try {
  run(await health());
} catch (error) {
  complain(error instanceof TypeError ? "The service cannot be reached." : error.message);
}

function run(facts) {
  let answer = null; // of the clip
  let updates = []; // live
  let wave = null;
  $("about").textContent =
    `A model reads ${facts.modalities.join(", ")} and answers in ${facts.values.join(", ")}.`;

  if (!facts.media) {
    for (const control of document.querySelectorAll("main form :is(input, textarea, button)")) {
      control.disabled = true;
    }
    return complain("This service has no encoders: it answers to features only, by POST /predict.");
  }

  const words = facts.modalities.includes("text");
  $("transcript-row").hidden = $("said-row").hidden = !words;
  // Live answers come with sound or pictures.
  $("live-mode").disabled = words && facts.modalities.length === 1;

  const switches = makeSwitches(facts.modalities, (on) => {
    if (answer) drawClip(facts, answer, on);
    live.choose(on);
  });

  const clip = makeClip(
    facts,
    () => {
      forget();
      switches.show([], {});
    },
    (found) => {
      answer = found;
      const fixed = facts.modalities.filter((m) => !there(answer.subsets).includes(m));
      const counts = Object.entries(answer.frames).map(([m, n]) => [m, `${n} frames`]);
      switches.show(fixed, Object.fromEntries(counts));
      drawClip(facts, answer, switches.on());
    },
  );

  const live = makeLive(
    facts,
    switches.on,
    () => {
      forget();
      switches.show([], {});
      $("switch-card").hidden = false;
      $("seek-row").hidden = true;
    },
    (update, sound) => {
      updates.push(update);
      if (updates.length > KEPT) updates.shift();
      wave = sound;
      const notes = facts.modalities.map((m) => [
        m,
        !(update.frames?.[m] > 0) && switches.on().includes(m) ? "missing now" : "",
      ]);
      switches.show([], Object.fromEntries(notes));
      drawLive(facts, updates, wave, switches.on());
    },
  );

  function forget() {
    answer = null;
    updates = [];
    hideResults();
    moveHead(null);
    $("seek-row").hidden = false;
    $("download-row").hidden = true;
  }

  for (const radio of document.querySelectorAll("input[name=mode]")) {
    radio.addEventListener("change", () => {
      clip.stop();
      live.stop();
      forget();
      say("");
      complain("");
      $("media-card").hidden = true;
      $("clip-form").hidden = radio.value !== "clip";
      $("live-form").hidden = radio.value !== "live";
    });
  }

  // Disabled until here: a form that nothing listens to would load the page anew and lose the file.
  for (const control of document.querySelectorAll(".modes, button.main")) control.disabled = false;

  $("download").addEventListener("click", () => {
    const content = JSON.stringify(answer ?? { updates }, null, 1);
    const address = URL.createObjectURL(new Blob([content], { type: "application/json" }));
    h("a", { href: address, download: "answer.json" }).click();
    URL.revokeObjectURL(address);
  });
}
