/** The box around the face that was found, over the picture. */

import { $ } from "./dom.js";

const NEAR = 0.6; // seconds: a face found longer ago is not drawn

/** box: [left, top, right, bottom] as shares of the picture, or null. */
export function drawFace(box) {
  const node = $("face");
  node.hidden = !box;
  if (!box) return;
  const [left, top, right, bottom] = box.map((v) => 100 * Math.min(Math.max(v, 0), 1));
  Object.assign(node.style, {
    left: `${left}%`,
    top: `${top}%`,
    width: `${right - left}%`,
    height: `${bottom - top}%`,
  });
}

/** The box nearest to `time` of a list of {time, box} in order of time. */
export function faceAt(faces, time) {
  let low = 0;
  let high = faces.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (faces[middle].time < time) low = middle + 1;
    else high = middle;
  }
  const near = [faces[low - 1], faces[low]]
    .filter((face) => face && Math.abs(face.time - time) < NEAR)
    .sort((a, b) => Math.abs(a.time - time) - Math.abs(b.time - time));
  return near[0]?.box ?? null;
}
