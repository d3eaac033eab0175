// The settings: reading them, writing them back, and saying what is wrong beside the control concerned.

import { byId, make } from "./dom.js";
import { label, presets } from "./sizes.js";

const LARGEST_SEED = 2 ** 32 - 1;
const CUSTOM = "custom";

/** Fields of a request (OpenAI's `param`) and the control that shows their error. */
const CONTROLS = {
  prompt: "prompt", size: "size", width: "size", height: "size", steps: "steps", seed: "seed",
  guidance_scale: "guidance", negative_prompt: "negative", true_cfg_scale: "cfg", token: "token",
};

const value = (id) => byId(id).value;
const number = (id) => (value(id).trim() === "" ? null : Number(value(id)));

let chosenSeed = false; // The person put this seed there: the next picture uses it.

export function setUp({ defaults, sizes, limits = {} }) {
  const select = byId("size");
  select.replaceChildren(
    ...presets(sizes, defaults).map(({ name, sizes: group }) =>
      make("optgroup", { label: name }, ...group.map((size) => make("option", { value: size.join("x") }, label(size))))),
    make("option", { value: CUSTOM }, "Custom size…"),
  );
  for (const id of ["width", "height"]) {
    Object.assign(byId(id), { min: sizes.min_side, max: sizes.max_side, step: sizes.multiple_of });
  }
  byId("size-note").textContent =
    `Multiples of ${sizes.multiple_of}, from ${sizes.min_side} to ${sizes.max_side}.`;
  byId("steps").value = defaults.steps;
  if (limits.max_steps) byId("steps").max = limits.max_steps;
  byId("guidance").value = defaults.guidance_scale;
  byId("cfg").value = 2; // The API refuses a negative prompt whose strength is 1: it would have no effect.
  setSize(defaults.width, defaults.height);
  if (!value("seed")) byId("seed").value = randomSeed();
}

export function listen() {
  byId("size").addEventListener("change", () => {
    showCustom();
    if (value("size") === CUSTOM) byId("width").focus();
  });
  byId("random").addEventListener("click", () => {
    byId("seed").value = randomSeed();
    chosenSeed = true;
    clear("seed");
  });
  byId("seed").addEventListener("input", () => {
    chosenSeed = true;
    byId("keep").checked = true; // Who types a seed wants it for more than one picture.
  });
  for (const [name, id] of Object.entries(CONTROLS)) byId(id).addEventListener("input", () => clear(name));
  for (const id of ["width", "height"]) byId(id).addEventListener("input", () => clear("size"));
}

function randomSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

function showCustom() {
  const custom = value("size") === CUSTOM;
  byId("custom").hidden = !custom;
  return custom;
}

export function setSize(width, height) {
  const option = [...byId("size").options].find((one) => one.value === `${width}x${height}`);
  byId("size").value = option ? option.value : CUSTOM;
  byId("width").value = width;
  byId("height").value = height;
  showCustom();
}

/** Settings of the picture to draw next; null after saying beside a control what is missing. */
export function read() {
  clear();
  if (!byId("keep").checked && !chosenSeed) byId("seed").value = randomSeed();
  if (value("size") !== CUSTOM) {
    const [width, height] = value("size").split("x");
    Object.assign(byId("width"), { value: width });
    Object.assign(byId("height"), { value: height });
  }
  const settings = {
    prompt: value("prompt").trim(), width: number("width"), height: number("height"), steps: number("steps"),
    seed: number("seed"), guidance: number("guidance"), negative: value("negative").trim(), cfg: number("cfg"),
  };
  const whole = (n) => Number.isInteger(n) && n >= 0;
  const most = Number(byId("steps").max) || Infinity;
  const wrong = [
    [settings.prompt !== "", "prompt", "Write what the picture shows."],
    [settings.width > 0 && settings.height > 0 && whole(settings.width) && whole(settings.height), "size",
      "Give width and height as whole numbers of pixels."],
    [whole(settings.steps) && settings.steps >= 1 && settings.steps <= most, "steps",
      `Give a whole number of steps, ${most < Infinity ? `from 1 to ${most}` : "at least 1"}.`],
    [whole(settings.seed) && settings.seed <= LARGEST_SEED, "seed",
      `Give a whole number from 0 to ${LARGEST_SEED}, or press Random.`],
    [Number.isFinite(settings.guidance), "guidance_scale", "Give a number, such as 3.5."],
    [Number.isFinite(settings.cfg) && settings.cfg > 1, "true_cfg_scale", "Give a number above 1, such as 2."],
  ].filter(([right]) => !right);
  for (const [, name, message] of wrong.toReversed()) show(name, message);
  chosenSeed = true; // Until its picture is there: who draws again after a failure gets the same one.
  return wrong.length === 0 ? settings : null;
}

/** The picture is there: the next one has another seed, unless this one is kept. */
export function used() {
  chosenSeed = false;
}

/** The request for these settings. */
export function toRequest({ prompt, width, height, steps, seed, guidance, negative, cfg, truncate }) {
  const body = { prompt, size: `${width}x${height}`, steps, seed, guidance_scale: guidance };
  if (negative) Object.assign(body, { negative_prompt: negative, true_cfg_scale: cfg });
  if (truncate) body.truncate_prompt = true;
  return body;
}

/** Puts earlier settings back; the next picture then uses their seed. */
export function write(settings) {
  clear();
  for (const id of ["prompt", "steps", "seed", "guidance", "negative", "cfg"]) byId(id).value = settings[id];
  setSize(settings.width, settings.height);
  if (settings.negative) byId("advanced").open = true;
  chosenSeed = true;
}

/** Says beside the control of `name` what is wrong, and goes there. Unknown names are said above the button. */
export function show(name, message, ...more) {
  const id = CONTROLS[name];
  const place = byId(`${id ?? "form"}-error`);
  place.replaceChildren(make("p", {}, message), ...more.filter(Boolean));
  place.hidden = false;
  if (!id) {
    place.scrollIntoView({ block: "nearest" });
    return;
  }
  if (byId("advanced").contains(byId(id))) byId("advanced").open = true;
  for (const control of controls(name)) control.setAttribute("aria-invalid", "true");
  const custom = id === "size" && value("size") === CUSTOM;
  byId(custom ? "width" : id).focus();
}

function controls(name) {
  return CONTROLS[name] === "size" ? ["size", "width", "height"].map(byId) : [byId(CONTROLS[name])];
}

/** Takes back the message about `name`, or all of them. */
export function clear(name) {
  for (const one of name ? [name] : [...Object.keys(CONTROLS), null]) {
    const place = byId(`${one ? CONTROLS[one] : "form"}-error`);
    place.hidden = true;
    place.replaceChildren();
    if (one) controls(one).forEach((control) => control.removeAttribute("aria-invalid"));
  }
}
