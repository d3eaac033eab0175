// What a person reads when a picture did not come, and where.

import { hasToken } from "./api.js";
import { byId, make, seconds, sentence } from "./dom.js";
import * as form from "./form.js";

let counting = null;

/** Shows `error` beside the control that it concerns; `again(changes)` draws once more. */
export function show(error, again) {
  stop();
  if (error.status === 401) return askForToken();
  if (error.status === 429) return countDown(error, again);
  if (error.code === "size_not_drawable") return form.show("size", ...nearestSizes(error.message));
  if (error.code === "prompt_too_long") return form.show("prompt", plain(error.message), cutting(again));
  const [message, hint] = words(error);
  const note = error.status >= 500 && error.requestId ? `${hint} Request ${error.requestId}.` : hint;
  form.show(error.param, message, note ? make("p", { className: "note" }, note) : null);
}

/** Ends a countdown that is no longer of interest. */
export function stop() {
  clearInterval(counting);
}

/** Shows the token's field, which nobody sees on a server without one. */
export function askForToken() {
  byId("token-field").hidden = false;
  form.show("token", hasToken() ? "The server does not accept this token." : "This server asks for a token.");
}

function words({ status, code, message }) {
  if (code === "interrupted") return [message, "Your settings are kept: draw again."];
  if (status === 0) return [message, "Is it running? Your settings are kept: draw again when it is back."];
  const said = plain(message);
  if (status === 504) return ["The picture took longer than the server allows.", "Fewer steps or a smaller size are faster."];
  if (status === 503) return ["No engine is ready.", `${said} Settings are kept: draw again in a moment.`];
  if (status >= 500) return ["The server failed while drawing.", said];
  return [said, ""];
}

/** The API writes messages for terminals: here a sentence, without the field's name in front. */
const plain = (message) => sentence(message.replace(/^[a-z_.\d]+: /, ""));

function cutting(again) {
  return make("p", {}, make("button", { type: "button", onclick: () => again({ truncate: true }) }, "Draw with the end cut off"));
}

/** `100x90 cannot be drawn: …; the nearest sizes are 96x96, 112x96` as a sentence and a button for each size. */
function nearestSizes(message) {
  const [fault, nearest = ""] = message.split("; the nearest sizes are ");
  const sizes = nearest.match(/\d+x\d+/g) ?? [];
  if (sizes.length === 0) return [plain(message)];
  const buttons = make("p", { className: "chips" }, "Nearest sizes:", ...sizes.map((size) => {
    const [width, height] = size.split("x").map(Number);
    const choose = () => {
      form.clear("size");
      form.setSize(width, height);
      byId("draw").focus();
    };
    return make("button", { type: "button", onclick: choose }, `${width} × ${height}`);
  }));
  return [plain(fault), buttons];
}

function countDown(error, again) {
  const until = performance.now() + 1000 * (error.retryAfter ?? 5);
  // The numbers change every second, so they are kept from the screen reader: the button says when.
  const left = make("span", { "aria-hidden": "true" });
  const button = make("button", { type: "button", disabled: true, onclick: () => again() }, "Try again");
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
