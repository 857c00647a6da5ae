// The player: which moment it is, and everything by which it is changed.

const scrubber = $("#scrubber"),
  playButton = $("#play"),
  speed = $("#speed"),
  query = $("#query");

const player = {
  moment: 0,
  timer: null,
  set(moment, speak = true) {
    this.moment = Math.min(Math.max(moment, 0), last);
    this.draw();
    if (speak) said.textContent = this.spoken;
    clearTimeout(this.kept);
    // Browsers allow few changes of the address in a short time.
    this.kept = setTimeout(() => {
      try {
        history.replaceState(null, "", `#step=${this.moment}`);
      } catch {
        /* an address that cannot be changed */
      }
    }, 300);
  },
  draw() {
    this.spoken = explain(this.moment);
    drawViews(this.moment);
    drawGraph(this.moment);
    const sweep = happening(this.moment).sweep;
    scrubber.value = this.moment;
    scrubber.setAttribute("aria-valuetext", this.spoken);
    scrubber.style.setProperty("--thumb", sweep ? `var(--${sweep === "forward" ? "value" : "adjoint"})` : "var(--ink)");
    $("#count").textContent = `${this.moment} / ${last}`;
    $("[data-do=back]").disabled = $("[data-do=first]").disabled = this.moment === 0;
  },
  goTo(n) {
    // To an entry, in the sweep that is shown; inputs are at the beginning and at the end.
    const { forward, back } = when[n];
    this.pause();
    if (entries[n].text === undefined) this.set(this.moment > F ? last : 0);
    else this.set(this.moment > F && back !== null ? back : forward);
  },
  play() {
    if (this.moment === last) this.set(0);
    $("path", playButton).setAttribute("d", "M3 2.5h3.5v11H3zM9.5 2.5H13v11H9.5z");
    playButton.setAttribute("aria-label", "Pause");
    const tick = () => {
      this.set(this.moment + 1);
      if (this.moment === last) this.pause();
      else this.timer = setTimeout(tick, 1100 / Number(speed.value));
    };
    this.timer = setTimeout(tick, 150);
  },
  pause() {
    clearTimeout(this.timer);
    this.timer = null;
    $("path", playButton).setAttribute("d", "M4 2.5v11L13.5 8z");
    playButton.setAttribute("aria-label", "Play");
  },
  toggle() {
    if (this.timer === null) this.play();
    else this.pause();
  },
  other() {
    const { at } = happening(this.moment);
    if (at !== null && when[at].back !== null) this.set(this.moment > F ? when[at].forward : when[at].back);
  },
};

const doings = {
  first: () => player.set(0),
  back: () => player.set(player.moment - 1),
  play: () => player.toggle(),
  next: () => player.set(player.moment + 1),
  last: () => player.set(last),
};
document.querySelectorAll("[data-do]").forEach((button) =>
  button.addEventListener("click", () => {
    if (button.dataset.do !== "play") player.pause();
    doings[button.dataset.do]();
  }),
);
scrubber.addEventListener("input", () => {
  player.pause();
  player.set(Number(scrubber.value));
});

// Light and dark: as the system has it, until somebody chooses

const prefers = matchMedia("(prefers-color-scheme: dark)");
const stored = {
  get() {
    try {
      return localStorage.getItem("tapegrad-theme");
    } catch {
      return null;
    }
  },
  set(x) {
    try {
      localStorage.setItem("tapegrad-theme", x);
    } catch {
      /* not kept */
    }
  },
};
let theme = stored.get() ?? "system";
function paint() {
  document.documentElement.toggleAttribute("data-dark", theme === "dark" || (theme === "system" && prefers.matches));
  $("#theme").textContent = { system: "◐", light: "☀\ufe0e", dark: "☾\ufe0e" }[theme];
  $("#theme").setAttribute("aria-label", `Colours: ${theme === "system" ? "as the system has them" : theme}. Change`);
}
function nextTheme() {
  theme = {
    system: prefers.matches ? "light" : "dark",
    light: prefers.matches ? "dark" : "system",
    dark: prefers.matches ? "system" : "light",
  }[theme];
  stored.set(theme);
  paint();
}
prefers.addEventListener("change", paint);
$("#theme").addEventListener("click", nextTheme);

// Search

let matches = [],
  match = -1;
