// The few things that every part of the page needs from the document.

/** The element with this id; a missing one is a mistake in index.html. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`index.html has no #${id}`);
  return element;
}

/** A new element: properties where the element has them, attributes otherwise; null children are left out. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** 1 card, 2 cards, 2 processes. */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;
}

/** `text` as a sentence; 100x90 becomes 100 × 90. */
export function sentence(text) {
  if (!text) return "";
  const written = text.replace(/(\d)x(?=\d)/g, "$1 × ");
  return `${written[0].toUpperCase()}${written.slice(1)}${/[.!?]$/.test(written) ? "" : "."}`;
}

/** Seconds as a person says them: 0.42 s, 4.1 s, 75 s. */
export function seconds(value) {
  return `${value < 1 ? value.toFixed(2) : value < 20 ? value.toFixed(1) : Math.round(value)} s`;
}

/** `used` of `whole`, both in one unit and with the same digits: 4.5 of 22.6 GiB. */
export function share(used, whole) {
  const digits = whole < 10 ? 2 : 1;
  return `${used.toFixed(digits)} of ${whole.toFixed(digits)} GiB`;
}

/** GiB with the digits that matter; below a tenth of a GiB in MiB. */
export function memory(gib) {
  if (gib === 0) return "0 GiB";
  if (gib < 0.1) return `${Math.max(1, Math.round(gib * 1024))} MiB`;
  return `${gib < 10 ? gib.toFixed(2) : gib.toFixed(1)} GiB`;
}
