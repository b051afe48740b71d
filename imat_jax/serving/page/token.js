/** The access token: asked for when needed, kept in the tab's session storage. */

import { $ } from "./dom.js";

const KEY = "imat-token";

export const token = () => sessionStorage.getItem(KEY);

export const forgetToken = () => sessionStorage.removeItem(KEY);

/** Shows the field with `why` until a token is given; resolves to it. */
export function askToken(why, signal) {
  forgetToken();
  const form = $("token-form");
  form.hidden = false;
  $("token-why").textContent = why;
  $("token").value = "";
  $("token").focus();
  return new Promise((resolve, reject) => {
    const done = new AbortController();
    signal?.addEventListener("abort", () => reject(signal.reason), { signal: done.signal });
    form.addEventListener(
      "submit",
      (event) => {
        event.preventDefault();
        done.abort();
        sessionStorage.setItem(KEY, $("token").value.trim());
        form.hidden = true;
        resolve(token());
      },
      { signal: done.signal },
    );
  });
}
