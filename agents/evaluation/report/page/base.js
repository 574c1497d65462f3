// Data, state and small helpers. Every view registers a function that draws it from the state.
const data = JSON.parse(document.getElementById("data").textContent);
const controllers = new Map(data.controllers.map((line) => [line.name, line]));
const tasks = new Map(data.tasks.map((task) => [task.name, task]));
const state = {
  reference: data.reference,
  kind: "",
  task: data.tasks[0].name,
  measure: "outer_valid_loss",
  log: true,
  controller: data.subject,
  dots: "",
  sort: "speedup",
  descending: true,
  shown: [],
};
const views = [];
const byId = (id) => document.getElementById(id);

function set(change) {
  Object.assign(state, change);
  hideTip();
  for (const view of views) view();
}

// Text only ever becomes a text node or an attribute: names cannot be markup.
function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const known = (value) => value !== null && value !== undefined;
function number(value, digits = 3) {
  if (!known(value)) return "-";
  if (value === 0) return "0";
  const places = digits - 1 - Math.floor(Math.log10(Math.abs(value)));
  if (places > 7) return value.toExponential(1);
  const shown = Math.max(0, places);
  return value.toLocaleString("en", { minimumFractionDigits: shown, maximumFractionDigits: shown });
}
function brief(value) {
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) {
    return value.toExponential().replace("e+", "e");
  }
  return value.toLocaleString("en", { maximumFractionDigits: 6 });
}
function percent(share) {
  if (!known(share)) return "-";
  const near = (share > 0 && share < 0.01) || (share > 0.99 && share < 1);
  const value = 100 * share;
  return (near ? Math.min(Math.max(value, 0.1), 99.9).toFixed(1) : value.toFixed(0)) + " %";
}
const interval = (low, high) =>
  known(low) && known(high) ? number(low) + " to " + number(high) : "-";
const speedup = (line) => (line.speedup || {})[state.reference] || {};
const kindOf = (name) => data.kinds[controllers.get(name).kind] || { label: "", mark: "" };
const referenceLabel = (name) =>
  (data.references.find((reference) => reference.name === name) || { label: name }).label;

// A controller keeps its colour while it is shown; the subject always has its own.
const slots = [];
const N_COLOURS = 7;
function show(names) {
  for (let slot = 0; slot < slots.length; slot++) if (!names.includes(slots[slot])) slots[slot] = null;
  for (const name of names) {
    if (name === data.subject || slots.includes(name)) continue;
    const free = slots.findIndex((other) => !known(other));
    if (free < 0) slots.push(name);
    else slots[free] = name;
  }
  return names;
}
function look(name) {
  if (name === data.subject) return { stroke: "var(--policy)", width: 3, dash: null };
  const slot = Math.max(0, slots.indexOf(name));
  return {
    stroke: `var(--c${slot % N_COLOURS})`,
    width: 1.8,
    // Runs may coincide: what lies under dashes can still be seen.
    dash: [null, "6 3", "2 3", "9 3 2 3"][slot % 4],
  };
}

function placeTip(x, y) {
  const tip = byId("tip");
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth ? x - box.width - 16 : x + 16;
  tip.style.left = Math.max(6, Math.min(left, innerWidth - box.width - 6)) + "px";
  tip.style.top = Math.max(6, Math.min(y + 14, innerHeight - box.height - 6)) + "px";
}
function showTip(x, y, ...content) {
  const tip = byId("tip");
  tip.replaceChildren(...content);
  tip.hidden = false;
  placeTip(x, y);
}
function hideTip() {
  byId("tip").hidden = true;
}
// The same note for the pointer and for who comes by keyboard.
function noted(node, ...content) {
  const open = () => {
    const box = node.getBoundingClientRect();
    showTip(box.left, box.bottom - 8, ...content.map((part) => part.cloneNode(true)));
  };
  node.addEventListener("pointerenter", open);
  node.addEventListener("focus", open);
  node.addEventListener("pointerleave", hideTip);
  node.addEventListener("blur", hideTip);
  return node;
}
