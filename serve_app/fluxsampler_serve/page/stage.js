// The picture: empty, being drawn with previews, and drawn, with who drew it.

import { byId, count, make, seconds } from "./dom.js";

/** Why an engine drew, for each reason that the router gives. */
const REASONS = {
  Planned: "All ranks of the planned layout drew it together.",
  NoGang: "This plan draws on single devices.",
  NotSplittable: "This size cannot be split over the ranks, so a single device drew it.",
  GangNotReady: "The parallel engine is not ready, so a single device drew it.",
  GangRefused: "The parallel engine cannot draw this request, so a single device did.",
  GangFailed: "The parallel engine failed, so a single device drew it.",
  GangTimedOut: "The parallel engine took too long, so a single device drew it.",
  PictureRefused: "The parallel engine’s picture was not valid, so a single device drew it.",
};

let ticking = null;
let preview = null;

function set(state) {
  byId("figure").dataset.state = state;
  byId("empty").hidden = state !== "empty";
  byId("sheet").hidden = state === "empty";
  byId("drawing").hidden = state !== "drawing";
  byId("caption").hidden = state !== "drawn";
}

/** Says something to a screen reader, once. */
export function announce(text) {
  byId("announce").textContent = text;
}

/** Gives the picture its place before it is there, so that nothing jumps when it comes. */
function frame({ width, height }) {
  byId("sheet").style.setProperty("--ratio", `${width} / ${height}`);
  byId("sheet").style.setProperty("--width", width);
}

/** On a narrow screen the picture is below the form: brings it into view. */
function reveal() {
  if (matchMedia("(max-width: 56rem)").matches) byId("figure").scrollIntoView({ block: "nearest" });
}

/** Starts the progress bar of a new picture. */
export function begin(settings) {
  set("drawing");
  frame(settings);
  const picture = byId("picture");
  picture.hidden = true;
  picture.removeAttribute("src");
  const bar = byId("progress");
  bar.removeAttribute("aria-valuenow"); // Indeterminate until the first step.
  bar.setAttribute("aria-valuemax", settings.steps);
  bar.setAttribute("aria-valuetext", "Waiting for an engine");
  byId("bar").style.transform = "";
  byId("step").textContent = "Waiting for an engine";
  const started = performance.now();
  const tick = () => (byId("clock").textContent = seconds((performance.now() - started) / 1000));
  tick();
  ticking = setInterval(tick, 100);
  announce("Drawing");
  reveal();
}

export function progress({ step, steps, engine }) {
  const bar = byId("progress");
  bar.setAttribute("aria-valuemax", steps);
  bar.setAttribute("aria-valuenow", step);
  bar.setAttribute("aria-valuetext", `Step ${step} of ${steps}`);
  byId("bar").style.transform = `scaleX(${step / steps})`;
  const where = engine === "fallback" ? " on the fallback" : "";
  byId("step").textContent = step < steps ? `Step ${step} of ${steps}${where}` : "Finishing the picture";
}

/** Shows how far the picture is; the URL is revoked when the next one comes. */
export function showPreview(url, settings) {
  const picture = byId("picture");
  picture.alt = `Preview: ${settings.prompt}`;
  picture.src = url;
  picture.hidden = false;
  forgetPreview();
  preview = url;
}

function forgetPreview() {
  if (preview) URL.revokeObjectURL(preview);
  preview = null;
}

/** Ends the progress bar, whatever the end was. */
export function end() {
  clearInterval(ticking);
  if (document.activeElement === byId("cancel")) byId("draw").focus(); // Cancel is about to disappear.
  set("empty");
  byId("picture").hidden = true;
  forgetPreview();
}

/** Shows a drawn picture and its facts. */
export function show({ url, settings, engine, reason, seconds: took, cutTokens }) {
  set("drawn");
  frame(settings);
  const picture = byId("picture");
  picture.src = url;
  picture.alt = settings.prompt;
  picture.hidden = false;
  byId("said").textContent = settings.prompt;
  const facts = [
    ["Engine", make("span", { className: `engine ${engine}` }, engine)],
    ["Time", seconds(took)], ["Seed", String(settings.seed)],
    ["Size", `${settings.width} × ${settings.height}`], ["Steps", String(settings.steps)],
  ];
  byId("facts").replaceChildren(
    ...facts.map(([name, fact]) => make("div", {}, make("dt", {}, name), make("dd", {}, fact))));
  const cut = cutTokens ? ` The last ${count(cutTokens, "token")} of the prompt were cut off.` : "";
  byId("why").textContent = (REASONS[reason] ?? reason) + cut;
  const file = settings.prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60).replace(/^-|-$/g, "");
  Object.assign(byId("download"), { href: url, download: `${file || "picture"}-${settings.seed}.png` });
  byId("full").href = url;
  reveal();
}
