/** How the explained value comes about: signed Shapley values of the modalities. */

import { bar } from "./bars.js";
import { $, h, table } from "./dom.js";

export function drawContributions({ contributions, base, prediction, name, names, scale }) {
  $("contributions").hidden = !base; // of a model that does not know what is usual
  if (!base) return;
  const modalities = Object.keys(contributions);
  const sizes = modalities.map((m) => Math.abs(contributions[m][name]));
  const reach = Math.max(scale.percent ? 0.1 : 0.5, ...sizes);
  const rows = modalities.map((m) => {
    const phi = contributions[m][name];
    return [m, bar(phi, -reach, reach), scale.change(phi)];
  });
  const heads = ["modality", h("span", { class: "unseen" }, "drawn"), "change"];
  const all = names.map((n) => [
    n,
    scale.show(base[n]),
    ...modalities.map((m) => scale.change(contributions[m][n])),
    scale.show(prediction.values[n]),
  ]);
  // An open list of numbers stays open while live answers come.
  const open = $("contributions").querySelector("details")?.open ?? false;
  $("contributions").replaceChildren(
    h(
      "p",
      { class: "small" },
      `“${name}” goes from ${scale.show(base[name])}, nothing seen or heard, to `,
      `${scale.show(prediction.values[name])}:`,
    ),
    table(`contributions to ${name}`, heads, rows),
    h(
      "details",
      open ? { open: "" } : {},
      h("summary", {}, "For all values"),
      h(
        "div",
        { class: "scroll", role: "region", "aria-label": "contributions to all values", tabindex: 0 },
        table("contributions to all values", ["value", "nothing", ...modalities, "answer"], all),
      ),
    ),
  );
}
