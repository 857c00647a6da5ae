// The tape as a table, the arena as cells, and the user's source.

const rows = [],
  cells = [],
  lines = new Map();

function nameAndText(entry) {
  const parts = [h("span", { class: "name" }, entry.kind === "fold" ? "…" : entry.name)];
  if (entry.kind === "input") parts.push(h("span", { class: "text" }, "  input"));
  else if (entry.kind === "constant") parts.push(h("span", { class: "text" }, "  constant"));
  else if (entry.kind === "fold") parts.push(h("span", { class: "text" }, `  ${entry.text}`));
  else if (entry.kind === "guard") parts.splice(0, 1, h("span", { class: "text" }, entry.text));
  else parts.push(h("span", { class: "text" }, ` = ${minus(entry.text)}`));
  if (isArray(entry)) parts.push(h("span", { class: "shape" }, `  ${shapeOf(entry)}`));
  return parts;
}

function buildListing() {
  const body = $("#listing tbody");
  entries.forEach((entry, n) => {
    const go = () => player.goTo(n);
    const row = h(
      "tr",
      { class: `${entry.kind} ${entry.text === undefined ? "leaf" : ""}` },
      h(
        "td",
        {},
        h(
          "button",
          { type: "button", "aria-label": `Go to instruction ${entry.row}, ${entry.name}` },
          String(entry.row),
        ),
      ),
      h("td", {}, ...nameAndText(entry)),
      h("td", { class: "n value" }),
      h("td", { class: "n adjoint" }),
    );
    row.addEventListener("click", go);
    body.append(row);
    rows.push({ row, value: row.children[2], adjoint: row.children[3] });
  });
}

function buildArena() {
  const grid = $("#arena .cells");
  entries.forEach((entry, n) => {
    if (entry.kind === "fold") {
      grid.append(h("div", { class: "cell wide still" }, h("span", { class: "slot" }, `slots of ${entry.text}`)));
      cells.push(null);
      return;
    }
    if (entry.kind === "guard" || empty(entry)) {
      cells.push(null);
      return;
    }
    const array = isArray(entry);
    const slot = array ? `${entry.slot}–${entry.slot + entry.count - 1}` : String(entry.slot);
    const cell = h(
      "div",
      { class: `cell${array ? " wide" : ""}${entry.active ? "" : " still"}` },
      h(
        "span",
        { class: "slot" },
        h("span", {}, slot),
        h(
          "b",
          {},
          array
            ? `${entry.label ? entry.name : ""} ${shapeOf(entry)}`
            : entry.label
              ? entry.name
              : entry.kind === "constant"
                ? "constant"
                : "",
        ),
      ),
      h("span", { class: "value" }),
      h("span", { class: "adjoint" }),
    );
    let numbers = null;
    if (array) {
      numbers = h("details", {}, h("summary", {}, "numbers"), h("pre", { tabindex: "0" }));
      numbers.addEventListener("click", (event) => event.stopPropagation());
      numbers.addEventListener("toggle", () => player.draw());
      cell.append(numbers);
    }
    cell.addEventListener("click", () => player.goTo(n));
    grid.append(cell);
    cells.push({ cell, value: cell.children[1], adjoint: cell.children[2], numbers });
  });
}

function buildSource() {
  const pane = $("#source .scroll");
  if (!data.files.length) {
    $("#source").remove();
    return;
  }
  data.files.forEach((file, f) => {
    pane.append(h("div", { class: "file" }, file.name));
    let before = null;
    for (const [number, text] of file.lines) {
      if (before !== null && number > before + 1) pane.append(h("div", { class: "gap", "aria-hidden": "true" }, "⋮"));
      before = number;
      const own = entries.flatMap((entry, n) =>
        entry.line && entry.line[0] === f && entry.line[1] === number ? [n] : [],
      );
      const line = h(
        "div",
        { class: own.length ? "line" : "line bare" },
        h("span", {}, String(number)),
        own.length
          ? h(
              "button",
              {
                type: "button",
                title: "Go to the first instruction of this line",
                onclick: () => player.goTo(player.moment > F ? own[own.length - 1] : own[0]),
              },
              text || " ",
            )
          : h("span", {}, text || " "),
      );
      pane.append(line);
      lines.set(`${f}:${number}`, line);
    }
  });
}

