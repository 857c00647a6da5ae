// The current step in words and formulas.

const phase = $("#phase"),
  formula = $("#formula"),
  now = $("#now"),
  said = $("#said");

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
    h(
      "div",
      { class: "big" },
      `${data.name}(${entries
        .filter((e) => e.kind === "input")
        .slice(0, 8)
        .map((e) => e.name)
        .join(", ")})`,
    ),
    words(
      `The inputs stand at the beginning of the arena. Step forward to compute the rest${R ? "; then step on, back through the tape, for the gradient" : ""}.`,
    ),
  );
  return ["Before the start", "", `Inputs of ${data.name}. Step forward to compute.`];
}

function explainForward({ at }, moment) {
  const entry = entries[at],
    step = `step ${moment} of ${F}`;
  if (entry.kind === "fold") {
    formula.append(
      h("div", { class: "big" }, entry.name),
      words("Computed in one go. They are left out of this page, to keep it readable."),
    );
    return ["Forward sweep", step, `${entry.name}, left out, are computed.`];
  }
  if (entry.kind === "guard") {
    formula.append(
      h("div", { class: "big" }, entry.text),
      words("A guard: the function branched on this number. A replay that finds another takes another recording."),
    );
    return ["Forward sweep", step, `Guard: ${entry.text}.`];
  }
  formula.append(h("div", { class: "big" }, entry.name, " = ", minus(entry.text)));
  if (isArray(entry)) {
    formula.append(
      h("div", {}, h("span", { class: "shape" }, `${shapeOf(entry)}  `), v(brief(entry.value, entry.count, 6))),
      strip(entry, entry.value, true),
    );
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
    formula.append(
      h(
        "div",
        { class: "big" },
        `∂${entry.name} = `,
        h("b", { class: "a" }, isArray(entry) ? brief(seed.after, entry.count) : fmt(seed.after)),
      ),
    );
  }
  formula.append(
    words("The reverse sweep begins at the result: it grows as fast as itself. All other adjoints are 0."),
  );
  return ["Reverse sweep", "begins", `The adjoint of ${results.join(", ")} is 1.`];
}

function explainBack({ step, at }, moment) {
  const entry = entries[at],
    where = `step ${moment - F - 1} of ${R}, ${entry.kind === "fold" ? "what is left out" : `back through ${entry.name} = ${minus(entry.text)}`}`;
  if (entry.kind === "fold") {
    formula.append(
      h("div", { class: "big" }, entry.name),
      words(
        step.parts.length
          ? "Swept back in one go. This is what reaches the instructions shown:"
          : "Swept back in one go.",
      ),
    );
  }
  if (entry.kind !== "fold" && !step.parts.length)
    formula.append(words("It has read nothing that a gradient is wanted of, so nothing is passed on."));
  const chain = h("div", { class: "chain" }),
    spoken = [];
  // Concatenations, and what is left out, may have hundreds of operands.
  const most = 12,
    parts = step.parts.slice(0, most);
  parts.forEach((part, i) => {
    const isLast = !step.parts.slice(i + 1).some((other) => other.to === part.to);
    const [cells, text] = explainPart(part, entry, step, isLast);
    chain.append(...cells);
    spoken.push(text);
  });
  formula.append(chain);
  if (step.parts.length > most) formula.append(words(`and ${step.parts.length - most} more`));
  if (entry.kind !== "fold" && step.adjoint === 0 && step.parts.length)
    formula.append(words("Its adjoint is 0: the result does not depend on it here, so nothing is passed on."));
  return ["Reverse sweep", where, spoken.slice(0, 4).join(" ")];
}

// One contribution: ∂x += ∂z · dz/dx, in names, in numbers, and what stands there then.
function explainPart(part, entry, step, isLast) {
  const to = part.to === undefined ? null : entries[part.to],
    shown = to ? part.add : null;
  const flow = h("span", { class: "flow" }),
    say = (...text) => flow.append(h("span", { class: "piece" }, ...text), " ");
  const cells = [h("span", { class: "a" }, `∂${part.name}`), h("span", { class: "is" }, "+="), flow];
  if (entry.kind !== "fold") {
    const rule = part.rule === undefined ? `, taken back through ${entry.sign}` : ` · ${minus(part.rule)}`;
    say(`${part.sum ? "Σ " : ""}∂${entry.name}${rule}`);
  }
  let spoken;
  if (part.partial !== undefined) {
    const own = minus(part.rule_numbers ?? "");
    // A formula in numbers is worth showing where it is more than its number.
    if (/[^\d().e−∞]/.test(own))
      flow.append(h("span", { class: "piece spelled" }, `= ${bracketed(step.adjoint)} · ${own}`), " ");
    say("= ", `${bracketed(step.adjoint)} · ${bracketed(part.partial)}`);
    say("= ", h("b", { class: "a" }, fmt(part.amount)));
    spoken = `Adjoint of ${part.name} increases by ${fmt(step.adjoint)} times ${fmt(part.partial)}, that is ${fmt(part.amount)}`;
  } else {
    const numbers = (shown ?? []).filter?.((x) => x !== null) ?? [shown];
    const amount =
      part.amount !== undefined ? fmt(part.amount) : !to ? "…" : isArray(to) ? brief(numbers, to.count, 4) : fmt(shown);
    say(entry.kind === "fold" ? "" : "= ", h("b", { class: "a" }, amount));
    spoken = `Adjoint of ${part.name} increases by ${amount}`;
  }
  if (to && isArray(to)) flow.append(strip(to, shown, true));
  else if (to && isLast && part.after !== part.amount) {
    say(h("span", { class: "end" }, `so ∂${to.name} = ${fmt(part.after)}`));
    spoken += `, to ${fmt(part.after)}`;
  }
  return [cells, `${spoken}.`];
}

function explainEnd() {
  const found = inputs(),
    list = h("div", { class: "gradient" });
  for (const n of found.slice(0, 24)) {
    const entry = entries[n],
      adjoint = adjointAt(n, last);
    list.append(
      h(
        "span",
        { class: "big" },
        `∂${entry.name} = `,
        h("b", { class: "a" }, written(entry, adjoint)),
        isArray(entry) ? strip(entry, adjoint, true) : "",
      ),
    );
  }
  formula.append(list, words(`This is the gradient. One sweep each way, however many inputs there are.`));
  return [
    "Done",
    "",
    `The gradient: ${found
      .slice(0, 8)
      .map((n) => `${entries[n].name}: ${written(entries[n], adjointAt(n, last))}`)
      .join(", ")}.`,
  ];
}
