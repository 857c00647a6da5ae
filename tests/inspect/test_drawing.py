"""Pictures by our own layout: nothing overlaps, arrows join boxes, labels survive, large tapes stay small."""

import itertools
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value, nn
from tapegrad.errors import GraphError
from tapegrad.inspect import draw
from tapegrad.inspect.fold import folded, nearest
from tapegrad.inspect.layered import layered, path
from tapegrad.inspect.vector import _Cell, width

SVG = "{http://www.w3.org/2000/svg}"
DIRECTIONS = ["LR", "RL", "TB", "BT"]


def texts(svg):
    """What is written in a picture, which must be well-formed."""
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")]


def random_graph(rng, count):
    edges = {(int(rng.integers(max(0, b - 12), b)), b) for b in range(1, count) for _ in range(2)}
    sizes = [(float(w), float(h)) for w, h in rng.uniform(10, 90, (count, 2))]
    return sizes, sorted(edges)


# ---- the layout --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_boxes_do_not_overlap_and_arrows_run_one_way(direction, seed):
    sizes, edges = random_graph(np.random.default_rng(seed), 60)
    placed = layered(sizes, edges, direction)
    for i, ((x, y), (w, h)) in enumerate(zip(placed.centres, sizes, strict=True)):
        assert w / 2 - 1e-6 <= x <= placed.width - w / 2 + 1e-6 and h / 2 - 1e-6 <= y <= placed.height - h / 2 + 1e-6
        for (u, v), (p, q) in zip(placed.centres[:i], sizes[:i], strict=True):
            assert abs(x - u) >= (w + p) / 2 - 1e-6 or abs(y - v) >= (h + q) / 2 - 1e-6
    axis, sign = (0, 1) if direction in ("LR", "RL") else (1, 1)
    sign = -1 if direction in ("RL", "BT") else 1
    for (a, b), route in zip(edges, placed.routes, strict=True):
        along = [sign * point[axis] for point in route]
        assert along == sorted(along)
        # From the side of one box to the side of the other.
        assert abs(along[0] - (sign * placed.centres[a][axis] + sizes[a][axis] / 2)) < 1e-6
        assert abs(along[-1] - (sign * placed.centres[b][axis] - sizes[b][axis] / 2)) < 1e-6
        assert path(route, direction).startswith("M")


def test_arrows_pass_beside_boxes():
    # One arrow from the first to the last box of a chain.
    sizes, edges = [(40.0, 20.0)] * 5, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]
    placed = layered(sizes, edges)
    assert len(placed.routes[4]) > 2
    for x, y in placed.routes[4][1:-1]:
        for (u, v), (w, h) in zip(placed.centres[1:4], sizes[1:4], strict=True):
            assert abs(x - u) > w / 2 + 1e-9 or abs(y - v) > h / 2


@pytest.mark.parametrize("seed", range(5))
def test_no_arrow_bends_where_boxes_stand(seed):
    sizes, edges = random_graph(np.random.default_rng(seed), 60)
    placed = layered(sizes, edges)
    boxes = [(x - w / 2, x + w / 2) for (x, _), (w, _) in zip(placed.centres, sizes, strict=True)]
    for route in placed.routes:
        for (x0, y0), (x1, y1) in itertools.pairwise(route):
            if abs(y0 - y1) > 0.1:
                assert not any(min(right, x1) - max(left, x0) > 1e-6 for left, right in boxes)


def test_crossings_are_avoided():
    # Three pairs whose ends are listed the other way round.
    placed = layered([(10.0, 10.0)] * 6, [(0, 5), (1, 4), (2, 3)])
    heights = [point[1] for point in placed.centres]
    assert np.argsort(heights[:3]).tolist() == np.argsort(heights[:2:-1]).tolist()


def test_a_chain_is_straight_and_an_empty_graph_empty():
    placed = layered([(10.0, 10.0)] * 4, [(0, 1), (1, 2), (2, 3)])
    assert len({y for _, y in placed.centres}) == 1
    assert layered([], []).centres == []


# ---- the picture -------------------------------------------------------------------------------------------


