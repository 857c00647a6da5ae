"""`recording.diff` finds the first instruction, and element, where two replays part."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import OperationError, ShapeError, StructureError


def rounded(x):
    a = x * 2.0
    b = np.round(a)
    return np.sum(b * x)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_first_instruction(compiled):
    with tg.debug():
        recording = tg.record(rounded, np.ones(3), compile=compiled)
    x = np.array([1.0, 2.0, 0.70])
    assert recording.diff(x, x) is None
    found = recording.diff(x, np.array([1.0, 2.0, 0.78]), tolerance=0.4)
    assert (found.operation, found.index, found.first, found.second, found.branches) == ("rint", (2,), 1.0, 2.0, False)
    assert found.line.source == "b = np.round(a)" and found.line.file == __file__
    (one, other) = found.operands[0]
    assert (one.numbers, other.numbers) == (1.4, 1.56)
    text = str(found)
    assert "the replays part at [2]" in text and "1.0 and 2.0" in text and "test_diff.py" in text
    # A tighter tolerance finds what came before.
    assert recording.diff(x, np.array([1.0, 2.0, 0.78])).operation == "multiply"


def test_a_constant_is_told_as_one():
    text = str(tg.record(lambda x: x * 2.0, 1.0).diff(1.0, 3.0))
    assert "operands  x = 1.0 and 3.0" in text and "            a constant = 2.0 and 2.0" in text


def test_the_tolerance_is_relative_for_large_numbers():
    recording = tg.record(lambda x: x * 1e6, 1.0)
    assert recording.diff(1.0, 1.0 + 1e-7, tolerance=1e-6) is None
    assert recording.diff(1.0, 1.0 + 1e-5, tolerance=1e-6).first == 1e6


def test_what_is_not_finite():
    recording = tg.record(lambda x: np.log(x) * 2.0, 1.0)
    assert recording.diff(0.0, 0.0) is None and recording.diff(-1.0, -2.0) is None
    found = recording.diff(0.0, -1.0)
    assert found.operation == "log" and found.first == -np.inf and np.isnan(found.second)
    assert recording.diff(1e-300, 0.0).operation == "log"


def test_several_arguments_and_kinds():
    recording = tg.record(lambda p, x: np.sum(p["w"] * x) + p["b"], {"w": np.ones(2), "b": 0.0}, np.ones(2))
    first = ({"w": np.ones(2), "b": 0.0}, np.ones(2))
    second = ({"w": np.ones(2), "b": 1.0}, np.ones(2))
    found = recording.diff(first, second)
    assert (found.operation, found.first, found.second) == ("add", 2.0, 3.0)
    with pytest.raises(ShapeError):
        recording.diff(first, (np.ones(2), np.ones(2)))
    with pytest.raises(OperationError, match="tolerance must be a number from 0 on, not -1"):
        recording.diff(first, second, tolerance=-1)
    with pytest.raises(OperationError, match="tolerance must be a number from 0 on, not 'a'"):
        recording.diff(first, second, tolerance="a")
    two = tg.record(lambda x, y: x * y, 1.0, 2.0)
    with pytest.raises(StructureError, match="has 2 arguments: the second input of diff must be a tuple of them"):
        two.diff((0.5, 0.5), 0.6)


def test_branches():
    def f(x):
        y = x * 3.0
        if y > 4.0:
            y = y - 1.0
        return y * y

    recording = tg.record(f, 1.0)
    found = recording.diff(1.0, 2.0)
    assert found.branches and (found.first, found.second) == (0.0, 1.0)
    assert found.line.number == f.__code__.co_firstlineno + 2
    assert "different branches" in str(found)
    assert not recording.diff(2.0, 3.0).branches
