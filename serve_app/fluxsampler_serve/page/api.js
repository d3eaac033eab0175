// The HTTP API, as far as the page uses it. Paths are relative, so the page also works below a prefix.

/** A request that did not end in a picture: `status` is 0 when the server could not be reached. */
export class ApiError extends Error {
  constructor(status, message, { param = null, code = null, retryAfter = null, requestId = null } = {}) {
    super(message);
    Object.assign(this, { status, param, code, retryAfter, requestId });
  }
}

/** Status of the errors that come in the middle of a stream, whose status line is long sent. */
const LATE = { deadline_exceeded: 504, not_ready: 503, prompt_too_long: 422, not_drawable: 422 };

let token = ""; // In memory only: what is never stored cannot be read by the next one at this browser.

export const setToken = (value) => (token = value);
export const hasToken = () => token !== "";

async function request(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("authorization", `Bearer ${token}`);
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

/** The error that a response that is not 2xx stands for; its body is OpenAI's error shape, or a proxy's own. */
async function failure(response) {
  const text = await response.text().catch(() => "");
  let body = {};
  try {
    body = JSON.parse(text).error ?? {};
  } catch {
    body = {}; // A proxy's page: the status line says more than its HTML.
  }
  return asError(response.status, body, response.headers);
}

function asError(status, body, headers) {
  const message = body.message ?? `The server answered ${status}.`;
  return new ApiError(status, message, {
    param: body.param,
    code: body.code,
    retryAfter: Number(headers?.get("retry-after")) || null,
    requestId: headers?.get("x-request-id"),
  });
}

/** What runs there: model, defaults, limits, plan, and whether its engines are ready. */
export async function info() {
  return (await request("v1/info")).json();
}

/**
 * Draws one picture. Yields {kind: "progress", step, steps, engine}, {kind: "preview", url} and last
 * {kind: "picture", url, engine, reason, seconds, seed, cutTokens}. Object URLs belong to the caller.
 */
export async function* draw(body, signal) {
  const started = performance.now();
  const response = await request("v1/images/generations", {
    method: "POST",
    headers: { "content-type": "application/json", accept: "text/event-stream" },
    body: JSON.stringify({ ...body, stream: true, partial_images: 3 }),
    signal,
  });
  for await (const event of events(response.body)) {
    const type = event.type ?? "";
    if (type === "fluxsampler.progress") {
      yield { kind: "progress", ...event };
    } else if (type === "image_generation.partial_image") {
      yield { kind: "progress", ...event.fluxsampler };
      yield { kind: "preview", url: pictureUrl(event) };
    } else if (type === "image_generation.completed") {
      const { engine, engine_reason: reason, seed, truncated_tokens: cutTokens } = event.fluxsampler.pictures[0];
      yield {
        kind: "picture", url: pictureUrl(event), engine, reason, seed, cutTokens,
        seconds: (performance.now() - started) / 1000,
      };
      return;
    } else if (event.error) {
      throw asError(LATE[event.error.code] ?? 500, event.error, response.headers);
    }
  }
  throw new ApiError(0, "The connection ended before the picture was complete.", { code: "interrupted" });
}

/** Server-sent events of a response body, as the JSON objects in their data. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The connection broke off while drawing.", { code: "interrupted" });
    });
    if (done) return;
    const blocks = (buffer + value).replaceAll("\r\n", "\n").split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (!data || data === "[DONE]") continue;
      const name = lines.find((line) => line.startsWith("event:"))?.slice(6).trim();
      yield { type: name, ...JSON.parse(data) };
    }
  }
}

function pictureUrl({ b64_json: base64, output_format: format = "png" }) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: `image/${format}` }));
}
