/** Tells screen readers the label when it changes, at most every two seconds. */

import { $ } from "./dom.js";

const PAUSE = 2000;
let said = "";
let next = "";
let timer = null;

export function announce(label) {
  next = label;
  if (timer === null) speak();
}

function speak() {
  timer = null;
  if (next === said) return;
  said = next;
  $("announcer").textContent = said;
  timer = setTimeout(speak, PAUSE);
}
