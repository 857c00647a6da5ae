"""Long constants that repeat themselves, which compiled programs have as short tables."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.native.tables import period_of

from .both import Both, difference

N = 5003


def exactly(both, x):
    expected, found = both.run(x)
    assert difference(expected, found) == 0.0
    return both.native


def test_periods():
    rng = np.random.default_rng(0)
    assert period_of(np.ones(500)) == 1 and period_of(np.resize([1.0, 0.0, 0.0], 500)) == 3
    assert period_of(np.resize(rng.normal(size=64), 1000)) == 64
    assert period_of(np.resize(rng.normal(size=65), 1000)) is None and period_of(rng.normal(size=500)) is None
    # Bit by bit: a zero is not minus zero, and what is no number is the same as itself.
    assert period_of(np.resize([0.0, -0.0], 500)) == 2 and period_of(np.full(500, np.nan, np.float32)) == 1
    late = np.resize([1.0, 2.0], 500)
    late[-1] = 7.0
    assert period_of(late) is None


@pytest.mark.parametrize("period", [1, 2, 3, 5, 7, 16, 63, 64])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_elementwise_programs_with_neighbours(period, dtype):
    rng = np.random.default_rng(period)
    c = np.resize(rng.normal(size=period), N).astype(dtype)
    x = rng.normal(size=N).astype(dtype)

    def f(x):
        y = x * c
        # Rows of y that are computed earlier or later, and the constant from some number on.
        return y[5:] * c[:-5] + c[3:-2] * y[:-5], (x[:-1] - c[1:]) * c[0], x[2:] + c[2:] * c[4]

    native = exactly(Both(f, x), x)
    assert native.arena_bytes < 7.5 * N * x.itemsize


@pytest.mark.parametrize("period", [1, 3])
def test_gradients(period):
    c = np.resize([2.0, 0.0, -1.0][:period], N)
    x = np.random.default_rng(1).normal(size=N)
    f = lambda x: np.sum(c[1:] * x[1:] * x[:-1]) + np.sum(x[7:] * c[:-7]) ** 2
    both = Both(lambda x: tg.value_and_grad(f)(x), x)
    expected, found = both.run(x)
    assert difference(expected, found) < 1e-13


def test_constants_that_others_read_are_whole():
    c = np.resize([1.0, 2.0, 3.0], N)
    x = np.random.default_rng(2).normal(size=N)
    at = np.random.default_rng(3).permutation(N)
    for f in (
        lambda x: (x * c, np.sum((c * x)[at] * c)),
        lambda x: (x * c, c),
        lambda x: (x * c, np.sum(c.reshape(-1, 1)[:5000].reshape(50, 100) * x[:5000].reshape(50, 100), axis=0)),
        lambda x: (x * c, x[::2] * c[::2]),
        lambda x: (x * c, x[::-1] * c[::-1]),
    ):
        both = Both(f, x)
        assert difference(*both.run(x)) < 1e-13


def test_a_table_is_no_longer_than_the_constant():
    # A program of short arrays has no tables, and results are the same.
    for n in (100, 4095, 4096, 4097):
        c = np.resize([1.0, 2.0, 3.0], n)
        exactly(Both(lambda x, c=c: x * c, np.ones(n)), np.arange(1.0, n + 1.0))


def test_arguments_of_other_calls_do_not_reach_tables():
    c = np.resize([1.0, -2.0], N)
    r = tg.record(lambda x: np.tanh(x * c) * c, np.zeros(N), compile=True)
    rng = np.random.default_rng(4)
    for _ in range(3):
        x = rng.normal(size=N)
        np.testing.assert_allclose(r(x), np.tanh(x * c) * c, rtol=1e-14)