const haystack = entries.map((entry) =>
  [
    entry.name,
    entry.text ?? "",
    entry.sign ?? "",
    entry.kind,
    String(entry.row),
    entry.line ? (data.files[entry.line[0]].lines.find(([n]) => n === entry.line[1]) ?? ["", ""])[1] : "",
  ]
    .join(" \u0000 ")
    .toLowerCase(),
);
function search(step) {
  const wanted = query.value.trim().toLowerCase();
  if (!step) {
    matches = wanted ? haystack.flatMap((text, n) => (text.includes(wanted) ? [n] : [])) : [];
    match = -1;
    rows.forEach(({ row }, n) => row.classList.toggle("match", matches.includes(n)));
  } else if (matches.length) {
    match = (match + step + matches.length) % matches.length;
    player.goTo(matches[match]);
    scrollTo($("#listing .scroll"), rows[matches[match]].row);
  }
  $("#matches").textContent = !wanted ? "" : matches.length ? `${match + 1 || "–"} of ${matches.length}` : "none";
}
query.addEventListener("input", () => search(0));
$("#search").addEventListener("submit", (event) => {
  event.preventDefault();
  search(1);
});

// Keys

document.addEventListener("keydown", (event) => {
  const about = $("#about"),
    own = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || about.open) return;
  if (own === query) {
    if (event.key === "Escape") {
      query.value = "";
      search(0);
      query.blur();
    } else if (event.key === "Enter" && event.shiftKey) {
      event.preventDefault();
      search(-1);
    }
    return;
  }
  if (own instanceof HTMLSelectElement || own.closest?.("[role=tablist]")) return;
  const isButton = own instanceof HTMLButtonElement || own.tagName === "SUMMARY";
  const doing = { ArrowRight: "next", ArrowLeft: "back", Home: "first", End: "last", " ": "play" }[event.key];
  if (doing && !(event.key === " " && isButton)) {
    event.preventDefault();
    if (doing !== "play") player.pause();
    doings[doing]();
  } else if (event.key === "/") {
    event.preventDefault();
    query.focus();
    query.select();
  } else if (event.key === "r") {
    player.pause();
    player.other();
  } else if (event.key === "d") nextTheme();
  else if (event.key === "?") about.showModal();
});
$("#help").addEventListener("click", () => $("#about").showModal());

// On a narrow screen one view at a time

function buildTabs() {
  const list = $(".tabs"),
    panes = [...document.querySelectorAll(".pane")];
  const choose = (pane, focus) => {
    for (const other of panes) {
      other.classList.toggle("chosen", other === pane);
      const tab = $(`#tab-${other.id}`);
      tab.setAttribute("aria-selected", String(other === pane));
      tab.tabIndex = other === pane ? 0 : -1;
      if (focus && other === pane) tab.focus();
    }
    player.draw();
  };
  panes.forEach((pane, i) => {
    const tab = h(
      "button",
      { type: "button", role: "tab", id: `tab-${pane.id}`, "aria-controls": pane.id, onclick: () => choose(pane) },
      $("h2", pane).textContent,
    );
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) {
        event.preventDefault();
        choose(panes[(i + step + panes.length) % panes.length], true);
      }
    });
    list.append(tab);
  });
  return (id) => choose(panes.find((pane) => pane.id === id) ?? panes[0]);
}

// Begin

$("#title").textContent = data.name;
$("#facts").textContent =
  `${data.instructions.toLocaleString("en")} instructions, ${data.slots.toLocaleString("en")} slots, ${data.dtype}, ${data.returns}`;
$("#notes").append(...data.notes.map((note) => h("p", {}, note)));
scrubber.max = last;
const split = R ? (100 * (F + 0.5)) / last : 100;
scrubber.style.setProperty(
  "--track",
  `linear-gradient(to right, var(--value-line) ${split}%, var(--adjoint-line) ${split}%)`,
);
$(".sweeps .f").style.width = `${split}%`;
if (!R) $(".sweeps .r").remove();
paint();
buildListing();
buildArena();
buildSource();
buildGraph();
const asked = new URLSearchParams(location.hash.slice(1));
if (asked.has("theme")) {
  theme = asked.get("theme");
  paint();
}
const choosePane = buildTabs();
player.moment = Math.min(Math.max(Number(asked.get("step")) || 0, 0), last);
choosePane(asked.get("view") ?? "listing");
addEventListener("resize", () => player.draw());
addEventListener("hashchange", () => {
  const step = new URLSearchParams(location.hash.slice(1)).get("step");
  if (step !== null && Number(step) !== player.moment) player.set(Number(step) || 0);
});
window.tapePlayer = {
  data,
  last,
  get moment() {
    return player.moment;
  },
  set: (moment) => player.set(moment),
  adjointAt,
  valueAt,
  explain: () => player.spoken,
};
