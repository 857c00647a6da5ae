"""The player's page in Chromium: stepping, keys, search, the user's lines, colours, widths; nothing is fetched."""

import itertools
import json
import struct

import numpy as np
import pytest
from browser import CHROMIUM, Browser

import tapegrad as tg

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def neuron(x1, x2, w1, w2, b):
    n = x1 * w1 + x2 * w2 + b
    n.label = "n"
    e = np.exp(2 * n)
    e.label = "e"
    return (e - 1) / (e + 1)


NEURON = (2.0, 0.5, -3.0, 1.0, 6.88)


def layer(w, b, x):
    h = np.tanh(x @ w + b)
    return np.mean((h[:, 0] - h[:, 1]) ** 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    tg.record(neuron, *NEURON).to_html(folder / "neuron.html")
    tg.record(layer, rng.normal(size=(3, 2)), np.zeros(2), rng.normal(size=(5, 3))).to_html(folder / "layer.html")

    def long(x):
        for _ in range(500):
            x = x * 0.9 + 0.1 * np.sin(x)
        return x

    tg.record(long, 2.0).to_html(folder / "long.html")

    def bad(x):
        y = np.log(x)
        y.label = "</script><img src=x onerror=alert(1)>"
        return y * 2.0 + 1.0 / (x - x)

    tg.record(bad, 1.0).to_html(folder / "bad.html", -1.0)
    tg.record(lambda x: 1.0, 2.0).to_html(folder / "constant.html")
    return folder


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser, folder):
    """A fresh page on a desktop, in the light."""
    browser.errors.clear()
    browser.requests.clear()
    browser.resize(1280, 800)
    browser.emulate(dark=False)
    browser.open(folder / "neuron.html")
    yield browser
    assert browser.errors == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "about:"))] == []


def moment(page):
    return page.run("tapePlayer.moment")


def text(page, selector):
    return page.run(f"document.querySelector({json.dumps(selector)}).textContent")


def test_every_step_forward_and_back(page):
    last = page.run("tapePlayer.last")
    assert last == 9 + 1 + 9 + 1
    seen = []
    for step in range(last + 1):
        assert moment(page) == step
        seen.append(text(page, "#formula"))
        filled = page.run("[...document.querySelectorAll('#listing tbody td.value')].filter(x => x.textContent).length")
        adjoints = page.run("[...document.querySelectorAll('#listing .adjoint')].filter(x => x.textContent).length")
        # Five inputs and two constants are there from the beginning; adjoints when the way back begins.
        assert filled == 7 + min(step, 9) and adjoints == (14 if step > 9 else 0)
        page.key("ArrowRight")
    assert seen[1] == "v7 = x1 * w1= 2 * (−3) = −6"
    assert seen[-2].startswith("∂x1+=∂v7 · w1 = 0.22392 · (−3) = −0.67177")
    gradient = tg.record(neuron, *NEURON).grad(*NEURON, argnums=(0, 1, 2, 3, 4))
    shown = page.run("tapePlayer.data.entries.slice(0, 5).map((_, n) => tapePlayer.adjointAt(n, tapePlayer.last))")
    assert shown == list(gradient)
    for name, slope in zip(("x1", "x2", "w1", "w2", "b"), gradient, strict=True):
        assert f"∂{name} = {slope:.5g}".replace("-", "−") in seen[-1]
    # And back again, the same at each step.
    for step in reversed(range(last)):
        page.key("ArrowLeft")
        assert moment(page) == step and text(page, "#formula") == seen[step]


