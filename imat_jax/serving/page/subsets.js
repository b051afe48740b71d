/** What a model answers from some of the modalities, and how an answer divides among them. */

export const MODALITIES = ["text", "audio", "vision"];

export const key = (modalities) => MODALITIES.filter((m) => modalities.includes(m)).join("+");

/** The modalities that `subsets` has answers for, in order. */
export const there = (subsets) => MODALITIES.filter((m) => m in subsets);

/**
 * Shapley values of `players` (Shapley 1953): {modality: {name: phi}}, which add up to the answer
 * from all players less `base`, the answer from none.
 */
export function shapley(players, subsets, base) {
  const factorial = (n) => (n < 2 ? 1 : n * factorial(n - 1));
  const value = (modalities) => (modalities.length ? subsets[key(modalities)] : base);
  const found = {};
  for (const player of players) {
    const others = players.filter((p) => p !== player);
    found[player] = Object.fromEntries(Object.keys(base).map((name) => [name, 0]));
    for (let mask = 0; mask < 1 << others.length; mask++) {
      const coalition = others.filter((_, i) => mask & (1 << i));
      const weight =
        (factorial(coalition.length) * factorial(others.length - coalition.length)) /
        factorial(players.length);
      const [after, before] = [value([...coalition, player]), value(coalition)];
      for (const name in base) found[player][name] += weight * (after[name] - before[name]);
    }
  }
  return found;
}

/**
 * The part of an answer of /predict that rests on `on` alone: an object with the fields
 * `prediction`, `contributions`, `base` and `words` of the whole. A conformal set or interval holds
 * for the whole answer only and is left out with any modality.
 */
export function restricted(answer, on) {
  const all = there(answer.subsets);
  const used = all.filter((m) => on.includes(m));
  if (used.length === all.length) return answer;
  const values = answer.subsets[key(used)];
  const prediction = { values };
  if ("label" in answer.prediction) prediction.label = highest(values);
  const contributions = answer.base && shapley(used, answer.subsets, answer.base);
  return { ...answer, prediction, contributions };
}

/** The name with the highest value. */
export const highest = (values) =>
  Object.keys(values).reduce((best, name) => (values[name] > values[best] ? name : best));

/**
 * Windows, every `hop` seconds, as points of a curve: {time, values, or null where nothing of `on`
 * is there}. Windows in which no modality is there are not in the list: the curve has a gap.
 */
export function curve(windows, on, hop) {
  const points = [];
  windows.forEach(({ start, end, subsets }, i) => {
    const gap = i > 0 && start - windows[i - 1].start > 1.5 * hop;
    if (gap) points.push({ time: start, values: null });
    const values = subsets[key(there(subsets).filter((m) => on.includes(m)))] ?? null;
    points.push({ time: (start + end) / 2, values });
  });
  return points;
}
