/** One switch a modality. The last one that is on stays on: there is no answer from nothing. */

import { $, h } from "./dom.js";

/** `changed(on)` is called with the modalities that are on, whenever a person switches one. */
export function makeSwitches(modalities, changed) {
  const boxes = {};
  const notes = {};
  for (const m of modalities) {
    boxes[m] = h("input", { type: "checkbox", role: "switch", "aria-describedby": `note-${m}` });
    boxes[m].checked = true;
    notes[m] = h("span", { class: "dim small", id: `note-${m}` });
    $("switches").append(h("div", {}, h("label", {}, boxes[m], m), notes[m]));
    boxes[m].addEventListener("change", () => {
      draw();
      changed(on());
    });
  }
  let gone = []; // missing for good, as in a clip
  let said = {};

  const on = () => modalities.filter((m) => boxes[m].checked && !gone.includes(m));

  function draw() {
    for (const m of modalities) {
      const missing = gone.includes(m);
      const last = !missing && on().length === 1 && on()[0] === m;
      boxes[m].disabled = missing || last;
      notes[m].textContent = missing ? "missing" : last ? "the last one stays on" : (said[m] ?? "");
    }
  }

  return {
    on,
    /** fixed: modalities that cannot be had; notes: {modality: what to say beside its switch} */
    show(fixed, texts) {
      for (const m of modalities) {
        if (fixed.includes(m)) boxes[m].checked = false;
        else if (gone.includes(m)) boxes[m].checked = true;
      }
      gone = fixed;
      said = texts;
      if (!on().length) for (const m of modalities) boxes[m].checked = !gone.includes(m);
      draw();
    },
  };
}