def neuron():
    given = {"x1": 2.0, "x2": 0.0, "w1": -3.0, "w2": 1.0, "b": 6.88}
    x1, x2, w1, w2, b = (Value(x, label=name) for name, x in given.items())
    o = np.tanh(x1 * w1 + x2 * w2 + b)
    o.label = "o"
    o.backward()
    return o


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_labels_data_and_gradients_are_written(direction):
    written = texts(draw(neuron(), direction=direction).svg("own"))
    for text in ("x1", "w2", "o", "tanh", "*", "+", "data -3.0000", "grad 1.0000", "data 0.7064"):
        assert text in written


@pytest.mark.parametrize("label", ["a<b>&\"c'", "]]>", "<script>alert(1)</script>", "\x00\x07", "日本", "x" * 300])
def test_hostile_labels(label):
    value = Value(2.0, label=label) * 3.0
    value.label = label
    for direction in ("LR", "TB"):
        written = texts(draw(value, direction=direction).svg("own"))
        assert "".join(c if c.isprintable() else "\ufffd" for c in label) in written


def test_arrays_matrices_views_and_dots():
    w = Value(np.arange(6.0).reshape(2, 3), label="w")
    y = (np.ones((4, 2)) @ w)[1]
    written = texts(draw(y).svg("own"))
    assert "(2, 3)" in written and "(4, 3)" in written and "(3,)" in written and "[1]" in written
    assert "3.0000  5.0000  7.0000" in [text.replace("\u2007", " ") for text in written]
    assert "…" in texts(draw(np.sin(np.sin(w)), depth=1).svg("own"))


def test_a_recording_is_drawn():
    recording = tg.record(lambda x, k: k * np.sum(np.sin(x) ** 2), np.ones(3), 2.0)
    recording(np.zeros(3), 5.0)
    written = texts(draw(recording).svg("own"))
    assert {"x", "k", "sin", "sum", "*", "(3,)"} <= set(written)
    matrix = tg.record(lambda x: np.sum(np.sin(x)), np.ones((2, 3)))
    assert "(2, 3)" in texts(draw(matrix).svg("own"))
    several = draw(tg.record(lambda x: (x + 1.0, x * x), 3.0))
    assert several.source.count("#fdf1d3") == 2


def test_a_label_stands_only_for_the_numbers_that_it_names():
    model = nn.MLP([3, 4, 1], "tanh", seed=0)
    picture = draw(np.sum(model(np.ones((2, 3)))))
    written = texts(picture.svg("own"))
    # All parameters are one box, which bears all their names; what an operation takes of it has its own.
    assert "0.weight, 0.bias, 2.weight, 2.bias" in written
    assert {"0.weight", "0.bias", "2.weight", "2.bias"} <= set(written) and "[:12]" not in written
    listed = tg.listing(tg.current_tape())
    assert "affine(v[21:27], '0.weight', '0.bias')" in listed and "v[0:21] given" in listed

    x = Value(np.arange(6.0))
    x[0].label, x[::2].label = "first", "even"
    listed = draw(x[0] * x[1] + np.sum(x[0:3])).source
    # Of three numbers that do not stand side by side the label is no name for the first three.
    assert 'label="first"' in listed and "even" not in listed and "{first" not in listed
    assert draw(Value(np.ones(3), label="whole")[:2]).source.count("whole") == 1


def test_a_recording_has_gradients_once_one_was_computed():
    recording = tg.record(lambda x, y: x * y, 2.0, 5.0, compile=False)
    recording(3.0, 5.0)
    assert "grad" not in draw(recording).source
    recording.grad(3.0, 5.0, argnums=(0, 1))
    assert "{x | data 3.0000 | grad 5.0000}" in draw(recording).source
    assert "{data 2.0000 | grad 0.0000}" in draw(Value(2.0)).source


def said_by_arrows(svg):
    """What is written beside arrows, and where."""
    return [
        (t.text, float(t.get("x")), float(t.get("y")))
        for t in ET.fromstring(svg).iter(f"{SVG}text") if t.get("class") == "part middle"
    ]  # fmt: skip


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_two_arrows_say_does_not_overlap(direction):
    x, model = Value(np.ones(4), label="x"), nn.MLP([3, 4, 1], "tanh", seed=0)
    for value, expected in (
        (x[1] * x[0], ["[1]", "[0]"]),
        (x[1] * Value([1.0, 2.0])[0], ["[1]", "[0]"]),
        (np.sum(model(np.ones((2, 3)))), ["0.weight", "0.bias", "2.weight", "2.bias"]),
        (x[1] * x[1], ["[1]"]),
    ):
        found = said_by_arrows(draw(value, direction=direction).svg("own"))
        assert sorted(text for text, _, _ in found) == sorted(expected)
        for (_, x0, y0), (_, x1, y1) in itertools.combinations(found, 2):
            assert abs(x0 - x1) > 30.0 or abs(y0 - y1) > 9.0


