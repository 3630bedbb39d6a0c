// What the page says of itself: one line that everybody can read, screen readers too.

import { byId } from "./elements.js";

export function say(text, isFailure = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("failed", isFailure);
}

/** Runs what a person asked for; what goes wrong is said. */
export const tried = (work) => async (...given) => {
  try {
    await work(...given);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error.status === 401) byId("key-asked").hidden = false;
    say(error.message, true);
  }
};
