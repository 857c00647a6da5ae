// The current step in words and formulas.

const phase = $("#phase"), formula = $("#formula"), now = $("#now"), said = $("#said");

function explain(moment) {
  const what = happening(moment);
  now.dataset.sweep = what.sweep;
  formula.replaceChildren();
  const show = { start: explainStart, forward: explainForward, seed: explainSeed, back: explainBack, end: explainEnd };
  const [title, rest, words] = show[what.kind](what, moment);
  phase.replaceChildren(h("b", {}, title), rest ? ` — ${rest}` : "");
  return `${title}. ${words}`;
}

const words = (text) => h("p", { class: "words" }, text);
const v = (text) => h("span", { class: "v" }, text);
const a = (text) => h("span", { class: "a" }, text);

function explainStart() {
  formula.append(
    h("div", { class: "big" }, `${data.name}(${entries.filter((e) => e.kind === "input").slice(0, 8).map((e) => e.name).join(", ")})`),
    words(`The inputs stand at the beginning of the arena. Step forward to compute the rest${R ? "; then step on, back through the tape, for the gradient" : ""}.`));
  return ["Before the start", "", `Inputs of ${data.name}. Step forward to compute.`];
}

function explainForward({ at }, moment) {
  const entry = entries[at], step = `step ${moment} of ${F}`;
  if (entry.kind === "fold") {
    formula.append(h("div", { class: "big" }, entry.name), words("Computed in one go. They are left out of this page, to keep it readable."));
    return ["Forward sweep", step, `${entry.name}, left out, are computed.`];
  }
  if (entry.kind === "guard") {
    formula.append(h("div", { class: "big" }, entry.text),
      words("A guard: the function branched on this number. A replay that finds another takes another recording."));
    return ["Forward sweep", step, `Guard: ${entry.text}.`];
  }
  formula.append(h("div", { class: "big" }, entry.name, " = ", minus(entry.text)));
  if (isArray(entry)) {
    formula.append(h("div", {}, h("span", { class: "shape" }, `${shapeOf(entry)}  `), v(brief(entry.value, entry.count, 6))), strip(entry, entry.value));
  } else if (entry.numbers !== undefined) {
    formula.append(h("div", {}, "= ", v(minus(entry.numbers)), " = ", h("b", { class: "v" }, fmt(entry.value))));
  } else {
    formula.append(h("div", {}, "= ", h("b", { class: "v" }, written(entry, entry.value))));
  }
  return ["Forward sweep", step, `${entry.name} = ${entry.text} = ${written(entry, entry.value)}.`];
}

function explainSeed() {
  const results = data.seeds.map((seed) => entries[seed.to].name);
  for (const seed of data.seeds) {
    const entry = entries[seed.to];
    formula.append(h("div", { class: "big" }, `∂${entry.name} = `, h("b", { class: "a" }, isArray(entry) ? brief(seed.after, entry.count) : fmt(seed.after))));
  }
  formula.append(words("The reverse sweep begins at the result: it grows as fast as itself. All other adjoints are 0."));
  return ["Reverse sweep", "begins", `The adjoint of ${results.join(", ")} is 1.`];
}

function explainBack({ step, at }, moment) {
  const entry = entries[at], where = `step ${moment - F - 1} of ${R}, ${entry.kind === "fold" ? "what is left out" : `back through ${entry.name} = ${minus(entry.text)}`}`;
  if (entry.kind === "fold") {
    formula.append(h("div", { class: "big" }, entry.name),
      words(step.parts.length ? "Swept back in one go. This is what reaches the instructions shown:" : "Swept back in one go."));
  }
  if (entry.kind !== "fold" && !step.parts.length) formula.append(words("It has read nothing that a gradient is wanted of, so nothing is passed on."));
  const chain = h("div", { class: "chain" }), spoken = [];
  for (const part of step.parts) {
    const [cells, text] = explainPart(part, entry, step, moment);
    chain.append(...cells);
    spoken.push(text);
  }
  formula.append(chain);
  if (entry.kind !== "fold" && step.adjoint === 0 && step.parts.length) formula.append(words("Its adjoint is 0: the result does not depend on it here, so nothing is passed on."));
  return ["Reverse sweep", where, spoken.join(" ")];
}

// One contribution: ∂x += ∂z · dz/dx, in names, in numbers, and what stands there then.
function explainPart(part, entry, step, moment) {
  const to = part.to === undefined ? null : entries[part.to], single = part.amount !== undefined;
  const summed = part.sum ? "Σ " : "";
  const factor = part.rule === undefined ? (entry.kind === "fold" ? "" : ` through ${entry.sign}`) : ` · ${minus(part.rule)}`;
  const left = entry.kind === "fold" ? "…" : `${summed}∂${entry.name}`;
  const cells = [h("span", { class: "a" }, `∂${part.name}`), h("span", { class: "is" }, "+="), h("span", { class: "symbolic" }, left + factor)];
  if (part.partial !== undefined) {
    const factors = `${bracketed(step.adjoint)} · ${bracketed(part.partial)}`;
    cells.push(h("span", { class: "numeric" }, h("span", { class: "is eq" }, ""), factors), h("span", { class: "result" }, "= ", h("b", { class: "a" }, fmt(part.amount))));
    return [cells, `Adjoint of ${part.name} increases by ${fmt(step.adjoint)} times ${fmt(part.partial)}, which is ${fmt(part.amount)}${to ? `, to ${written(to, part.after)}` : ""}.`];
  }
  const amount = single ? fmt(part.amount) : to ? brief(part.add.filter((x) => x !== null), to.count, 4) : "…";
  cells.push(h("span", { class: "numeric" }, ""), h("span", { class: "result" }, "= ", h("b", { class: "a" }, amount)));
  if (to && isArray(to)) cells.push(strip(to, part.add));
  return [cells, `Adjoint of ${part.name} increases by ${amount}.`];
}

function explainEnd() {
  const found = inputs(), list = h("div", { class: "gradient" });
  for (const n of found.slice(0, 24)) {
    const entry = entries[n], adjoint = adjointAt(n, last);
    list.append(h("span", { class: "big" }, `∂${entry.name} = `, h("b", { class: "a" }, written(entry, adjoint)), isArray(entry) ? strip(entry, adjoint) : ""));
  }
  formula.append(list, words(`This is the gradient. One sweep each way, however many inputs there are.`));
  return ["Done", "", `The gradient: ${found.slice(0, 8).map((n) => `${entries[n].name}: ${written(entries[n], adjointAt(n, last))}`).join(", ")}.`];
}
