/** What is going on, and what went wrong. */

import { $ } from "./dom.js";

export function say(text) {
  $("status").textContent = text;
}

export function complain(text) {
  $("problem").hidden = !text;
  $("problem").textContent = text;
}
