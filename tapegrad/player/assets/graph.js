// The graph: laid out when the page was written, in both directions; the one that fits the room better is shown.

const canvas = $("#graph .canvas"),
  nodes = [];
let edges = [],
  view = null,
  chosen = null,
  drawing = null,
  zoomed = null;

function buildGraph() {
  if (!data.graph) return;
  chosen = better();
  const graph = data.graph[chosen];
  canvas.replaceChildren();
  nodes.length = 0;
  drawing = h("svg", { svg: true, "aria-hidden": "true", preserveAspectRatio: "xMidYMid meet" });
  edges = graph.edges.map(([from, to, d]) => {
    const path = h("path", { svg: true, class: "edge", d });
    drawing.append(path);
    return { from, to, path };
  });
  data.graph.nodes.forEach((n, i) => {
    const entry = entries[n],
      [x, y] = graph.at[i],
      [w, high] = data.graph.sizes[i];
    const group = h(
      "g",
      {
        svg: true,
        class: `node ${entry.text === undefined ? "leaf" : ""}`,
        transform: `translate(${x - w / 2} ${y - high / 2})`,
      },
      h("rect", { svg: true, class: "box", width: w, height: high, rx: 8 }),
      h("title", { svg: true }, `${entry.name}${entry.text ? ` = ${entry.text}` : ""}`),
    );
    const text = (name, tx, ty, content) => {
      const t = h("text", { svg: true, class: name, x: tx, y: ty }, content);
      group.append(t);
      return t;
    };
    text("name", 9, 17, cut(entry.name, w, entry.sign));
    if (entry.sign) text("sign", w - 9, 17, entry.sign);
    group.append(h("path", { svg: true, class: "rule", d: `M0 24H${w}` }));
    const value = text("value", 9, 39, ""),
      adjoint = text("adjoint", 9, 54, "");
    group.addEventListener("click", () => {
      if (!moved) player.goTo(n);
    });
    drawing.append(group);
    nodes.push({ n, group, value, adjoint, x, y });
  });
  canvas.append(drawing);
  view = null;
}

const cut = (name, w, sign) => {
  const most = Math.floor((w - 18 - (sign ? sign.length * 7.3 + 8 : 0)) / 7.3);
  return name.length > most ? `${name.slice(0, Math.max(1, most - 1))}…` : name;
};
const room = () => [canvas.clientWidth || 560, canvas.clientHeight || 400];
function scaleOf(name) {
  const [w, high] = room(),
    graph = data.graph[name];
  return Math.min(w / (graph.width + 32), high / (graph.height + 32));
}
const better = () => (scaleOf("LR") >= scaleOf("TB") ? "LR" : "TB");

function frame(focus) {
  // All of it where that can be read; else the part around the current instruction.
  const graph = data.graph[chosen],
    [w, high] = room();
  const scale = zoomed ?? Math.min(1.35, Math.max(scaleOf(chosen), 0.82));
  const wide = w / scale,
    tall = high / scale;
  if (view === null) view = [graph.width / 2, graph.height / 2];
  if (focus) {
    for (const axis of [0, 1]) {
      const size = axis ? tall : wide,
        at = focus[axis],
        margin = Math.min(size * 0.32, 180);
      view[axis] = Math.min(Math.max(view[axis], at + margin - size / 2), at - margin + size / 2);
    }
  }
  for (const axis of [0, 1]) {
    const size = axis ? tall : wide,
      whole = (axis ? graph.height : graph.width) + 32;
    if (whole <= size) view[axis] = whole / 2 - 16;
    else view[axis] = Math.min(Math.max(view[axis], size / 2 - 16), whole - 16 - size / 2);
  }
  drawing.setAttribute("viewBox", `${view[0] - wide / 2} ${view[1] - tall / 2} ${wide} ${tall}`);
}

function drawGraph(moment, follow = true) {
  if (!data.graph) return;
  if (zoomed === null && better() !== chosen) buildGraph();
  const what = happening(moment),
    sweep = what.sweep === "reverse" ? "r" : "f";
  const reads = new Set(what.kind === "forward" ? what.reads : []),
    hits = new Set(what.hits);
  let focus = null;
  for (const { n, group, value, adjoint, x, y } of nodes) {
    const entry = entries[n],
      own = valueAt(n, moment),
      back = adjointAt(n, moment),
      at = what.at === n;
    group.classList.toggle("waiting", entry.text !== undefined && moment < when[n].forward);
    group.classList.toggle("at-f", at && sweep === "f");
    group.classList.toggle("at-r", (at && sweep === "r") || (what.kind === "seed" && hits.has(n)));
    group.classList.toggle("hit-r", sweep === "r" && hits.has(n));
    group.classList.toggle("from", reads.has(n));
    if (at || (what.at === null && hits.has(n) && !focus)) focus = [x, y];
    value.textContent = own === null ? "" : isArray(entry) ? shapeOf(entry) : entry.kind === "fold" ? "" : fmt(own, 5);
    adjoint.textContent =
      back === null || back === undefined
        ? ""
        : isArray(entry)
          ? `∂ ${brief(back, entry.count, 1, 2)}`
          : `∂ ${fmt(back, 4)}`;
  }
  for (const { from, to, path } of edges) {
    path.classList.toggle("f", what.kind === "forward" && to === what.at);
    path.classList.toggle("r", what.kind === "back" && to === what.at && hits.has(from));
  }
  for (const { path } of edges.filter((e) => e.path.classList.contains("f") || e.path.classList.contains("r")))
    drawing.insertBefore(path, nodes[0]?.group ?? null);
  frame(follow ? focus : null);
}

// Dragging and zooming

let held = null,
  moved = false;
canvas.addEventListener("pointerdown", (event) => {
  held = [event.clientX, event.clientY];
  moved = false;
});
canvas.addEventListener("pointermove", (event) => {
  if (!held || !drawing) return;
  const dx = event.clientX - held[0],
    dy = event.clientY - held[1];
  if (!moved && Math.hypot(dx, dy) < 5) return;
  if (!moved) canvas.setPointerCapture(event.pointerId);
  moved = true;
  const scale = room()[0] / drawing.viewBox.baseVal.width;
  view[0] -= dx / scale;
  view[1] -= dy / scale;
  held = [event.clientX, event.clientY];
  frame(null);
});
for (const name of ["pointerup", "pointercancel"])
  canvas.addEventListener(name, () => {
    held = null;
  });
document.querySelectorAll("[data-zoom]").forEach((button) =>
  button.addEventListener("click", () => {
    const current = room()[0] / drawing.viewBox.baseVal.width;
    zoomed =
      button.dataset.zoom === "fit"
        ? scaleOf(chosen)
        : Math.min(3, Math.max(0.1, current * (button.dataset.zoom === "in" ? 1.3 : 1 / 1.3)));
    frame(null);
  }),
);
