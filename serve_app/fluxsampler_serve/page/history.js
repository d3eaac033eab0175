// The pictures of this page, newest first.

import { byId, make } from "./dom.js";

const MOST = 48; // A 1024 x 1024 PNG is about 1.5 MB: what a browser tab may keep without complaint.

const pictures = [];

/** Adds a drawn picture; `restore(picture)` is called when its thumbnail is pressed. */
export function add(picture, restore) {
  pictures.unshift(picture);
  const button = make(
    "button",
    { type: "button", title: picture.settings.prompt, onclick: () => restore(picture) },
    make("img", { src: picture.url, alt: `${picture.settings.prompt}, seed ${picture.settings.seed}` }),
  );
  picture.item = make("li", {}, button);
  byId("thumbs").prepend(picture.item);
  byId("history").hidden = false;
  if (pictures.length > MOST) {
    const oldest = pictures.pop();
    oldest.item.remove();
    URL.revokeObjectURL(oldest.url);
  }
  mark(picture);
}

/** Marks the thumbnail of the picture that is shown. */
export function mark(picture) {
  for (const one of pictures) {
    const button = one.item.firstChild;
    if (one === picture) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}