def test_what_an_arrow_says_has_room_between_boxes():
    model = nn.MLP([3, 4, 1], "tanh", seed=0)
    svg = draw(np.sum(model(np.ones((2, 3))))).svg("own")
    boxes = [
        (float(box.get("x")), float(box.get("x")) + float(box.get("width")))
        for box in ET.fromstring(svg).iter(f"{SVG}rect") if box.get("x")
    ]  # fmt: skip
    for text, x, _ in said_by_arrows(svg):
        wide = width(text, 9.5) / 2
        # In no column does a box begin or end below the words.
        assert not any(x - wide < side < x + wide for box in boxes for side in box), text
    # Bold names are wider than plain ones.
    plain, bold = (_Cell("", ["a label that is long"], kind).width for kind in ("shape", "name"))
    assert bold > plain + 5.0


def test_an_engine_that_is_not_there():
    with pytest.raises(GraphError, match='engine must be "dot", "own" or None'):
        draw(Value(1.0)).svg("neato")


# ---- what repeats ------------------------------------------------------------------------------------------


def of(recording, fold=True):
    code = recording.program.code
    return code, folded(code.rows, code.side, np.arange(len(code.rows)), fold)


def test_what_is_folded_is_alike():
    def f(x, w):
        for k in range(40):
            x = np.tanh(x * w[k] + 0.5) if k % 2 else x - 0.1 * x
        return x

    code, found = of(tg.record(f, 1.0, [float(k) for k in range(40)]))
    assert len(found.shown) < 40 < len(code.rows)
    # All stand for instructions of the same operation, and none is lost.
    assert (code.rows[:, 0] == code.rows[found.first, 0]).all()
    assert found.times[found.shown].sum() == len(code.rows)
    # Twenty weights are read in the same way, each in another round; they are drawn once.
    assert found.times[:41].max() >= 18
    plain = of(tg.record(f, 1.0, [float(k) for k in range(40)]), fold=False)[1]
    assert (plain.first == np.arange(len(code.rows))).all() and plain.times.max() == 1


def test_nested_loops_and_arrays_are_folded():
    def f(x):
        for _ in range(30):
            for _ in range(10):
                x = np.sin(x)
            x = x[::-1] + x * 2.0
        return np.sum(x)

    code, found = of(tg.record(f, np.ones(5)))
    assert len(code.rows) > 300 and len(found.shown) < 12


def test_the_nearest_are_kept():
    def f(x, y):
        return np.sin(np.cos(x * y)) + np.exp(y)

    code, found = of(tg.record(f, 1.0, 2.0), fold=False)
    last = len(code.rows) - 1
    kept = nearest(found, [last], 3)
    assert last in kept and len(kept) == 3
    assert nearest(found, [last], 1).tolist() == [last]


def test_a_long_tape_is_drawn_in_a_moment():
    def f(x):
        for _ in range(25_000):
            x = x * 0.9 + 0.1 * np.sin(x)
        return x

    recording = tg.record(f, 1.0)
    assert len(recording) == 100_000
    started = time.perf_counter()
    picture = draw(recording)
    svg = picture.svg("own")
    # It takes a fifth of a second; machines that run tests are busy.
    assert time.perf_counter() - started < 20.0
    assert picture.values < 15 and len(svg) < 20_000
    assert picture.note.startswith("100,003 values") and "×24,999" in svg


def test_a_long_tape_without_repeats_is_cut():
    rng = np.random.default_rng(0)
    x = [Value(v) for v in rng.uniform(0.5, 1.5, 20)]
    for _ in range(3000):
        i, j = rng.integers(0, 20, 2)
        x[i] = 0.3 * [np.sin(x[i]), np.exp(x[i]), x[i] * x[j], x[i] - x[j]][rng.integers(4)]
    picture = draw(sum(x))
    assert 1 < picture.values <= 150 and "more, further from the result" in picture.note
    assert "…" in texts(picture.svg("own"))
