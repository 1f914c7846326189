// What all parts of a run's page share: its data (JSON in #data; see explorers.py), elements, numbers.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
document.documentElement.classList.add("js");
document.querySelectorAll("details.papers").forEach((details) => { details.open = false; });

// Elements

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const html = (tag, attributes = {}, ...children) =>
  make(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  make(document.createElementNS(SVG, tag), attributes, children);
const text = (x, y, content, attributes = {}) => svg("text", { x, y, ...attributes }, content);
const partOf = (name) => document.querySelector(`#${name} .part`);

// Numbers

const known = (value) => value !== null && value !== undefined;
const shown = (value, decimals) => (known(value) ? value.toFixed(decimals) : "–");
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** The value of a list at a position between two of its entries. */
function at(values, position) {
  const i = Math.floor(position), share = position - i;
  if (share === 0) return values[i];
  if (!known(values[i]) || !known(values[i + 1])) return null;
  return (1 - share) * values[i] + share * values[i + 1];
}

/** About `count` round numbers from `low` to `high`, and their decimals. */
function ticks(low, high, count, least = 0) {
  const raw = Math.max((high - low) / count, least), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= raw * 0.999);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), values = [];
  for (let i = Math.ceil(low / step - 1e-6); i * step <= high + 1e-6 * step; i++) values.push(i * step);
  return { values, decimals };
}

function extent(values) {
  const finite = values.filter(known);
  if (!finite.length) return [0, 1];
  const low = Math.min(...finite), high = Math.max(...finite);
  if (low === high) return low > 0 ? [0, 1.1 * high] : [low - 1, high + 1];
  const pad = (high - low) * 0.07;
  return [low - pad, high + pad];
}
