"""Loops over rows in two forms: one for the ends, one for the rounds in between, which asks nothing of its rows."""

import numpy as np
import pytest

from tapegrad.native import rounds
from tapegrad.native.module import module_of
from tapegrad.native.places import Places
from tapegrad.native.schedule import Schedule
from tapegrad.native.width import lanes_of

from .array_programs import Function
from .both import Both, difference
from .test_fused import hold


@pytest.fixture
def short(monkeypatch):
    """Few rounds are worth it, too."""
    monkeypatch.setattr(rounds, "_LEAST", 1)


def text_of(program):
    schedule = Schedule(program)
    lanes = lanes_of(schedule, program.code.dtype)
    return module_of(program, schedule, Places(schedule, lanes), lanes).text()


def gradient(f):
    import tapegrad as tg

    return lambda x: tg.value_and_grad(f)(x)


@pytest.mark.parametrize("seed", range(200))
def test_the_stretch_in_between_is_the_longest_in_which_all_rows_or_none_are_asked_for(seed):
    rng = np.random.default_rng(seed)
    lanes, last = int(rng.choice([2, 4, 8])), int(rng.integers(0, 12))
    pairs = [(first, first + n) for first, n in rng.integers(1, 60, size=(rng.integers(0, 5), 2)).tolist()]
    span = int(rng.integers(0, 3)) * lanes, last * lanes
    low, high = rounds.middle_of(pairs, span, lanes)

    def same(low, high):
        inside = [[first <= row < end for row in range(low, high)] for first, end in pairs]
        return all(len(set(of)) <= 1 for of in inside)

    assert span[0] <= low <= high <= max(span) and low % lanes == high % lanes == 0 and same(low, high)
    longer = range(high - low + lanes, span[1] - span[0] + 1, lanes)
    assert not any(same(at, at + n) for n in longer for at in range(span[0], span[1] - n + 1, lanes))


@pytest.mark.parametrize("seed", range(400, 416))
def test_random_functions(seed, short):
    hold(Function(seed, sizes=(33, 64, 129, 161), length=8))


@pytest.mark.parametrize("seed", range(416, 420))
def test_random_functions_in_single_precision(seed, short):
    hold(Function(seed, dtype=np.float32, sizes=(65, 129, 160), length=8))


def added_here_and_there(x):
    y = np.sin(x) * x
    return np.sum(x[3:] * x[:-3]) + 3.0 * y[len(x) // 2] - x[11] * x[-2] + np.sum(y[40:90] ** 2)


def largest(x):
    return np.max(x * x - x) * np.min(x + 1.0) + np.sum(x)


def reads_what_was(x):
    y = x[1:] * x[:-1]
    z = y[1:] - y[:-1] * y[:-1]
    return np.sum(z[2:] * z[:-2] * y[3:])


@pytest.mark.parametrize("f", [added_here_and_there, largest, reads_what_was])
@pytest.mark.parametrize("n", [97, 128, 129, 136, 1001])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_gradients_with_parts_at_some_rows(f, n, dtype, short):
    rng = np.random.default_rng(n)
    x = rng.normal(size=n).astype(dtype)
    both = Both(gradient(f), x)
    assert difference(*both.run(x)) <= (1e-13 if dtype == np.float64 else 1e-5)
    x[rng.random(n) < 0.05] = rng.choice([0.0, -0.0, np.inf, np.nan])
    assert difference(*both.run(x)) <= (1e-13 if dtype == np.float64 else 1e-5)


def test_what_is_written_twice():
    def twice(f, n):
        return "%q = phi" in text_of(Both(gradient(f), np.ones(n)).program)

    assert twice(added_here_and_there, 5001) and twice(reads_what_was, 5001) and twice(largest, 5001)
    # Few rounds, nothing to ask, and what takes longer than to ask.
    assert not twice(reads_what_was, 100) and not twice(lambda x: np.sum(x * x), 5120)
    assert not twice(lambda x: np.sum(np.exp(x[1:] * x[:-1])), 5001)


def test_zeros_keep_their_sign(short):
    # A sum begins with zero, so that minus zero does not come out of rounds that nothing is added in.
    both = Both(gradient(lambda x: np.sum(x[1:] * 0.0 - x[:-1] * 0.0) + x[50]), np.ones(200))
    expected, found = both.run(-np.ones(200))
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(np.signbit(a), np.signbit(b))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("c", [0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan, 1e-310, 1e-40])
def test_what_is_asked_of_constants(c, dtype):
    import tapegrad as tg

    c = dtype(c)
    f = lambda x: np.sum(np.where(x > c, x * c, c) * x**2 + np.sqrt(np.abs(x)) * c)
    x = np.random.default_rng(9).normal(size=300).astype(dtype)
    x[::7] = np.resize(np.array([0.0, -0.0, np.inf, np.nan], dtype), 43)
    for program in (gradient(f), lambda x: tg.jvp(tg.grad(f), (x,), (x * c,))[1]):
        with np.errstate(all="ignore"):
            both = Both(program, x)
            assert difference(*both.run(x)) <= (1e-14 if dtype == np.float64 else 1e-6)
