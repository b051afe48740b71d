/** How the values of a task are read: as shares of 100, or as scores with a sign. */

const signed = (value, digits) =>
  (value < 0 ? "−" : value > 0 ? "+" : "") + Math.abs(value).toFixed(digits);

const PERCENT = {
  percent: true,
  low: 0,
  high: 1,
  ticks: [0, 0.5, 1],
  show: (v) => `${(100 * v).toFixed(v > 0 && v < 0.0995 ? 1 : 0)} %`,
  change: (v) => `${signed(100 * v, 1)} points`,
  tick: (v) => `${100 * v} %`,
};

const score = (reach) => ({
  percent: false,
  low: -reach,
  high: reach,
  ticks: [-reach, 0, reach],
  show: (v) => signed(v, 2),
  change: (v) => signed(v, 2),
  tick: (v) => signed(v, 0),
});

/** `list`: what will be shown, of which scores without a fixed end take their reach. */
export function scaleOf(task, list) {
  if (task === "sentiment") return score(3);
  if (task !== "dimensions") return PERCENT;
  return score(Math.ceil(Math.max(1, ...list.flatMap((v) => Object.values(v).map(Math.abs)))));
}
