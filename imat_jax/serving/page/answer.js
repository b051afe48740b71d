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

function likely(prediction, scale, coverage, whole) {
  const share = coverage ? ` In ${Math.round(100 * coverage)} of 100` : " In most";
  if (prediction.set) {
    const names = prediction.set.length ? or(prediction.set) : "nothing the model knows";
    return `Likely: ${names}.${share} clips like those it was calibrated on, such a list holds the right one.`;
  }
  if ("low" in prediction) {
    const [low, high] = [prediction.low, prediction.high];
    if (typeof low !== "number") return "";
    return `Likely: ${scale.show(low)} to ${scale.show(high)}.${share} clips like those it was calibrated on, the right one is inside.`;
  }
  return whole ? "" : "How sure this is was calibrated for the whole answer only.";
}

export function drawAnswer({ prediction, scale, task, names, coverage, whole, note }) {
  const top = named(prediction);
  $("label").textContent = sentence(prediction, scale, task);
  $("likely").textContent = likely(prediction, scale, coverage, whole);
  const interval = typeof prediction.low === "number" ? [prediction.low, prediction.high] : null;
  const rows = names.map((name, i) => {
    const head = h("span", { class: name === top ? "top" : "" }, sample(i), name);
    const value = prediction.values[name];
    return [head, bar(value, scale.low, scale.high, interval), scale.show(value)];
  });
  const heads = ["value", h("span", { class: "unseen" }, "drawn"), "number"];
  $("bars").replaceChildren(table("values of the answer", heads, rows));
  $("answer-note").textContent = [note, NOTES[task]].filter(Boolean).join(" ");
}
