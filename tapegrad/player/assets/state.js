// The data of the page, how numbers are written, and what is known at each moment.
//
// Moment 0: only the inputs are there. Then a moment for each step forward; one in which the reverse sweep begins; one
// for each step back; and one at the end, at which the gradient stands.

const data = JSON.parse(document.getElementById("data").textContent);
const entries = data.entries,
  F = data.forward.length,
  R = data.reverse.length;
const last = R ? F + R + 2 : F;

const $ = (selector, from = document) => from.querySelector(selector);

// An element. Text is always set as text, so that no label or line of source can be anything else.
function h(tag, attributes = {}, ...children) {
  const svg = "svg g rect path text title line".split(" ").includes(tag) && attributes.svg;
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "svg" || value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Numbers

const names = { nan: "NaN", inf: "∞", "-inf": "−∞" };
const minus = (text) => String(text).replace(/(^|[^\w'"])-(?=[\d∞(a-z])/g, "$1−");

function fmt(x, digits = 5) {
  if (x === null || x === undefined) return "";
  if (typeof x === "string") return names[x] ?? x;
  if (x === 0) return "0";
  let text = x.toPrecision(digits);
  if (text.includes("e")) text = text.replace(/\.?0+e/, "e").replace("e+", "e");
  else if (text.includes(".")) text = text.replace(/\.?0+$/, "");
  const size = Math.abs(x);
  if (!text.includes("e") && (size >= 1e7 || size < 1e-4))
    text = x
      .toExponential(digits - 1)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  return text.replace(/-/g, "−");
}
const bracketed = (x) => {
  const text = fmt(x);
  return text.startsWith("−") ? `(${text})` : text;
};
const exact = (x) => (x === null || x === undefined ? "" : typeof x === "string" ? names[x] : String(x));
const shapeOf = (entry) =>
  entry.count === 1 ? "" : `(${entry.shape.join(", ")}${entry.shape.length === 1 ? "," : ""})`;
const isArray = (entry) => entry.count > 1 && entry.kind !== "fold";
const empty = (entry) => entry.count === 0;

// What is known when

const when = entries.map(() => ({ forward: 0, back: null, adjoints: [] }));
data.forward.forEach((n, i) => {
  when[n].forward = i + 1;
});
data.seeds.forEach((seed) => when[seed.to].adjoints.push([F + 1, seed.after]));
data.reverse.forEach((step, j) => {
  const moment = F + 2 + j;
  when[step.of].back = moment;
  for (const part of step.parts) if (part.to !== undefined) when[part.to].adjoints.push([moment, part.after]);
});

function adjointAt(n, moment) {
  // null where nothing is known yet; undefined where an adjoint has no meaning.
  const entry = entries[n];
  if (!entry.active || entry.kind === "fold" || entry.kind === "guard") return undefined;
  if (moment <= F) return null;
  let found = entry.count > 1 ? Array(Math.min(entry.count, data.most)).fill(0) : 0;
  for (const [at, value] of when[n].adjoints) {
    if (at > moment) break;
    found = value;
  }
  return found;
}
const valueAt = (n, moment) => (moment >= when[n].forward ? entries[n].value : null);

// What happens at a moment: which sweep it belongs to, the entry it is about, and what that reads or writes.
function happening(moment) {
  if (moment === 0)
    return {
      sweep: "",
      kind: "start",
      at: null,
      reads: [],
      hits: entries.flatMap((e, n) => (e.kind === "input" ? [n] : [])),
    };
  if (moment <= F) {
    const at = data.forward[moment - 1];
    return { sweep: "forward", kind: "forward", at, reads: entries[at].reads, hits: [at] };
  }
  if (moment === F + 1)
    return { sweep: "reverse", kind: "seed", at: null, reads: [], hits: data.seeds.map((s) => s.to) };
  if (moment === last) return { sweep: "reverse", kind: "end", at: null, reads: [], hits: inputs() };
  const step = data.reverse[moment - F - 2];
  return {
    sweep: "reverse",
    kind: "back",
    at: step.of,
    step,
    reads: [step.of],
    hits: [...new Set(step.parts.map((p) => p.to).filter((n) => n !== undefined))],
  };
}
const inputs = () => entries.flatMap((entry, n) => (entry.kind === "input" && entry.active ? [n] : []));

// Cells for an array's numbers: blue for positive ones, violet for negative ones, the stronger the larger.
function strip(entry, numbers, flat = false) {
  const columns = entry.shape.length > 1 ? entry.shape[entry.shape.length - 1] : 0;
  const rows = columns > 1 && columns <= 24 && entry.count <= numbers.length && !flat;
  const element = h("span", { class: rows ? "strip rows" : "strip", "aria-hidden": "true" });
  if (rows) element.style.gridTemplateColumns = `repeat(${columns}, 11px)`;
  const most = Math.max(...numbers.map((x) => (typeof x === "number" ? Math.abs(x) : 0)), 1e-300);
  for (const x of numbers) {
    const cell = h("i", {
      title: x === null ? undefined : exact(x),
      class: x === null ? "none" : typeof x === "string" ? "odd" : undefined,
    });
    if (typeof x === "number" && x !== 0) {
      cell.style.setProperty("--heat", `var(--${x > 0 ? "positive" : "negative"})`);
      cell.style.setProperty("--much", (0.14 + 0.86 * Math.sqrt(Math.abs(x) / most)).toFixed(3));
    }
    element.append(cell);
  }
  if (entry.count > numbers.length)
    element.append(h("span", { class: "more" }, `and ${(entry.count - numbers.length).toLocaleString("en")} more`));
  return element;
}

// A few numbers of an array, as text.
function brief(numbers, count, most = 3, digits = 4) {
  const shown = numbers.slice(0, most).map((x) => fmt(x, digits));
  return `[${shown.join(", ")}${count > most ? ", …" : ""}]`;
}
const written = (entry, numbers) => (isArray(entry) ? brief(numbers, entry.count) : empty(entry) ? "[]" : fmt(numbers));
