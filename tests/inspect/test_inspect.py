"""Listings and pictures show what is on the tape, and say clearly what they cannot show."""

import builtins
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import ExtraMissingError, GraphError, OperationError, StructureError
from tapegrad.inspect import draw, listing
from tapegrad.inspect.algebra import algebra, symbol
from tapegrad.inspect.places import part
from tapegrad.inspect.text import fixed, rows, spelled
from tapegrad.ops import BY_NAME, TABLE, Elementwise
from tapegrad.tape import Tape, recording_on

ROOT = Path(__file__).resolve().parents[2]
needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="the Graphviz program dot is not installed")


@pytest.fixture
def tape():
    """The thread's tape, which is fresh for every test: slots start at 0."""
    return tg.current_tape()


def lines(tape, **kwargs):
    """A listing with its columns two blanks apart."""
    return [re.sub(" {2,}", "  ", line).strip() for line in listing(tape, **kwargs).splitlines()]


def boxes(source):
    """The labels of the record nodes."""
    return re.findall(r'v\d+ \[label="([^"]*)", shape=record', source)


# ---- algebra -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "operands", "text"),
    [
        ("add", ["a", "b"], "a + b"),
        ("subtract", ["a", "-3"], "a - (-3)"),
        ("multiply", ["a", "b"], "a * b"),
        ("negative", ["a"], "-a"),
        ("power_constant", ["a", "3"], "a^3"),
        ("square", ["v7"], "v7^2"),
        ("sigmoid", ["x"], "1 / (1 + e^-x)"),
        ("exp", ["x"], "e^x"),
        ("sin", ["v[10:16]"], "sin v[10:16]"),
        ("less", ["a", "0"], "[a < 0]"),
        ("maximum", ["a", "-1"], "max(a, -1)"),
        ("clip", ["a", "-1", "1"], "min(max(a, -1), 1)"),
        ("where", ["v5", "a", "b"], "a if v5, else b"),
        ("leaky_relu", ["x", "0.01"], "x if x > 0, else 0.01 * x"),
        ("gelu", ["x"], "x * Phi(x)"),
        ("remainder", ["a", "b"], "a - b * floor(a / b)"),
        ("detach", ["a"], "a, held constant"),
        ("rint", ["a"], "rint(a)"),
        ("arctan2", ["a", "b"], "arctan2(a, b)"),
    ],
)
def test_a_formula_with_its_operands(name, operands, text):
    assert algebra(BY_NAME[name], operands) == text


def test_an_operand_called_like_a_name_of_the_formula_is_not_replaced_again():
    assert algebra(BY_NAME["subtract"], ["y", "x"]) == "y - x"


@pytest.mark.parametrize("row", [r for r in TABLE if isinstance(r, Elementwise)], ids=lambda r: r.name)
def test_every_formula_names_every_operand(row):
    operands = [f"operand{i}" for i in range(row.arity)]
    text = algebra(row, operands)
    assert all(operand in text for operand in operands)
    assert symbol(row)