def test_the_keyboard(page):
    page.key("End")
    assert moment(page) == 20
    page.key("Home")
    assert moment(page) == 0
    page.key("ArrowLeft")
    assert moment(page) == 0
    page.run("tapePlayer.set(6)")
    page.key("r")
    assert text(page, "#phase b") == "Reverse sweep" and "back through e" in text(page, "#phase")
    page.key("r")
    assert moment(page) == 6
    page.key("/")
    assert page.run("document.activeElement.id") == "query"
    # In the search field, letters are letters.
    page.key("d", text="d")
    assert page.run("document.querySelector('#query').value") == "d" and moment(page) == 6
    page.key("Escape")
    assert page.run("document.activeElement.id") != "query"
    page.key("?", text="?")
    assert page.run("document.querySelector('#about').open")
    page.key("ArrowRight")
    assert moment(page) == 6
    page.key("Escape")


def test_playing_and_pausing(page):
    page.run("document.querySelector('#speed').value = '5'")
    page.key(" ", code="Space", text=" ")
    assert page.run("document.querySelector('#play').getAttribute('aria-label')") == "Pause"
    wait(page, "tapePlayer.moment >= 2")
    page.click("#play")
    at = moment(page)
    assert page.run("document.querySelector('#play').getAttribute('aria-label')") == "Play"
    page.run("new Promise(done => setTimeout(done, 500))")
    assert moment(page) == at
    page.run("tapePlayer.set(18)")
    page.click("#play")
    wait(page, "tapePlayer.moment === 20 && document.querySelector('#play').getAttribute('aria-label') === 'Play'")


def wait(page, condition):
    page.run(
        "new Promise((done, fail) => { let n = 0; const look = () => "
        f"({condition}) ? done() : ++n > 300 ? fail(new Error('it never came')) : setTimeout(look, 50); look(); }})"
    )


def test_buttons_and_the_scrubber(page):
    for name, expected in (("next", 1), ("next", 2), ("back", 1), ("last", 20), ("first", 0)):
        page.click(f"[data-do={name}]")
        assert moment(page) == expected
    page.run(
        "(() => { const s = document.querySelector('#scrubber');"
        "s.value = 13; s.dispatchEvent(new Event('input')); })()"
    )
    assert moment(page) == 13 and text(page, "#count") == "13 / 20"
    assert "Adjoint of" in page.run("document.querySelector('#scrubber').getAttribute('aria-valuetext')")


def test_clicks_go_to_an_instruction_in_the_sweep_that_is_shown(page):
    page.click("#listing tbody tr:nth-child(11)")
    assert moment(page) == 4 and text(page, "#listing tr[aria-current=step] .name") == "n"
    page.run("tapePlayer.set(12)")
    page.click("#listing tbody tr:nth-child(11)")
    assert "back through n" in text(page, "#phase")
    page.run(
        "[...document.querySelectorAll('.canvas .node')].at(-1)"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
    )
    assert "back through v15" in text(page, "#phase")
    page.run("document.querySelector('#arena .cell').click()")
    assert moment(page) == 20


def ask(page, wanted):
    page.run(
        "(() => { const q = document.querySelector('#query'); q.focus();"
        f"q.value = {json.dumps(wanted)}; q.dispatchEvent(new Event('input')); }})()"
    )


def test_search(page):
    ask(page, "exp")
    assert text(page, "#matches").endswith("of 2")
    page.key("Enter", text="\r")
    first = moment(page)
    page.key("Enter", text="\r")
    # The line with np.exp has two instructions.
    assert [first, moment(page)] == [5, 6] and text(page, "#matches") == "2 of 2"
    ask(page, "zzz")
    assert text(page, "#matches") == "none"


def test_the_source(page):
    page.run("tapePlayer.set(6)")
    assert text(page, "#source .line.at-f button") == "    e = np.exp(2 * n)"
    page.run("[...document.querySelectorAll('#source button')].at(-1).click()")
    # (e - 1) / (e + 1): the first of three.
    assert moment(page) == 7 and "return" in text(page, "#source .line.at-f")
    page.run("tapePlayer.set(15)")
    page.run("[...document.querySelectorAll('#source button')].at(-1).click()")
    assert moment(page) == 11


