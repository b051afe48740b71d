/** Requests to the service: with the token, again when it is busy, errors as sentences. */

import { say } from "./status.js";
import { askToken, token } from "./token.js";

const TRIES = 5;
const LONGEST = 30; // seconds to wait at a time

export async function health() {
  const response = await fetch("health");
  if (!response.ok) throw new Error(await sentence(response));
  return response.json();
}

/** The answer of POST /predict to a form. Throws Error with a sentence for people. */
export async function predict(form, needsToken, signal) {
  if (needsToken && !token()) await askToken("This service answers those who have its token.", signal);
  for (let tried = 1; ; ) {
    const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
    const response = await fetch("predict", { method: "POST", body: form, headers, signal }).catch((error) => {
      throw error instanceof TypeError ? new Error("The service cannot be reached.") : error;
    });
    if (response.status === 401) {
      await askToken("The service did not accept the token.", signal);
    } else if (response.status === 429 && tried < TRIES) {
      const seconds = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST);
      say(`The service is busy; trying again in ${seconds} s (try ${++tried} of ${TRIES}).`);
      await pause(seconds, signal);
    } else if (!response.ok) {
      throw new Error(await sentence(response));
    } else {
      return response.json();
    }
  }
}

async function sentence(response) {
  const body = await response.json().catch(() => null);
  return body?.error ? `The service says: ${body.error}.` : `The service answered with status ${response.status}.`;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)));
  });
}
