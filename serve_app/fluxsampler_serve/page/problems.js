// What a person reads when a picture did not come, and where.

import { token } from "./api.js";
import { byId, make, seconds } from "./dom.js";
import * as form from "./form.js";

let counting = null;

/** Shows `error` beside the control that it concerns; `again` draws once more. */
export function show(error, again) {
  stop();
  if (error.status === 401) return askForToken();
  if (error.status === 429) return countDown(error, again);
  if (error.sizes.length > 0) return form.show("size", error.message, suggestions(error.sizes));
  const [message, hint] = words(error);
  const note = error.requestId ? `${hint} Request ${error.requestId}.` : hint;
  form.show(error.status === 0 ? null : error.param, message, make("p", { className: "note" }, note));
}

/** Ends a countdown that is no longer of interest. */
export function stop() {
  clearInterval(counting);
}

/** Shows the token's field, which nobody sees on a server without one. */
export function askForToken() {
  byId("token-field").hidden = false;
  form.show("token", token.get() ? "The server does not accept this token." : "This server asks for a token.");
}

function words({ status, code, message }) {
  if (code === "interrupted") return [message, "Your settings are kept: draw again."];
  if (status === 0) return [message, "Is it running? Your settings are kept: draw again when it is back."];
  if (status === 504) return ["The picture took longer than the server allows.", `${message} Fewer steps or a smaller size are faster.`];
  if (status === 503) return ["No engine is ready.", `${message} It usually is within a minute.`];
  if (status >= 500) return ["The server failed while drawing.", message];
  return [message, ""];
}

function suggestions(sizes) {
  return make("p", { className: "chips" }, "Nearest sizes: ", ...sizes.map((size) => {
    const [width, height] = size.split("x").map(Number);
    const choose = () => {
      form.clear("size");
      form.setSize(width, height);
      byId("draw").focus();
    };
    return make("button", { type: "button", onclick: choose }, `${width} × ${height}`);
  }));
}

function countDown(error, again) {
  const until = performance.now() + 1000 * (error.retryAfter ?? 5);
  // The numbers change every second, so they are kept from the screen reader: the button says when.
  const left = make("span", { "aria-hidden": "true" });
  const button = make("button", { type: "button", disabled: true, onclick: again }, "Try again");
  const tick = () => {
    const rest = Math.ceil((until - performance.now()) / 1000);
    left.textContent = rest > 0 ? ` possible in ${seconds(rest).replace(".0", "")}` : " possible now";
    if (rest > 0) return;
    button.disabled = false;
    stop();
  };
  form.show(null, "The server is busy: its queue is full.", make("p", {}, button, left));
  tick();
  counting = setInterval(tick, 200);
}