def test_what_a_screen_reader_is_told(page):
    page.key("ArrowRight")
    assert text(page, "#said") == "Forward sweep. v7 = x1 * w1 = −6."
    assert page.run("document.querySelector('#said').getAttribute('aria-live')") == "polite"
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = ("button", "slider", "searchbox", "combobox", "dialog", "region", "table")
    shown = [n for n in nodes if not n.get("ignored") and n.get("role", {}).get("value") in named]
    unnamed = [n["role"]["value"] for n in shown if not n.get("name", {}).get("value")]
    assert unnamed == []
    roles = {n.get("role", {}).get("value") for n in nodes}
    assert {"heading", "slider", "table", "search", "main", "status"} <= roles
    # With Tab, the search comes first, then the buttons, then the views.
    order = []
    page.run("document.activeElement.blur()")
    for _ in range(14):
        page.key("Tab")
        named = "(e => e.id || e.dataset.do || e.getAttribute('aria-label') || e.className)(document.activeElement)"
        order.append(page.run(named))
    wanted = ["skip", "query", "theme", "help", "play", "scrubber", "speed", "The instructions"]
    at = [order.index(name) for name in wanted]
    assert at == sorted(at), order


def contrast(page, dark):
    """The least contrast of the texts that can be seen, with what it is."""
    page.emulate(dark=dark)
    return page.run("""(() => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      const rgba = (color) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
      const over = (top, under) => top.slice(0, 3).map((x, i) => x * top[3] + under[i] * (1 - top[3]));
      const linear = (x) => (x /= 255) <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
      const light = (c) => { const [r, g, b] = c.map(linear);
        return .2126 * r + .7152 * g + .0722 * b; };
      let worst = [99, ""];
      for (const e of document.querySelectorAll("body *")) {
        const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
        const box = e.getBoundingClientRect(), style = getComputedStyle(e);
        if (!own || !box.width || box.width < 2 || style.visibility === "hidden") continue;
        if (e.closest("dialog,noscript,script,style,:disabled,.hidden,.skip")) continue;
        const layers = []; const inSvg = e.closest(".canvas svg");
        const rect = inSvg && e.parentNode.querySelector("rect");
        if (rect) layers.push(rgba(getComputedStyle(rect).fill));
        for (let p = e; p; p = p.parentElement) layers.push(rgba(getComputedStyle(p).backgroundColor));
        let under = [255, 255, 255];
        for (const layer of layers.reverse()) under = over(layer, under);
        const front = over(rgba(inSvg ? style.fill : style.color), under);
        const [a, b] = [light(front), light(under)];
        const found = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        const what = `${e.tagName}.${e.className.baseVal ?? e.className}: ${e.textContent.slice(0, 30)}`;
        if (found < worst[0]) worst = [found, what];
      }
      return worst;
    })()""")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("step", [0, 6, 12, 20])
def test_contrast(page, dark, step):
    page.run(f"tapePlayer.set({step})")
    least, where = contrast(page, dark)
    assert least >= 4.5, where


def test_light_and_dark(page):
    ink = "getComputedStyle(document.body).backgroundColor"
    light = page.run(ink)
    page.emulate(dark=True)
    wait(page, f"{ink} !== {json.dumps(light)}")
    page.click("#theme")
    # Against the system's wish, and kept.
    assert page.run(ink) == light
    page.run("localStorage.removeItem('tapegrad-theme')")


@pytest.mark.parametrize("name", ["neuron", "layer", "long"])
@pytest.mark.parametrize("size", [(390, 844), (320, 640), (768, 1024), (1280, 800), (1920, 1080)])
def test_nothing_sticks_out(page, folder, name, size):
    page.resize(*size)
    page.open(folder / f"{name}.html")
    for step in (0, 3, "Math.round(tapePlayer.last * 0.7)", "tapePlayer.last"):
        page.run(f"tapePlayer.set({step})")
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), (step, size)
        # The buttons can be seen and reached.
        sides = "(b => [b.left, b.top, b.right, b.bottom])"
        box = page.run(f"{sides}(document.querySelector('#play').getBoundingClientRect())")
        assert box[0] >= 0 and box[2] <= size[0] and box[3] <= size[1] + 1


