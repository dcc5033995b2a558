// Numbers and elements for people. Text of the outside reaches the page by `textContent` alone.

const number = (digits) => new Intl.NumberFormat("en", { maximumFractionDigits: digits });
const [whole, two] = [number(0), number(2)];

export const count = (n) => whole.format(n);
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : word.endsWith("ch") ? "es" : "s"}`;
export const say = (value) => {
  if (value === null || value === undefined || Number.isNaN(value)) return "none";
  const size = Math.abs(value);
  return size && (size < 0.01 || size >= 1e7)
    ? value.toPrecision(3)
    : size >= 1000
      ? whole.format(value)
      : size < 1
        ? String(+value.toPrecision(3))
        : two.format(value);
};
export const share = (p) => (p > 0.995 && p < 1 ? "> 99 %" : `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`);
export const ordinal = (n) => count(n) + (["th", "st", "nd", "rd"][n % 100 > 10 && n % 100 < 14 ? 0 : n % 10] || "th");

// el("button", {class: "x", onclick: f, "aria-label": "y"}, "text", child): strings become text, never markup.
export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function" || name === "value" || name === "checked") made[name] = value;
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);
export const fill = (element, ...children) => (element.replaceChildren(...children.filter(Boolean)), element);
