// The plan as a picture of the cards: what sits where, in GiB, in true proportion.

import { byId, count, make, memory, seconds, share } from "./dom.js";

const COLOURS = 6;
const FALLBACK = "c7"; // The fallback's share keeps one colour, whatever else is there.
const SMALL = 0.1; // Below this share of a card, what is used is drawn again, magnified.

const sum = (components) => components.reduce((total, { gib }) => total + gib, 0);

/** Draws `plan` (status.plan of a FluxSampler); `unit` is what a card is called here: Card or Process. */
export function draw(plan, unit) {
  const { layout, fallback, estimate, memory: { cards, host }, rejected = [] } = plan;
  const colours = new Map();
  const colour = (name) => {
    if (!colours.has(name)) {
      const others = [...colours.values()].filter((cls) => cls !== FALLBACK).length;
      colours.set(name, name.startsWith("fallback") ? FALLBACK : `c${(others % COLOURS) + 1}`);
    }
    return colours.get(name);
  };
  const drawnCards = cards.map((card) => cardFigure(card, unit, colour));
  const parts = [
    summary(layout, fallback, estimate, unit),
    make("h3", {}, `What sits on each ${unit.toLowerCase()}`),
    legend(colours),
    make("ul", { className: "cards" }, ...drawnCards),
    fold(`The same as a table`, cardTable(cards, [...colours.keys()], unit)),
    make("h3", {}, "Memory of the machine"),
    hostFigure(host),
    fold("The sums behind it", make("ul", { className: "proof" }, ...host.proof.map((line) => make("li", {}, line)))),
  ];
  if (rejected.length > 0) {
    const tried = rejected.reduce((total, { candidates }) => total + candidates, 0);
    parts.push(fold(`Why not another layout (${count(tried, "candidate")} refused)`, refusals(rejected)));
  }
  byId("plan-body").replaceChildren(...parts);
  byId("plan").setAttribute("aria-busy", "false");
}

function summary(layout, fallback, estimate, unit) {
  const noun = unit.toLowerCase();
  const degrees = [
    ["PipeFusion", layout.pipefusion], ["tensor", layout.tensor], ["Ulysses", layout.ulysses], ["ring", layout.ring],
  ].filter(([, degree]) => degree > 1).map(([name, degree]) => `${name} ${degree}`).join(" × ") || "one device";
  const error = estimate.calibrated ? `± ${Math.round(estimate.errorPercent)} %` : "not calibrated for this device";
  const noFallback = fallback.placement === "None";
  const tiles = [
    ["Layout", layout.summary, `${degrees}; ${count(layout.replicas, "replica")} of ${count(layout.gpusPerReplica, noun)}. ` +
      `Text encoders: ${layout.encoders}.`],
    ["Estimate", seconds(estimate.secondsPerImage),
      `for ${estimate.width} × ${estimate.height} in ${estimate.steps} steps (${error}), ` +
      `${estimate.imagesPerMinute.toFixed(1)} pictures a minute.`],
    ["Fallback", noFallback ? "none" : spaced(fallback.placement),
      noFallback ? fallback.message : `${fallback.replicas} of ${fallback.maxReplicas} warm` +
        `${fallback.quantization === "none" ? "" : `, ${fallback.quantization}`}. ${fallback.message}`],
  ];
  return make("dl", { className: "tiles" }, ...tiles.map(([name, large, small]) =>
    make("div", {}, make("dt", {}, name), make("dd", { className: "large" }, large), make("dd", {}, small))));
}

const spaced = (word) => word.replace(/(\p{Ll})(\p{Lu})/gu, (_, a, b) => `${a}-${b.toLowerCase()}`);

function legend(colours) {
  return make("ul", { className: "legend", "aria-hidden": "true" },
    ...[...colours].map(([name, cls]) => make("li", {}, make("i", { className: cls }), name)),
    make("li", {}, make("i", { className: "free" }), "free"),
    make("li", {}, make("i", { className: "reserved" }), "not usable"));
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

function cardFigure({ index, role, components, totalGib, usableGib }, unit, colour) {
  const used = sum(components);
  const whole = Math.max(totalGib, usableGib);
  const parts = components.map(({ name, gib }) => [name, gib, colour(name)]);
  const words = components.map(({ name, gib }) => `${name} ${memory(gib)}`).join(", ");
  const free = ["free", Math.max(0, usableGib - used), "free"];
  const reserved = ["not usable", Math.max(0, whole - Math.max(usableGib, used)), "reserved"];
  const text = `${unit} ${index}, ${role}: ${words}; ${memory(used)} of ${memory(usableGib)} usable, ${memory(whole)} in all.`;
  const item = make("li", { className: "card" },
    make("p", { className: "card-head" },
      make("span", {}, make("strong", {}, `${unit} ${index}`), ` ${role}`),
      make("span", { className: "sum" }, share(used, usableGib))),
    bar([...parts, free, reserved], whole, text));
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
  const shown = [...parts, ["free up to the limit", Math.max(0, host.limitGib - used), "free"],
    ["outside FluxSampler’s limit", Math.max(0, whole - Math.max(host.limitGib, used)), "reserved"]];
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
  const head = [unit, "Role", ...names, "Used", "Usable", "Total"];
  return make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Memory as a table" },
    make("table", {},
      make("thead", {}, make("tr", {}, ...head.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...cards.map((card) => {
        const of = new Map(card.components.map(({ name, gib }) => [name, gib]));
        return make("tr", {}, make("th", { scope: "row" }, String(card.index)), make("td", {}, card.role),
          ...names.map((name) => cell(of.get(name))), cell(sum(card.components)), cell(card.usableGib),
          cell(Math.max(card.totalGib, card.usableGib)));
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
