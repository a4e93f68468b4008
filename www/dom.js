// Making elements. Whatever a user or another tab wrote gets into the page as text, never as markup.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `data-…` and `aria-…` as attributes) and children, strings as text. */
export function el(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (key === "class") element.className = value;
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

const LONG = 80;

/** A lock name. A long one is cut off, and opens. `<bdi>` keeps a right-to-left name from turning its neighbours round. */
export function nameElement(name) {
  if (name === "") return el("span", { class: "muted" }, "(empty: not a lock name)");
  if (name.length <= LONG) return el("bdi", { class: "name" }, name);
  return el(
    "details",
    { class: "long-name" },
    el("summary", {}, el("bdi", { class: "name" }, name.slice(0, LONG)), "…"),
    el("div", { class: "full-name", tabIndex: 0, role: "region", "aria-label": "The full name" }, el("bdi", {}, name)),
  );
}

/** A tab's name in its colour. */
export function badge(tab, hue) {
  const element = el("span", { class: "badge" }, el("bdi", {}, tab));
  element.style.setProperty("--hue", hue);
  return element;
}

/** A duration for people. */
export function elapsed(ms) {
  const seconds = Math.max(ms, 0) / 1000;
  if (seconds < 60) return `${seconds.toFixed(1)}\u00a0s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** Sets a text only if it changed: a live region is not to be read out again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
