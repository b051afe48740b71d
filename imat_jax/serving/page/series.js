/** Each value keeps one colour and one dash pattern everywhere. */

import { svg } from "./dom.js";

const DASHES = ["none", "7 3", "2 3", "9 3 2 3", "4 2", "1 2", "12 4", "6 2 1 2 1 2"];
const COLOURS = 8;

export const stroke = (i) => ({
  class: `series c${i % COLOURS}`,
  "stroke-dasharray": DASHES[(i + Math.floor(i / COLOURS)) % DASHES.length],
});

/** A short piece of the line that stands for value `i`. */
export const sample = (i) =>
  svg(
    "svg",
    { class: "sample", viewBox: "0 0 26 8", "aria-hidden": "true" },
    svg("line", { ...stroke(i), x1: 0, x2: 26, y1: 4, y2: 4 }),
  );