def test_one_view_at_a_time_on_a_phone(page, folder):
    page.resize(390, 844)
    page.open(folder / "layer.html")
    visible = "[...document.querySelectorAll('.pane')].filter(x => x.offsetHeight > 100).map(x => x.id)"
    assert page.run(visible) == ["listing"]
    for name in ("graph", "source", "arena"):
        page.click(f"#tab-{name}")
        assert page.run(visible) == [name]
    page.key("ArrowLeft")
    assert page.run(visible) == ["source"] and moment(page) == 0


def test_arrays(page, folder):
    page.open(folder / "layer.html", "step=7")
    assert page.run("document.querySelectorAll('#arena .cell.wide .strip').length") > 5
    page.run("document.querySelector('#arena details').open = true")
    wait(page, "document.querySelector('#arena details pre').textContent.includes('0.12573')")
    page.run("tapePlayer.set(tapePlayer.last)")
    assert "∂w = [" in text(page, "#formula") and page.run("document.querySelectorAll('#formula .strip i').length") > 10


def test_long_tapes_say_what_is_left_out(page, folder):
    page.open(folder / "long.html")
    assert "instructions in the middle are left out" in text(page, "#notes")
    page.run("tapePlayer.set(101)")
    assert "1,800 instructions" in text(page, "#formula")
    page.run(
        "tapePlayer.set(tapePlayer.data.forward.length + 2 + "
        "tapePlayer.data.reverse.findIndex(step => step.adjoint === null))"
    )
    assert "Swept back in one go" in text(page, "#formula")


def test_the_tape_opens_where_computing_begins(page, folder):
    def many(x):
        return sum(x * k for k in range(2, 60))

    tg.record(many, 2.0).to_html(folder / "many.html")
    page.open(folder / "many.html")
    first = page.run("tapePlayer.data.entries.findIndex(entry => entry.text !== undefined)")
    box = "(e => (b => [b.top, b.bottom])(e.getBoundingClientRect()))"
    top, bottom = page.run(f"{box}(document.querySelector('#listing .scroll'))")
    row = page.run(f"{box}(document.querySelectorAll('#listing tbody tr')[{first}])")
    assert first > 0 and top <= row[0] and row[1] <= bottom


def test_numbers_that_are_not_finite_and_hostile_labels(page, folder):
    page.open(folder / "bad.html")
    page.key("End")
    assert "NaN" in text(page, "#listing tbody") and "onerror" in text(page, "#listing tbody")
    assert page.run("document.querySelectorAll('img').length") == 0
    page.key("Home")
    for _ in range(page.run("tapePlayer.last")):
        page.key("ArrowRight")
    page.open(folder / "constant.html")
    page.key("End")
    assert "no reverse sweep" in text(page, "#notes")


def test_a_place_in_the_address(page, folder):
    page.open(folder / "neuron.html", "step=12")
    assert moment(page) == 12
    page.key("ArrowRight")
    wait(page, "location.hash === '#step=13'")


def test_screenshots_show_something(page, tmp_path):
    """Pictures of both sweeps, wide and narrow, light and dark: of the right size, and each another."""
    seen = set()
    for (width, height), dark, step in itertools.product([(1280, 800), (390, 844)], [False, True], [6, 14]):
        page.resize(width, height)
        page.emulate(dark=dark)
        page.run(f"tapePlayer.set({step})")
        picture = tmp_path / f"{width}-{dark}-{step}.png"
        page.screenshot(picture)
        found = picture.read_bytes()
        assert struct.unpack(">II", found[16:24]) == (width, height) and len(found) > 15_000
        seen.add(found)
    assert len(seen) == 8
