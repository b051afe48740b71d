/** The words, shaded by how much voice and face attend to them. */

import { $, h, table } from "./dom.js";

export function drawWords({ words, text, on }) {
  $("words-card").hidden = !words.length && !text;
  const top = Math.max(...words.map((w) => w.weight), 1e-12);
  const spans = words.flatMap(({ word, weight }) => {
    const span = h("span", { class: "word", title: `weight ${weight.toFixed(3)}` }, word);
    span.style.setProperty("--weight", (weight / top).toFixed(3));
    return [span, " "];
  });
  $("words").classList.toggle("off", !on);
  $("words").replaceChildren(...(words.length ? spans : [text]));
  $("words-note").textContent = !on
    ? "Text is switched off: these words are not read."
    : words.length
      ? "Shaded most is where voice and face look: attention on the words, in the answer from all modalities."
      : "";
  $("words-details").hidden = !words.length;
  const rows = words.map(({ word, weight }) => [word, weight.toFixed(3)]);
  $("words-table").replaceChildren(table("weight of each word", ["word", "weight"], rows));
}
