// Elements without markup: whatever a log holds becomes text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Make an HTML element with attributes, listeners (functions) and children (elements or text). */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Make an SVG element, in the same way. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child != null && child !== false));
  return node;
}

/** The one box that is shown while the pointer rests on something. */
const tip = el("div", { class: "tip", role: "tooltip" });

export function showTip(event, lines) {
  tip.replaceChildren(...lines.map((line) => el("div", {}, line)));
  if (!tip.isConnected) document.body.append(tip);
  const width = tip.offsetWidth;
  const height = tip.offsetHeight;
  const left = Math.min(event.clientX + 14, window.innerWidth - width - 8);
  const below = event.clientY + 16 + height < window.innerHeight;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${below ? event.clientY + 16 : event.clientY - height - 10}px`;
  tip.classList.add("shown");
}

export function hideTip() {
  tip.classList.remove("shown");
}
