// The plan as a picture of the cards: what sits where, in GiB, in true proportion.

import { byId, count, make, memory, seconds, sentence, share } from "./dom.js";

/** What is drawn in one colour: the components' names, what the legend calls them, the colour. */
const GROUPS = [
  [/^transformer/, "transformer", "c1"], [/^(T5|CLIP)/, "text encoders", "c2"], [/^VAE/, "VAE", "c3"],
  [/^activations/, "activations", "c4"], [/keys and values/, "keys and values of PipeFusion", "c5"],
  [/^fallback/, "fallback", "c7"], [/./, "runtime", "c6"],
];
const group = (name) => GROUPS.find(([names]) => names.test(name));
const SMALL = 0.1; // Below this share of a card, what is used is drawn again, magnified.

const room = (gib) => (gib < 0.01 ? 0 : gib); // What remains of the plan's rounding is no room.
const sum = (components) => components.reduce((total, { gib }) => total + gib, 0);

/** Draws `plan` (status.plan of a FluxSampler); `unit` is what a card is called here: Card or Process. */
export function draw(plan, unit) {
  const { layout, fallback, estimate, memory: { cards, host }, rejected = [] } = plan;
  const names = [...new Set(cards.flatMap(({ components }) => components.map(({ name }) => name)))];
  const parts = [
    summary(layout, fallback, estimate, unit),
    make("h3", {}, `What sits on each ${unit.toLowerCase()}`),
    legend(GROUPS.filter((one) => cards.some(({ components }) =>
      components.some(({ name, gib }) => gib > 0 && group(name) === one)))),
    make("ul", { className: "cards" }, ...cards.map((card) => cardFigure(card, unit))),
    fold("The same as a table", cardTable(cards, names, unit)),
    make("h3", {}, "Memory of the machine"),
    hostFigure(host),
    fold("The sums behind it", make("ul", { className: "proof" }, ...host.proof.map((line) => make("li", {}, line)))),
  ];
  if (rejected.length > 0) {
    const tried = rejected.reduce((total, { candidates }) => total + candidates, 0);
    parts.push(fold(`Why no other layout (${count(tried, "candidate")} not taken)`, refusals(rejected)));
  }
  byId("plan-body").replaceChildren(...parts);
  byId("plan").setAttribute("aria-busy", "false");
}

function summary(layout, fallback, estimate, unit) {
  const noun = unit.toLowerCase();
  const degrees = [
    ["PipeFusion", layout.pipefusion], ["tensor", layout.tensor], ["Ulysses", layout.ulysses], ["ring", layout.ring],
  ].filter(([, degree]) => degree > 1).map(([name, degree]) => `${name} ${degree}`).join(" × ") || "one device";
  const error = `± ${Math.round(estimate.errorPercent)} %${estimate.calibrated ? "" : ", not calibrated for this device"}`;
  const noFallback = fallback.placement === "None";
  const tiles = [
    ["Layout", layout.summary, `${degrees}; ${count(layout.replicas, "replica")} of ${count(layout.gpusPerReplica, noun)}. ` +
      `Text encoders: ${layout.encoders}.`],
    ["Estimate", seconds(estimate.secondsPerImage),
      `for ${estimate.width} × ${estimate.height} in ${estimate.steps} steps (${error}), ` +
      `${estimate.imagesPerMinute.toFixed(1)} pictures a minute.`],
    ["Fallback", noFallback ? "none" : spaced(fallback.placement),
      noFallback ? sentence(fallback.message) :
        `${fallback.replicas} warm, at most ${fallback.maxReplicas}. ${sentence(fallback.message)}`],
  ];
  return make("dl", { className: "tiles" }, ...tiles.map(([name, large, small]) =>
    make("div", {}, make("dt", {}, name), make("dd", { className: "large" }, large), make("dd", {}, small))));
}

const spaced = (word) => word.replace(/(\p{Ll})(\p{Lu})/gu, (_, a, b) => `${a}-${b.toLowerCase()}`);

function legend(groups) {
  return make("ul", { className: "legend", "aria-hidden": "true" },
    ...[...groups, [null, "free", "free"]].map(([, name, cls]) => make("li", {}, make("i", { className: cls }), name)));
}

