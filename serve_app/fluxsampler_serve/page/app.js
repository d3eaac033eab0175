// The playground page: connects the form, the API, the picture, the history and the plan.

import * as api from "./api.js";
import { byId, count, make } from "./dom.js";
import * as form from "./form.js";
import * as history from "./history.js";
import * as plan from "./plan.js";
import * as problems from "./problems.js";
import * as stage from "./stage.js";

const RETRY_MS = 3000; // How often a server that is away or starting is asked again.

const EXAMPLES = {
  "tiny-shapes": ["a red circle", "a blue square", "a green triangle"],
  any: ["a lighthouse in morning fog, oil on canvas", "a red bicycle against a white wall", "an otter reading a map"],
};

let running = null; // AbortController of the picture being drawn.
let shown = null; // The picture in the frame.
let connecting = null;

function pill(state, text) {
  Object.assign(byId("service"), { textContent: text });
  byId("service").dataset.state = state;
}

/** Reads /v1/info; again after a while when the server is away or an engine is not ready. */
async function connect() {
  clearTimeout(connecting);
  try {
    const info = await api.info();
    if (!byId("form").dataset.ready) setUp(info);
    byId("token-field").hidden = true;
    const waiting = Object.entries(info.engines).filter(([, engine]) => !engine.ready);
    if (waiting.length === 0) pill("ready", "Ready");
    else pill("starting", info.ready ? `Ready, without ${waiting.map(([name]) => name).join(" and ")}` : "Starting");
    byId("service").title = waiting.map(([name, { reason, message }]) => `${name}: ${message || reason}`).join("\n");
    if (waiting.length > 0) connecting = setTimeout(connect, RETRY_MS);
  } catch (error) {
    if (!(error instanceof api.ApiError)) throw error;
    if (error.status === 401) {
      pill("locked", "Token needed");
      problems.askForToken();
      return;
    }
    pill("away", error.status === 0 ? "Server not reached" : "Server in trouble");
    byId("service").title = error.message;
    connecting = setTimeout(connect, RETRY_MS);
  }
}

function setUp(info) {
  const name = info.model.id;
  byId("model").textContent = name;
  document.title = `${name} – FluxSampler`;
  form.setUp(info);
  plan.draw(info.plan, info.device === "cpu" ? "Process" : "Card");
  const examples = EXAMPLES[Object.keys(EXAMPLES).find((key) => info.model.source.includes(key)) ?? "any"];
  byId("examples").replaceChildren(...examples.map((text) => make("button", {
    type: "button",
    onclick: () => {
      byId("prompt").value = text;
      form.clear("prompt");
      byId("prompt").focus();
    },
  }, text)));
  byId("invitation").hidden = false;
  byId("form").dataset.ready = "yes";
  byId("draw").disabled = false;
}

/** Draws what the form says; `changes` are for this one picture. */
async function drawPicture(changes = {}) {
  if (running || byId("draw").disabled) return;
  problems.stop();
  const read = form.read();
  if (!read) return;
  const settings = { ...read, ...changes };
  running = new AbortController();
  busy(true);
  stage.begin(settings);
  try {
    for await (const event of api.draw(form.toRequest(settings), running.signal)) {
      if (event.kind === "progress") stage.progress(event);
      else if (event.kind === "preview") stage.showPreview(event.url, settings);
      else finish({ ...event, settings: { ...settings, seed: event.seed } });
    }
  } catch (error) {
    goBack();
    if (error.name === "AbortError") {
      stage.announce("Cancelled");
    } else {
      if (!(error instanceof api.ApiError)) throw error;
      stage.announce("No picture");
      problems.show(error, drawPicture);
      if (error.status === 0 || error.status === 503) connect();
    }
  } finally {
    running = null;
    busy(false);
  }
}

function finish(picture) {
  stage.end();
  form.used();
  shown = picture;
  stage.show(picture);
  history.add(picture, restore);
  stage.announce(`Drawn by the ${picture.engine} engine in ${count(Math.max(1, Math.round(picture.seconds)), "second")}`);
}

/** After a picture that did not come: the one before, or the empty frame. */
function goBack() {
  stage.end();
  if (shown) stage.show(shown);
}

function restore(picture) {
  if (running) return;
  problems.stop();
  shown = picture;
  stage.show(picture);
  form.write(picture.settings);
  history.mark(picture);
  stage.announce("Earlier picture and its settings are back");
}

function busy(drawing) {
  const draw = byId("draw");
  // aria-disabled, not disabled: a disabled button loses the keyboard's focus.
  draw.setAttribute("aria-disabled", String(drawing));
  draw.textContent = drawing ? "Drawing…" : "Draw";
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  drawPicture();
});
byId("cancel").addEventListener("click", () => running?.abort());
byId("token-use").addEventListener("click", useToken);
byId("token").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  useToken();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    drawPicture();
  } else if (event.key === "Escape") {
    running?.abort();
  }
});

function useToken() {
  api.setToken(byId("token").value.trim());
  form.clear("token");
  byId("prompt").focus();
  connect();
}

byId("keys").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘ Enter draws, Esc cancels" : "Ctrl+Enter draws, Esc cancels";
form.listen();
connect();
