"""Profiles measure every instruction once, and show it; listings and DataFrames have adjoints and lines."""

import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import ExtraMissingError, GraphError, OperationError
from tapegrad.inspect.chart import Bar, chart


def body(x, y):
    z = x * y
    w = np.tanh(z) + np.tanh(x)
    return np.sum(w)


@pytest.fixture(params=[3, 5000], ids=["short", "long"])
def recording(request):
    with tg.debug():
        return tg.record(body, np.ones(request.param), 2.0)


def arguments(recording):
    return np.linspace(0.1, 1.0, recording.spec.leaves[0].shape[0]), 2.0


def test_everything_is_counted_once(recording):
    found = recording.profile(*arguments(recording), argnums=(0, 1), repeat=2)
    stats = recording.stats()
    assert {name: part.instructions for name, part in found.by_operation().items()} == stats.operations
    assert sum(part.elements for part in found.parts) == stats.elements
    lines = {part.line.source: part.instructions for part in found.by_line().values()}
    assert lines == {"z = x * y": 1, "w = np.tanh(z) + np.tanh(x)": 3, "return np.sum(w)": 1}
    assert found.forward > 0.0 and found.reverse > 0.0 and all(part.seconds >= 0.0 for part in found.parts)
    times = [part.seconds for part in found.parts]
    assert times == sorted(times, reverse=True) and sum(times) > 0.0


def test_long_operations_take_long():
    x = np.random.default_rng(0).normal(size=(300, 300))
    found = tg.record(lambda x: np.sum(x @ x + x), x).profile(x, repeat=3).by_operation()
    assert next(iter(found)) == "matmul"
    assert found["matmul"].forward > 3 * found["add"].forward and found["matmul"].reverse > 3 * found["add"].reverse


def test_the_numbers_are_those_of_a_replay(recording):
    """Sweeping kinds by themselves, in any order and often, must not change what the next ones read."""
    x, y = arguments(recording)
    value, gradient = recording.value_and_grad(x, y)
    recording.profile(x, y, repeat=2)
    after, again = recording.value_and_grad(x, y)
    assert value == after and np.array_equal(gradient, again)


def test_forward_alone(recording):
    found = recording.profile(*arguments(recording), argnums=None, repeat=1)
    assert found.reverse == 0.0 and not any(part.reverse for part in found.parts)
    assert "back" not in str(found).splitlines()[0]


def test_as_text(recording):
    text = str(recording.profile(*arguments(recording), repeat=1))
    assert text.startswith("body, interpreted: forward ") and "back" in text
    assert "tanh" in text and "w = np.tanh(z) + np.tanh(x)" in text and "test_profile.py" in text
    assert "%" in text


def test_as_a_picture(recording, tmp_path):
    found = recording.profile(*arguments(recording), repeat=1)
    for by, most in (("operation", 20), ("line", 20), ("operation", 1)):
        picture = found.draw(by=by, most=most)
        tree = ET.fromstring(picture.source)
        titles = [element.text for element in tree.iter("{http://www.w3.org/2000/svg}title")]
        count = len(found.by_operation() if by == "operation" else found.by_line())
        assert len(titles) == 1 + min(count, most + 1) and f"time by {by}" in titles[0]
        assert (most > 1) == (f"{count - 1} others" not in picture.source)
        assert picture._repr_svg_() == picture.source
    path = picture.save(tmp_path / "profile.svg")
    assert path.read_text(encoding="utf-8") == picture.source
    with pytest.raises(GraphError, match=r"saved as \.svg, not as 'profile.png'"):
        picture.save(tmp_path / "profile.png")
    with pytest.raises(OperationError, match="by must be 'operation' or 'line', not 'time'"):
        found.draw(by="time")


def test_bars_are_as_long_as_their_numbers():
    picture = chart("a < b & c", [Bar("<one>", (3.0, 1.0)), Bar("x" * 100, (1.0, 0.0))], ("there", "back"), str)
    tree = ET.fromstring(picture.source)
    groups = list(tree.iter("{http://www.w3.org/2000/svg}g"))
    widths = [[float(r.get("width")) for r in g if r.tag.endswith("rect")] for g in groups]
    assert widths[0][0] == pytest.approx(3.0 * widths[0][1]) and widths[1][0] == pytest.approx(widths[0][1])
    assert groups[0][0].text == "<one>: there 3.0, back 1.0" and repr(picture) == "<Chart of 2 bars>"


@pytest.mark.parametrize("repeat", [0, -1, 1.5, True])
def test_wrong_repeats(recording, repeat):
    with pytest.raises(OperationError, match="repeat must be a whole number from 1 on"):
        recording.profile(*arguments(recording), repeat=repeat)


def test_loops_and_functions_of_python():
    def f(x):
        y = tg.external(np.sin, lambda x, z, g: g * np.cos(x))(x)
        return tg.fori_loop(0, 5000, lambda i, c: c * 0.999 + 0.1, np.sum(y))

    found = tg.record(f, np.ones(2)).profile(np.ones(2), repeat=1).by_operation()
    assert "external" in found and "loop of 5,000 steps" in found


# ---- listings ----------------------------------------------------------------------------------------------


