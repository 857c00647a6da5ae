"""Loops whose compiled bodies are in one loop with what goes from step to step: against the interpreter."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.looping import machine, trial
from tapegrad.native import steps

COUNT = 37


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Short loops are loops too."""
    monkeypatch.setattr(trial, "LEAST", 2)
    monkeypatch.setattr(trial, "INSTRUCTIONS", 0)


@pytest.fixture
def ways(monkeypatch):
    """How steps were taken: whether in one loop with their program."""
    found = []
    in_one = machine.Machine._in_one

    def noting(self, *given):
        call = in_one(self, *given)
        found.append(call is not None)
        return call

    monkeypatch.setattr(machine.Machine, "_in_one", noting)
    return found


def hold(f, x, dtype=np.float64, exact=True):
    """Value, gradient, and product with the Hessian, compiled and interpreted, at two points."""
    x = np.asarray(x, dtype)
    compiled, swept = (tg.record(f, x, compile=how) for how in (True, False))
    for at in (x, x * dtype(0.9)):
        found = [compiled(at), *compiled.value_and_grad(at), compiled.hvp((at,), (x,))]
        expected = [swept(at), *swept.value_and_grad(at), swept.hvp((at,), (x,))]
        for a, b in zip(found, expected, strict=True):
            close = 1e-13 if dtype == np.float64 else 1e-5
            np.testing.assert_allclose(a, b, rtol=close, atol=close * (1.0 + np.abs(b).max()))


def logistic(p):
    return tg.scan(lambda x, _: (p[0] * x * (1.0 - x), None), p[1], None, length=COUNT)[0]


def exchanged(x):
    a, b = tg.fori_loop(0, COUNT, lambda i, s: (s[1] * 0.9, s[0] + 0.1 * s[1]), (x, x * x))
    return np.sum(a * b)


def numbered(x):
    return np.sum(tg.fori_loop(3, 3 + COUNT, lambda i, s: s * 0.9 + x / (i + 1.0), x))


def with_ys(x):
    rows = np.sin(np.arange(COUNT * len(x), dtype=x.dtype)).reshape(COUNT, -1) * x
    c, ys = tg.scan(lambda c, z: (c * 0.5 + z * x, (c[0] * z[-1], c)), x, rows)
    return np.sum(c) + np.sum(ys[0] ** 2) * np.sum(ys[1])


def with_zeros(x):
    # Derivatives that are zero, or stand beside infinite ones.
    def step(c, _):
        return np.where(c > 0.3, c * x[0], x[1] * 0.0 * c + 0.5), None

    return np.sum(tg.scan(step, x, None, length=COUNT)[0])


PROGRAMS = [logistic, exchanged, numbered, with_ys, with_zeros]


@pytest.mark.parametrize("f", PROGRAMS)
@pytest.mark.parametrize("n", [2, 3, 8, 9, 20])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_programs(f, n, dtype, ways):
    hold(f, np.linspace(0.2, 0.8, n), dtype)
    assert any(ways)


@pytest.mark.parametrize("f", [exchanged, with_ys])
@pytest.mark.parametrize("n", [64, 65, 300])
def test_long_arrays_are_copied_by_a_function_of_their_own(f, n, ways):
    hold(f, np.linspace(0.2, 0.8, n))
    assert any(ways) == (n == 64)


def test_limits_of_memory(ways):
    x = np.array([0.3, 0.7])
    f = lambda x: np.sum(tg.fori_loop(0, 500, lambda i, s: s * 0.99 + 0.01 * np.tanh(s * x), x, memory_limit=256))
    hold(f, x)
    assert any(ways)


def test_results_are_the_same_bit_by_bit(ways, monkeypatch):
    p = np.array([3.9, 0.31])
    found = tg.record(logistic, p, compile=True).value_and_grad(p)
    assert all(ways) and ways
    monkeypatch.setattr(steps, "_COPIED", -1)
    ways.clear()
    expected = tg.record(lambda p: logistic(p), p, compile=True).value_and_grad(p)
    assert ways and not any(ways)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_where_it_cannot_be_compiled_the_program_is_called(ways, monkeypatch):
    def fails(*given):
        raise RuntimeError("no")

    monkeypatch.setattr(steps, "_text", fails)
    hold(lambda p: logistic(p) * 1.5, np.array([2.9, 0.3]))
    assert ways and not any(ways)
