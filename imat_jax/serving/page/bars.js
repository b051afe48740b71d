/** A bar from zero to a value, on a track from low to high. The number stands beside it as text. */

import { h } from "./dom.js";

export function bar(value, low, high, interval = null) {
  const place = (v) => (100 * (Math.min(Math.max(v, low), high) - low)) / (high - low);
  const piece = (kind, from, to) => {
    const node = h("div", { class: kind });
    // Set as properties: the service's policy forbids style attributes.
    node.style.left = `${place(Math.min(from, to))}%`;
    node.style.width = `${Math.abs(place(to) - place(from))}%`;
    return node;
  };
  const track = h("div", { class: "track", "aria-hidden": "true" });
  if (interval) track.append(piece("interval", ...interval));
  track.append(piece(value < 0 ? "bar below" : "bar", 0, value));
  if (low < 0) track.append(piece("zero", 0, 0));
  return track;
}