function scrollTo(box, element) {
  // Scrolls the pane alone; the page stays where it is.
  if (!element || !box.clientHeight) return;
  const top = element.getBoundingClientRect().top - box.getBoundingClientRect().top,
    high = element.offsetHeight;
  if (top < 30) box.scrollTop += top - 60;
  else if (top + high > box.clientHeight - 10) box.scrollTop += top + high - box.clientHeight + 60;
}

function table(entry, numbers) {
  const columns = entry.shape.length > 1 ? entry.shape[entry.shape.length - 1] : 6,
    out = [];
  for (let i = 0; i < numbers.length; i += columns)
    out.push(
      numbers
        .slice(i, i + columns)
        .map((x) => fmt(x, 5).padStart(9))
        .join(" "),
    );
  return out.join("\n") + (entry.count > numbers.length ? "\n…" : "");
}

function drawViews(moment) {
  const what = happening(moment),
    sweep = what.sweep === "reverse" ? "r" : "f";
  const reads = new Set(what.kind === "forward" ? what.reads : []),
    hits = new Set(what.hits);
  entries.forEach((entry, n) => {
    const value = valueAt(n, moment),
      adjoint = adjointAt(n, moment),
      { row } = rows[n];
    const waiting = entry.text !== undefined && moment < when[n].forward;
    row.classList.toggle("waiting", waiting);
    for (const [name, on] of [
      ["at-f", what.at === n && sweep === "f"],
      ["at-r", what.at === n && sweep === "r"],
      ["read-f", reads.has(n)],
      ["read-r", sweep === "r" && hits.has(n) && what.kind !== "end"],
    ])
      row.classList.toggle(name, on);
    if (what.at === n) row.setAttribute("aria-current", "step");
    else row.removeAttribute("aria-current");
    const known = value !== null && entry.kind !== "guard" && entry.kind !== "fold";
    rows[n].value.textContent = known ? (isArray(entry) ? brief(value, entry.count, 1) : written(entry, value)) : "";
    rows[n].value.title = known && !isArray(entry) ? exact(value) : "";
    rows[n].adjoint.textContent =
      adjoint === undefined || adjoint === null || empty(entry)
        ? ""
        : isArray(entry)
          ? brief(adjoint, entry.count, 1)
          : fmt(adjoint);
    rows[n].adjoint.title = typeof adjoint === "number" ? exact(adjoint) : "";
    const cell = cells[n];
    if (!cell) return;
    cell.cell.className = cell.cell.className.replace(/ (hit|from)[-\w]*/g, "");
    if (hits.has(n)) cell.cell.classList.add(sweep === "r" ? "hit-r" : "hit-f");
    else if (reads.has(n)) cell.cell.classList.add("from");
    else if (what.kind === "back" && what.at === n) cell.cell.classList.add("from-r");
    if (isArray(entry)) {
      cell.value.replaceChildren(known ? strip(entry, value) : "·");
      cell.adjoint.replaceChildren(adjoint ? strip(entry, adjoint) : "·");
      if (cell.numbers.open)
        $("pre", cell.numbers).textContent =
          (known ? table(entry, value) : "") + (adjoint ? `\n\n∂\n${table(entry, adjoint)}` : "");
    } else {
      cell.value.textContent = known ? fmt(value) : "·";
      cell.value.title = known ? exact(value) : "";
      cell.adjoint.textContent = adjoint === null || adjoint === undefined ? "·" : fmt(adjoint);
    }
  });
  const focus = what.at ?? what.hits[0];
  // Before the start, what will be computed first: hundreds of constants may stand before it.
  const begins = moment === 0 ? entries.findIndex((entry) => entry.text !== undefined) : -1;
  scrollTo($("#listing .scroll"), rows[begins >= 0 ? begins : focus]?.row);
  scrollTo($("#arena .scroll"), cells[what.kind === "back" ? (what.hits[0] ?? focus) : focus]?.cell);
  const at = what.at === null ? null : entries[what.at].line;
  for (const line of lines.values()) line.classList.remove("at-f", "at-r");
  const line = at && lines.get(`${at[0]}:${at[1]}`);
  if (line) {
    line.classList.add(`at-${sweep}`);
    scrollTo($("#source .scroll"), line);
  }
}
