/** Values over time as lines, told apart by colour, dashes and the name at each end. */

import { svg } from "./dom.js";
import { stroke } from "./series.js";

export const MARGIN = { left: 44, right: 92 }; // pixels; the waveform below has the same
const TOP = 8;
const HEIGHT = 190;
const LABEL = 14; // pixels from one name to the next

/** points: [{time, values or null}]; domain: seconds at the ends; top: the name drawn thick. */
export function lines({ points, names, scale, domain, top, width }) {
  const x = (time) =>
    MARGIN.left +
    ((time - domain[0]) / (domain[1] - domain[0])) * (width - MARGIN.left - MARGIN.right);
  const y = (v) => TOP + ((scale.high - v) / (scale.high - scale.low)) * (HEIGHT - TOP);
  const chart = svg("svg", {
    width,
    height: HEIGHT + 26,
    role: "img",
    "aria-label": `${describe(points, names, scale)}. All numbers are in the table below.`,
  });
  for (const tick of scale.ticks) {
    chart.append(
      svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, scale.tick(tick)),
    );
  }
  for (const time of times(domain, width)) {
    chart.append(
      svg("text", { x: x(time), y: HEIGHT + 20, "text-anchor": "middle" }, `${time} s`),
    );
  }
  names.forEach((name, i) => {
    const style = stroke(i);
    if (name === top) style.class += " top";
    for (const run of runs(points)) {
      const places = run.map((p) => `${x(p.time).toFixed(1)} ${y(p.values[name]).toFixed(1)}`);
      if (run.length > 1) chart.append(svg("path", { ...style, d: `M${places.join("L")}` }));
      else {
        const [cx, cy] = places[0].split(" ");
        chart.append(svg("circle", { class: style.class, cx, cy, r: name === top ? 4 : 3 }));
      }
    }
  });
  const last = points.findLast((p) => p.values);
  if (last) {
    for (const [name, at] of spread(names.map((n) => [n, y(last.values[n])]))) {
      const kind = name === top ? "end top" : "end";
      const from = { x1: x(last.time), y1: y(last.values[name]) };
      chart.append(svg("line", { class: "grid", ...from, x2: width - MARGIN.right + 3, y2: at }));
      const short = name.length > 13 ? `${name.slice(0, 12)}…` : name;
      chart.append(
        svg("text", { class: kind, x: width - MARGIN.right + 6, y: at + 4 }, short),
      );
    }
  }
  return chart;
}

/** Neighbouring points that have values. */
function runs(points) {
  const found = [[]];
  for (const point of points) {
    if (point.values) found.at(-1).push(point);
    else if (found.at(-1).length) found.push([]);
  }
  return found.filter((run) => run.length);
}

/** Heights moved apart so that no name covers another. */
function spread(ends) {
  const sorted = ends.sort((a, b) => a[1] - b[1]);
  for (let i = 1; i < sorted.length; i++) {
    sorted[i][1] = Math.max(sorted[i][1], sorted[i - 1][1] + LABEL);
  }
  for (let i = sorted.length - 1, floor = HEIGHT; i >= 0; i--, floor -= LABEL) {
    sorted[i][1] = Math.min(sorted[i][1], floor);
  }
  return sorted;
}

/** Round times at most every 60 pixels. */
function times([from, to], width) {
  const room = Math.max(2, (width - MARGIN.left - MARGIN.right) / 60);
  const step = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800].find((s) => (to - from) / s <= room);
  const found = [];
  for (let t = Math.ceil(from / step) * step; t <= to + 1e-9; t += step) found.push(t);
  return found;
}

function describe(points, names, scale) {
  const there = points.filter((p) => p.values);
  if (!there.length) return "No values over time";
  const [first, last] = [there[0].values, there.at(-1).values];
  const told = names.map((n) => `${n} from ${scale.show(first[n])} to ${scale.show(last[n])}`);
  return `Lines over ${there.length} windows: ${told.join("; ")}`;
}