def test_a_listing_has_lines_and_adjoints():
    with tg.debug():
        recording = tg.record(body, np.ones(2), 2.0, compile=False)
    first = body.__code__.co_firstlineno
    rows = str(recording).splitlines()
    assert rows[3].endswith(f"# test_profile.py:{first + 1}") and "∂" not in rows[3]
    # What inputs are given is no line.
    assert "#" not in rows[1] and "#" not in rows[2]
    recording.value_and_grad(np.ones(2), 2.0)
    rows = str(recording).splitlines()
    assert "∂" in rows[1] and "∂ [" in rows[3] and rows[-2].endswith(f"∂ 1.0{rows[-2].split('∂ 1.0')[1]}")


def test_a_listing_at_arguments_is_that_of_a_replay_there():
    recording = tg.record(body, np.ones(2), 2.0, compile=True).compile()
    x = np.array([0.5, -1.0])
    value, gradient = recording.value_and_grad(x, 3.0)
    text = tg.listing(recording, at=(x, 3.0))
    assert f"{value:.6g}" in text and f"∂ [{gradient[0]:.6g}, {gradient[1]:.6g}]" in text
    with pytest.raises(OperationError, match="a tape has no arguments"):
        tg.listing(tg.current_tape(), at=(1.0,))


def test_a_listing_of_a_tape_has_lines():
    with tg.debug():
        x = tg.Value(2.0, label="x")
        y = x * 3.0
    assert "test_profile.py" in tg.listing(y.tape)
    z = y + 1.0
    assert z.data == 7.0
    # What was recorded outside of the block has none.
    assert "#" not in tg.listing(z.tape).splitlines()[-1]
    with tg.debug():
        z = z * z
    rows = tg.listing(z.tape).splitlines()
    assert ["#" in row for row in rows[-2:]] == [False, True]


# ---- DataFrames --------------------------------------------------------------------------------------------


class Frame:
    """Stands for pandas.DataFrame where pandas is not installed."""

    def __init__(self, rows, columns):
        assert all(len(row) == len(columns) for row in rows)
        self.columns, self.rows = list(columns), [dict(zip(columns, row)) for row in rows]


@pytest.fixture
def stand_in(monkeypatch):
    module = type(sys)("pandas")
    module.DataFrame = Frame
    monkeypatch.setitem(sys.modules, "pandas", module)


def test_a_frame(stand_in):
    with tg.debug():
        recording = tg.record(body, np.ones(2), 2.0)
    x = np.array([0.5, -1.0])
    value, gradient = recording.value_and_grad(x, 3.0, argnums=(0, 1))
    frame = recording.to_dataframe(x, 3.0, argnums=(0, 1))
    assert frame.columns == [
        "slot", "name", "operation", "formula", "operands", "shape", "value", "adjoint", "file", "line", "source",
    ]  # fmt: skip
    rows = frame.rows
    assert [row["operation"] for row in rows] == ["input", "input", "multiply", "tanh", "tanh", "add", "sum"]
    assert [row["slot"] for row in rows[:3]] == [0, 2, 3]
    product = rows[2]
    assert product["formula"] == "x * y" and product["operands"] == ("x", "y") and product["shape"] == (2,)
    assert np.array_equal(product["value"], x * 3.0) and product["source"] == "z = x * y"
    assert (product["file"], product["line"]) == (__file__, body.__code__.co_firstlineno + 1)
    assert np.array_equal(rows[0]["adjoint"], gradient[0]) and rows[1]["adjoint"] == gradient[1]
    assert rows[-1]["value"] == value and rows[-1]["adjoint"] == 1.0 and rows[-1]["shape"] == ()
    assert rows[0]["line"] is None and rows[0]["formula"] == ""
    alone = recording.to_dataframe(x, 3.0, argnums=None).rows
    assert all(row["adjoint"] is None for row in alone)
    # That of the replay that was last.
    assert recording.to_dataframe().rows[-1]["value"] == value


def test_a_frame_of_a_profile(stand_in, recording):
    frame = recording.profile(*arguments(recording), repeat=1).to_dataframe()
    assert sum(row["instructions"] for row in frame.rows) == len(recording)
    assert {row["source"] for row in frame.rows} >= {"z = x * y"}


def test_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ExtraMissingError, match=r'pip install "tapegrad\[pandas\]"'):
        tg.record(body, np.ones(2), 2.0).to_dataframe()


def test_with_pandas():
    pandas = pytest.importorskip("pandas")
    recording = tg.record(body, np.ones(2), 2.0)
    frame = recording.to_dataframe(np.ones(2), 2.0)
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 7
    assert frame.loc[frame["operation"] == "tanh", "value"].iloc[0].shape == (2,)
    assert set(recording.profile(np.ones(2), 2.0, repeat=1).to_dataframe()["operation"]) >= {"tanh", "sum"}


# ---- stats -------------------------------------------------------------------------------------------------


def test_stats_tell_loops_and_why_a_program_is_compiled():
    recording = tg.record(lambda x: tg.fori_loop(0, 5000, lambda i, c: np.sin(c) * 0.9, x), 1.0, compile=False)
    (loop,) = recording.stats().loops
    assert (loop.steps, loop.instructions, loop.how) == (5000, 2, "interpreted")
    assert loop.operations == {"sin": 1, "multiply": 1}
    assert "loop of 5,000 steps, each of 2 instructions (sin 1, multiply 1), interpreted" in str(recording.stats())
    assert recording.stats().values == recording.code.size * 8
    asked = tg.record(lambda x: np.sum(np.exp(x)), np.ones(5), compile=True).compile()
    assert [runs.reason for runs in asked.stats().runs] == 2 * ["that was asked for"]
    assert not asked.stats().loops
