/** Lines, waveform and the table of numbers on one axis of time, with a head that plays along. */

import { $, h, table } from "./dom.js";
import { lines, MARGIN } from "./lines.js";
import { waveform } from "./waveform.js";

let shown = null;

/** what: {points, names, scale, domain, top, wave: {peaks, hz, start} or null} */
export function drawTimeline(what) {
  shown = what;
  const { points, names, scale, domain, wave } = what;
  $("time-card").hidden = !points.length && !wave;
  const width = $("timeline").clientWidth;
  if (!width) return;
  $("timeline").style.setProperty("--left", `${MARGIN.left}px`);
  $("timeline").style.setProperty("--right", `${MARGIN.right}px`);
  $("lines").replaceChildren(...(points.length ? [lines({ ...what, width })] : []));
  $("wave").replaceChildren(...(wave ? [waveform({ ...wave, domain, width })] : []));
  const details = $("time-table").closest("details");
  details.hidden = !points.length;
  // A table that nobody sees is not made twice a second.
  if (details.open) fillTable(points, names, scale);
}

/** Nothing is shown, and nothing comes back when the window changes. */
export function forgetTimeline() {
  shown = null;
  $("time-card").hidden = true;
}

function fillTable(points, names, scale) {
  const rows = points.map(({ time, values }) => [
    `${time.toFixed(1)} s`,
    ...names.map((n) => (values ? scale.show(values[n]) : "–")),
  ]);
  $("time-table").replaceChildren(table("values over time", ["time", ...names], rows));
}

$("time-table").closest("details").addEventListener("toggle", () => {
  if (shown) drawTimeline(shown);
});

let width = 0;
new ResizeObserver(() => {
  if ($("timeline").clientWidth === width) return;
  width = $("timeline").clientWidth;
  if (shown) drawTimeline(shown);
}).observe($("timeline"));

/** Moves the head to `time`, and says what the nearest window has; null takes it away. */
export function moveHead(time) {
  $("playhead").hidden = time === null || !shown;
  if (time === null || !shown) return $("here").replaceChildren();
  const { points, names, scale, domain } = shown;
  const share = Math.min(1, Math.max(0, (time - domain[0]) / (domain[1] - domain[0])));
  $("timeline").style.setProperty("--share", share);
  const near = points.filter((p) => p.values);
  if (!near.length) return $("here").replaceChildren();
  const point = near.reduce((a, b) => (Math.abs(b.time - time) < Math.abs(a.time - time) ? b : a));
  const best = [...names].sort((a, b) => point.values[b] - point.values[a]).slice(0, 2);
  const told = best.map((n) => `${n} ${scale.show(point.values[n])}`).join(", ");
  $("here").replaceChildren(h("span", { class: "dim" }, `at ${time.toFixed(1)} s: `), told);
}

/** Calls `seek(seconds)` where a person clicks into the charts. */
export function onSeek(seek) {
  for (const node of [$("lines"), $("wave")]) {
    node.addEventListener("click", (event) => {
      if ($("seek-row").hidden) return;
      const box = $("timeline").getBoundingClientRect();
      const room = box.width - MARGIN.left - MARGIN.right;
      const share = (event.clientX - box.left - MARGIN.left) / room;
      if (share < 0 || share > 1) return;
      seek(shown.domain[0] + share * (shown.domain[1] - shown.domain[0]));
    });
  }
}