@pytest.mark.parametrize(
    ("formula", "value", "text", "sign"),
    [
        ("z = u^2 v", lambda u, v: u * u * v, "a^2 * b", "declared"),
        ("z = u ~ v", lambda u, v: u + v, "a ~ b", "~"),
        ("p q", lambda p, q: p * q, "a * b", "*"),
        ("z = something else", lambda u, v: u + v, "declared(a, b)", "declared"),
        ("", lambda u, v: u + v, "declared(a, b)", "declared"),
        ("z = α β", lambda α, β: α * β, "a * b", "*"),
        ("z = 2u v, twice the area", lambda u, v: 2 * u * v, "declared(a, b)", "declared"),
    ],
)
def test_operations_that_users_declare(formula, value, text, sign):
    # As `binary` makes it, but not put on the table, where it would stay for the tests that follow.
    row = Elementwise(name="declared", opcode=0, arity=2, formula=formula, value=value, partials=value)
    assert algebra(row, ["a", "b"]) == text
    assert symbol(row) == sign


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 4)])
def test_a_part_is_the_index_that_gives_it(shape):
    """The text evaluates to the same elements: every small view of an array, by way of NumPy."""
    x = np.arange(np.prod(shape)).reshape(shape)
    indices = [
        np.s_[1],
        np.s_[-1],
        np.s_[1:],
        np.s_[::-1],
        np.s_[::2],
        np.s_[..., 1],
        np.s_[..., ::2],
        np.s_[..., ::-1],
        np.s_[1:2, ...],
        np.s_[..., 1:3],
    ]
    views = [x[i] for i in indices]
    views += [v.T for v in views]
    for view in views:
        offset = int(view.reshape(-1)[0])
        axes = [(n, s // x.itemsize) for n, s in zip(view.shape, view.strides, strict=True)]
        text = part(shape, offset, axes)
        found = eval(f"x{text.replace('.flat[', '.reshape(-1)[').replace('.transpose(...)', '.T')}", {"x": x})
        assert np.array_equal(found.squeeze(), view.squeeze()), text


# ---- listing -----------------------------------------------------------------------------------------------


def test_an_empty_tape_says_so():
    assert listing(Tape(np.float32)) == "an empty tape, float32"


def test_scalars(tape):
    a, b = Value(2.0, label="a"), Value(-3.0, label="b")
    c = a * b + 4.0
    given = ["tape of 5 instructions, 5 slots, float64", "0  a given  2.0", "1  b given  -3.0"]
    # Nothing has been computed, and listing it computes nothing.
    assert lines(tape) == [*given, "2  v2 = a * b", "3  v3 constant  4.0", "4  v4 = v2 + 4"]
    assert tape.evaluated == 0
    c.label = "c"
    c.backward()
    # A constant has no gradient.
    assert lines(tape)[3:] == ["2  v2 = a * b  -6.0  ∂ 1.0", "3  v3 constant  4.0", "4  c = v2 + 4  -2.0  ∂ 1.0"]
    assert lines(tape)[1] == "0  a given  2.0  ∂ -3.0"


def test_arrays_without_elements(tape):
    Value(np.zeros(0)) * 2.0
    Value(1.0, label="one")
    text = [line.split("  ")[1] for line in lines(tape)[1:]]
    assert text == ["v[0:0] given", "v0 constant", "v[1:1] = [] * []", "one given"]


def test_print_lists(tape):
    Value(2.0, label="a")
    assert str(tape) == listing(tape)
    recording = tg.record(lambda x: x * x, 1.0)
    assert str(recording) == listing(recording)
    assert "Recording" in repr(recording)


def test_labels_that_could_be_misread(tape):
    x, y, z = Value(1.0, label="x"), Value(1.0, label="x"), Value(1.0, label="v0")
    n = x * y * z
    n.label = "x*y | z"
    assert lines(tape)[4:] == ["3  v3 = x@0 * x@1", "4  'x*y | z' = v3 * 'v0'"]


def test_arrays_and_views(tape):
    x = Value(np.arange(6.0), label="x")
    np.sin(x[1:4])
    x[5] * x[0]
    -x[::-2]
    text = lines(tape)
    assert text[1].startswith("0  x given  (6)")
    assert "v[6:9] = sin x[1:4]  (3)" in text[2]
    assert "v9 = x[5] * x[0]" in text[3]
    assert "v[10:13] = -x[::-2]  (3)" in text[4]


def test_unlabelled_arrays_are_slots(tape):
    x = Value(np.arange(6.0))
    y = x * x
    np.exp(y[2:4])
    y[1] + 1.0
    assert "v[6:12] = v[0:6] * v[0:6]  (6)" in lines(tape)[2]
    assert "v[12:14] = e^v[8:10]  (2)" in lines(tape)[3]
    assert "v15 = v7 + 1" in lines(tape)[5]


def test_broadcasting_and_transposing(tape):
    x, w = Value(np.ones((2, 3)), label="x"), Value(np.ones(3), label="w")
    x * w
    x.T * 2.0
    assert "= x * w  (2, 3)" in lines(tape)[3]
    assert "= x.T * 2" in lines(tape)[5]


def test_structured_operations(tape):
    x, w = Value(np.ones((2, 3)), label="x"), Value(np.ones((3, 4)), label="w")
    scores = x @ w
    tg.cross_entropy(scores, [0, 3])
    np.sum(x, axis=1), x.min(), np.concatenate([x, x]), x[[1, 0]]
    text = listing(tape)
    for said in (
        "matmul(x, w)  (2,3)x(3,4)",
        "2 rows of 4 classes",
        "sum(x)  (2, 3) along axis 1",
        "min(x)  over 6",
        "concatenate(x, x)  (12)",
        "2 along axis 0 of (2, 3)",
    ):
        assert said in text


def test_guards_and_recordings():
    def f(p, xs):
        if p["a"] > 1.0:
            return p["a"] * xs[1][2], 7.0
        return p["a"]

    recording = tg.record(f, {"a": 2.0}, [1.0, np.arange(3.0)])
    text = listing(recording)
    assert "p['a'] input" in text and "xs[0] input" in text and "xs[1] input  (3)" in text
    assert re.search(r"expect v\d+ == 1\n", text)
    assert "[p['a'] > 1]" in text
    assert "= p['a'] * xs[1][2]" in text
    assert re.search(r"returns v\d+, 7$", text)
    assert "∂" not in text
    # Machine code leaves no adjoints to look at.
    product = tg.record(lambda x, y: x * y, 2.0, 5.0, compile=False)
    product.value_and_grad(3.0, 5.0, argnums=(0, 1))
    assert "x input           3.0  ∂ 5.0" in listing(product)


def test_long_tapes_are_cut_in_the_middle(tape):
    x = Value(1.0, label="x")
    for _ in range(999):
        x = np.sin(x)
    text = lines(tape, limit=10)
    assert len(text) == 12
    assert text[5] == "4  v4 = sin v3"
    assert text[6].startswith("...  990 instructions left out")
    assert text[7] == "995  v995 = sin v994"
    assert len(lines(tape)) == 102
    assert len(lines(tape, limit=None)) == 1001
    assert lines(tape, start=5, stop=7)[1:] == ["5  v5 = sin v4", "6  v6 = sin v5"]
    assert lines(tape, start=-1)[1:] == ["999  v999 = sin v998"]


def test_a_rewound_tape_lists_what_is_left(tape):
    x = Value(1.0, label="x")
    n = len(tape)
    y = x * x
    y.label = "y"
    tape.flush()
    tape.rewind(n)
    z = x + x
    z.label = "z"
    assert [line[3:] for line in lines(tape)[1:]] == ["x given  1.0", "z = x + x"]


def test_what_cannot_be_listed(tape):
    recording = tg.record(lambda x, y: x * y, 2.0, 5.0)
    with pytest.raises(StructureError, match=r"a tape or a recording, not Value; .* tapegrad.current_tape\(\)"):
        listing(Value(2.0) * 3)
    with pytest.raises(StructureError, match="a tape or a recording, not str$"):
        listing("abc")
    with pytest.raises(StructureError, match=r"at must be a tuple of the arguments, such as at=\(x,\), not float"):
        listing(recording, at=0.2)
    with pytest.raises(OperationError, match="limit must be a whole number, not 'a'"):
        listing(recording, limit="a")
    with pytest.raises(OperationError, match="limit must be a whole number, not 'a'"):
        recording.to_html("never.html", limit="a")
    with pytest.raises(OperationError, match="depth must be a whole number, not 1.5"):
        draw(Value(2.0), depth=1.5)
    assert "10.0" in listing(recording, at=[2.0, 5.0], limit=np.int64(10))


# ---- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (2.0, "2.0000"),
        (-0.0, "0.0000"),
        (1e-9, "1e-09"),
        (1.5e-5, "1.5e-05"),
        (1e12, "1e+12"),
        (-123456.7, "-123456.7000"),
        (np.nan, "nan"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        (0.00123, "0.0012"),
    ],
)
def test_numbers_in_pictures(x, text):
    assert fixed(x) == text


def test_numbers_in_listings():
    assert [spelled(x) for x in (2.0, -6.0, 1 / 3, 1e-9, 1e20, np.nan)] == [
        "2.0",
        "-6.0",
        "0.333333",
        "1e-09",
        "1e+20",
        "nan",
    ]
    assert len(rows(np.ones((100, 100)), fixed)) == 7


# ---- pictures ----------------------------------------------------------------------------------------------


def tutorial():
    a, b, c, f = (Value(x, label=n) for n, x in {"a": 2.0, "b": -3.0, "c": 10.0, "f": -2.0}.items())
    e = a * b
    d = e + c
    L = d * f
    e.label, d.label, L.label = "e", "d", "L"
    return L


def test_before_and_after_backward():
    L = tutorial()
    before = draw(L).source
    assert boxes(before) == [
        "{a | data 2.0000 | grad 0.0000}", "{b | data -3.0000 | grad 0.0000}", "{c | data 10.0000 | grad 0.0000}",
        "{f | data -2.0000 | grad 0.0000}", "{e | data -6.0000 | grad 0.0000}", "{d | data 4.0000 | grad 0.0000}",
        "{L | data -8.0000 | grad 0.0000}",
    ]  # fmt: skip
    L.backward()
    assert boxes(draw(L).source)[:2] == ["{a | data 2.0000 | grad 6.0000}", "{b | data -3.0000 | grad -4.0000}"]
    assert draw(L).source.count("shape=ellipse") == 3
    assert "rankdir=LR" in before


def test_edges_join_operands_and_results():
    source = draw(tutorial()).source
    for edge in ("v0:e -> op4", "v1:e -> op4", "op4 -> v4", "v4:e -> op5", "v2:e -> op5", "op6 -> v6"):
        assert f"  {edge}\n" in source
    assert re.findall(r'op\d+ \[label="(.)"', source) == ["*", "+", "*"]
    assert 'tooltip="e = a * b"' in source


def test_a_value_used_twice_has_two_edges():
    a = Value(3.0)
    assert draw(a + a).source.count("v0:e -> op1") == 2


def test_only_what_the_value_depends_on():
    a, b = Value(2.0, label="a"), Value(3.0, label="b")
    b * b
    picture = draw(a * a)
    assert "b" not in "".join(re.findall(r"\{(\w) \|", picture.source))
    assert picture.values == 2 and picture.operations == 1


def test_constants_are_drawn_where_they_are_used():
    a = Value(2.0, label="a")
    source = draw((a + 1.0) * (a - 1.0)).source
    assert source.count('[label="1", shape=box') == 2
    assert "grad" not in "".join(re.findall(r'c\d+_\d \[label="([^"]*)"', source))


def test_a_labelled_value_without_gradient_is_no_constant():
    t = Value(2.0, label="target", requires_grad=False)
    assert "{target | data 2.0000}" in draw((Value(1.0) - t) ** 2).source


def test_arrays():
    x = Value([1.0, 2.0, 3.0], label="x")
    y = np.sin(x) * x[0]
    assert draw(y).source.count("(3,)") == 1
    assert 'label="[0]"' in draw(y).source
    big = Value(np.zeros((50, 60)), label="big")
    label = boxes(draw(big).source)[0]
    assert label.startswith("{big | (50, 60)}") and "…" in label and len(label) < 1000


def test_matrices():
    w = Value(np.arange(6.0).reshape(2, 3), label="w")
    loss = tg.cross_entropy(np.ones((4, 2)) @ w, [0, 1, 2, 0])
    loss.backward()
    source = draw(loss).source
    assert "{w | (2, 3)} | data\\l0.0000" in source
    assert "(4, 3)" in source
    assert 'label="@"' in source and 'label="cross_entropy"' in source


def test_views_of_the_result():
    x = Value(np.ones((2, 3)), label="x")
    source = draw((x * 2.0)[1]).source
    assert re.search(r'v2:e -> view \[label="\[(1|3:)\]"\]', source) and "{(3,)}" in source
    assert "view" not in draw((x * 2.0).reshape(3, 2)).source
    assert "{(3, 2)}" in draw((x * 2.0).reshape(3, 2)).source


def test_a_leaf_alone_and_a_guarded_recording():
    a = Value(2.0, label="a")
    assert boxes(draw(a).source) == ["{a | data 2.0000 | grad 0.0000}"]
    drawn = []

    def f(x):
        y = x * x if x > 0.0 else -x
        drawn.append(draw(y).source)
        return y

    tg.record(f, 2.0)
    assert "equal" not in drawn[0] and "expect" not in drawn[0]


def test_directions():
    source = draw(tutorial(), direction="TB").source
    assert "rankdir=TB" in source and "v0:s -> op4" in source
    assert "a | data 2.0000 | grad 0.0000" in boxes(source)
    with pytest.raises(GraphError, match="direction must be one of LR, RL, TB, BT, not 'up'"):
        draw(tutorial(), direction="up")


def test_too_many_nodes():
    x = Value(1.0)
    for _ in range(600):
        x = np.sin(x)
    assert draw(x, max_nodes=601).values == 601 and draw(x, max_nodes=601).note == ""
    # What repeats is drawn once, with the numbers of the first and the last round.
    folded = draw(x)
    assert (folded.values, folded.operations) == (2, 1)
    assert "sin ×600" in folded.source and folded.note.startswith("601 values")
    assert f"0.8415 → {x.item():.4f}" in folded.source and "style=dashed" in folded.source
    # If nothing may be folded, the operations nearest to the result are drawn.
    cut = draw(x, fold=False)
    assert cut.values == 150 and cut.source.count("…") == 1 and cut.note.startswith("451 more")
    few = draw(x, depth=3)
    assert few.values == 4 and few.source.count("…") == 1
    assert draw(x, depth=0).operations == 1


def test_depth_leaves_no_operation_with_half_its_operands():
    a, b = Value(2.0, label="a"), Value(3.0, label="b")
    source = draw((a * b) * a, depth=1).source
    assert source.count("shape=ellipse") == 1 and "…" in source
    assert "…" not in draw((a * b) * a, depth=2).source


def test_nothing_to_draw():
    with pytest.raises(GraphError, match=r"shape \(0,\) has no elements"):
        draw(Value(np.zeros(0)))
    with pytest.raises(GraphError, match="draw takes a Value or a recording, not float"):
        draw(2.0)
    with pytest.raises(GraphError, match="depth"):
        draw(Value(2.0), depth=-1)
    with pytest.raises(GraphError, match="max_nodes must be at least 1, it is 0"):
        draw(Value(2.0), max_nodes=0)
    with pytest.raises(GraphError, match="does not depend on its arguments"):
        draw(tg.record(lambda x: 2.0, 1.0))


NASTY = [
    "a|b",
    "{x}",
    "<port>",
    'say "x"',
    "back\\slash",
    "\\N",
    "end\\",
    "α → β",
    "a & b &lt; c",
    "two  spaces",
    "x\ny",
    "[0]",
    "\x00bell\x07",
    "'",
    "%s",
    "-->",
    "日本",
]


@needs_dot
@pytest.mark.parametrize("label", NASTY)
@pytest.mark.parametrize("direction", ["LR", "TB"])
def test_labels_survive_dot(label, direction):
    svg = draw(Value(2.0, label=label) * 1.0, direction=direction).svg()
    text = html.unescape("".join(re.findall(r"<text[^>]*>(.*?)</text>", svg))).replace("\u00a0", " ")
    expected = re.sub(r"[\x00-\x08]", "\ufffd", label).replace("\n", "")
    assert expected in text
    assert "data 2.0000" in text


@needs_dot
def test_svg_and_jupyter():
    picture = draw(tutorial())
    assert picture.svg().startswith("<?xml") and "</svg>" in picture._repr_svg_()
    assert repr(picture) == "<Drawing of 7 values and 3 operations>"
    assert not hasattr(Value, "_repr_svg_")


@needs_dot
@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("PDF", b"%PDF"), ("dot", b"digraph")]
)
def test_save(tmp_path, suffix, start):
    path = draw(tutorial()).save(tmp_path / f"picture.{suffix}")
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["picture.jpg", "picture", ".svg"])
def test_save_under_another_suffix(tmp_path, name):
    with pytest.raises(GraphError, match=r"\.svg, \.png, \.pdf or \.dot"):
        draw(tutorial()).save(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_without_the_graphviz_package(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "graphviz":
            raise ImportError("No module named 'graphviz'", name="graphviz")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "graphviz", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    picture = draw(tutorial())
    with pytest.raises(ExtraMissingError, match=r'pip install "tapegrad\[examples\]"'):
        picture.svg("dot")
    assert picture.svg() == picture.svg("own") and picture._repr_svg_().startswith("<svg")
    assert picture.save(tmp_path / "picture.dot").read_text(encoding="utf-8") == picture.source


def test_without_the_dot_program(monkeypatch, tmp_path):
    pytest.importorskip("graphviz")
    monkeypatch.setenv("PATH", str(tmp_path))
    picture = draw(tutorial())
    with pytest.raises(ExtraMissingError, match="program `dot`.*install"):
        picture.svg("dot")
    assert picture.save(tmp_path / "picture.svg").read_text(encoding="utf-8") == picture.svg("own")
    with pytest.raises(ExtraMissingError):
        picture.save(tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()
    assert picture.source.startswith("digraph")


def test_importing_needs_no_graphviz():
    code = "import sys, tapegrad.inspect; sys.exit('graphviz' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# ---- the example -------------------------------------------------------------------------------------------


def example(*arguments):
    command = [sys.executable, str(ROOT / "examples" / "value_tutorial.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_tutorial_agrees_with_central_differences():
    done = example()
    assert done.returncode == 0, done.stderr
    assert "all agree" in done.stdout and done.stdout.count("value ") == 6


def test_the_tutorial_saves_pictures(tmp_path):
    folder = tmp_path / "new" / "pictures"
    done = example("--draw", folder)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in folder.iterdir())[:2] == ["1-after.svg", "1-before.svg"]
    after, before = ((folder / f"1-{name}.svg").read_text(encoding="utf-8") for name in ("after", "before"))
    assert "grad 6.0000" in re.sub("<[^>]*>", "", after)
    assert "grad 6.0000" not in re.sub("<[^>]*>", "", before)


def test_the_tutorial_fails_where_a_derivative_is_wrong(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import value_tutorial

    monkeypatch.setattr(value_tutorial, "central_difference", lambda expression, name: 123.0)
    with recording_on(None):
        assert value_tutorial.main([]) == 1
    assert "WRONG" in capsys.readouterr().out
