/** How loud the sound is over time. */

import { svg } from "./dom.js";
import { MARGIN } from "./lines.js";

const HEIGHT = 52;

/** peaks: 0 to 1, `hz` a second, the first one at `start` seconds. */
export function waveform({ peaks, hz, start, domain, width }) {
  const room = Math.max(1, Math.floor(width - MARGIN.left - MARGIN.right));
  const tops = new Float32Array(room); // one column a pixel: the highest peak in it
  peaks.forEach((peak, i) => {
    const share = (start + i / hz - domain[0]) / (domain[1] - domain[0]);
    const column = Math.floor(share * room);
    if (column >= 0 && column < room) tops[column] = Math.max(tops[column], peak);
  });
  // Peaks rarer than pixels are drawn as wide as they last.
  const wide = Math.max(1, Math.ceil(room / Math.max(1, hz * (domain[1] - domain[0]))));
  let path = "";
  tops.forEach((top, i) => {
    if (!top) return;
    const half = Math.max(0.5, (top * HEIGHT) / 2);
    path += `M${MARGIN.left + i} ${(HEIGHT / 2 - half).toFixed(1)}h${wide}v${(2 * half).toFixed(1)}h${-wide}z`;
  });
  const loudest = peaks.length ? Math.max(...peaks) : 0;
  const label = loudest > 0.01 ? "Loudness of the sound over time" : "No sound";
  return svg(
    "svg",
    { width, height: HEIGHT, role: "img", "aria-label": label, class: "waveform" },
    svg("line", {
      class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: HEIGHT / 2, y2: HEIGHT / 2,
    }),
    svg("path", { d: path }),
    svg("text", { x: MARGIN.left - 6, y: HEIGHT / 2 + 4, "text-anchor": "end" }, "sound"),
  );
}