/** One bar: `parts` are [label, gib, class], drawn against `whole`. Proportions are never rounded up. */
function bar(parts, whole, text) {
  return make("div", { className: "bar-of", role: "img", "aria-label": text },
    ...parts.filter(([, gib]) => gib > 0).map(([label, gib, cls]) => {
      const part = make("span", { className: cls, title: `${label}: ${memory(gib)}` });
      part.style.width = `${(100 * gib) / whole}%`; // CSSOM, which a strict style-src allows.
      part.append(make("b", {}, memory(gib))); // Shown where it fits: see the container query.
      return part;
    }));
}

function cardFigure({ index, role, components, usableGib }, unit) {
  const used = sum(components);
  const whole = Math.max(used, usableGib);
  const parts = components.map(({ name, gib }) => [name, gib, group(name)[2]]);
  const words = components.map(({ name, gib }) => `${name} ${memory(gib)}`).join(", ");
  const text = `${unit} ${index}, ${role}: ${words}; ${share(used, usableGib)} usable.`;
  const item = make("li", { className: "card" },
    make("p", { className: "card-head" },
      make("span", {}, make("strong", {}, `${unit} ${index}`), ` ${role}`),
      make("span", { className: "sum" }, share(used, usableGib))),
    bar([...parts, ["free", whole - used, "free"]], whole, text));
  if (used / whole < SMALL) {
    const magnified = bar(parts, used, `The used part, magnified: ${words}.`);
    item.append(make("div", { className: "lens" }, magnified,
      make("p", { className: "note" }, `the used part, magnified ${Math.round(whole / used)} times`)));
  }
  return item;
}

function hostFigure(host) {
  const rest = Math.max(0, host.shmGib - host.objectStoreGib);
  const parts = [
    ["object store", host.objectStoreGib, "c1"], ["other shared memory", rest, "c2"], ["heap", host.heapGib, "c3"],
    ["weights, one copy", host.weightsGib, "c4"], ["system", host.systemGib, "c6"],
  ];
  const used = parts.reduce((total, [, gib]) => total + gib, 0);
  const whole = Math.max(host.nodeGib, host.limitGib, used);
  const shown = [...parts, ["free up to the limit", room(host.limitGib - used), "free"],
    ["outside FluxSampler’s limit", room(whole - Math.max(host.limitGib, used)), "reserved"]];
  const words = parts.map(([name, gib]) => `${name} ${memory(gib)}`).join(", ");
  return make("div", { className: "card" },
    make("p", { className: "card-head" },
      make("span", {}, make("strong", {}, "Host")),
      make("span", { className: "sum" }, `limit ${share(host.limitGib, host.nodeGib)}`)),
    bar(shown, whole, `Host memory: ${words}; limit ${memory(host.limitGib)} of ${memory(host.nodeGib)}.`),
    make("ul", { className: "legend" }, ...shown.filter(([, gib]) => gib > 0).map(([name, gib, cls]) =>
      make("li", {}, make("i", { className: cls }), `${name} ${memory(gib)}`))));
}

function cardTable(cards, names, unit) {
  const cell = (gib) => make("td", {}, gib === undefined ? "–" : memory(gib));
  const head = [unit, "Role", ...names, "Used", "Usable"];
  return make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Memory as a table" },
    make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...cards.map((card) => {
        const of = new Map(card.components.map(({ name, gib }) => [name, gib]));
        return make("tr", {}, make("th", { scope: "row" }, String(card.index)), make("td", {}, card.role),
          ...names.map((name) => cell(of.get(name))), cell(sum(card.components)), cell(card.usableGib));
      }))));
}

function refusals(rejected) {
  return make("ul", { className: "refusals" }, ...rejected.map(({ family, reason, message, candidates }) =>
    make("li", {}, make("p", {}, make("strong", {}, family), " ", make("code", {}, reason),
      make("span", { className: "note" }, ` ${count(candidates, "candidate")}`)), make("p", {}, message))));
}

function fold(title, body) {
  return make("details", {}, make("summary", {}, title), body);
}
