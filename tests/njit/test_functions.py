"""Functions of numbers in Numba code follow the operation table: value and slope of each, all in one function."""

import math

import numba
import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops import BY_UFUNC, Elementwise

# What Numba itself does not compile for floats is not asked of us.
ROWS = [(u, r) for u, r in BY_UFUNC.items() if isinstance(r, Elementwise) and not r.truth and hasattr(np, u.__name__)]
UNARY = [(u, r) for u, r in ROWS if r.arity == 1 and u is not np.sign]
BINARY = [(u, r) for u, r in ROWS if r.arity == 2]


def module(lines):
    names = {"np": np, "math": math}
    lines = ["out = np.zeros(len(x))", *lines, "return out"]
    exec("def f(x, y):\n" + "\n".join(f"    {line}" for line in lines), names)
    return numba.njit(names["f"])


@pytest.fixture(scope="module")
def functions():
    lines = [f"out[{i}] = np.{u.__name__}(x[{i}])" for i, (u, _) in enumerate(UNARY)]
    lines += [f"out[{i}] = np.{u.__name__}(x[{i}], y[{i}])" for i, (u, _) in enumerate(BINARY, len(UNARY))]
    more = ["math.sqrt(x[{0}])", "math.atan2(x[{0}], y[{0}])", "x[{0}] ** 2", "x[{0}] ** -3", "x[{0}] ** y[{0}]",
            "2.0 ** x[{0}]", "-x[{0}] % 0.7", "abs(-x[{0}])", "max(x[{0}], y[{0}], 0.1)", "min(x[{0}], 9.0)",
            "math.erf(x[{0}])", "math.pow(x[{0}], 1.5)", "float(x[{0}]) + np.float64(y[{0}])",
            "x[{0}] // 0.3"]  # fmt: skip
    start = len(UNARY) + len(BINARY)
    lines += [f"out[{i}] = {text.format(i)}" for i, text in enumerate(more, start)]
    return module(lines), start + len(more)


@pytest.mark.slow
def test_functions_of_numbers(functions):
    f, n = functions
    rng = np.random.default_rng(3)
    for _ in range(5):
        x, y = rng.uniform(0.2, 0.9, n), rng.uniform(1.1, 1.9, n)
        for i, (_, row) in enumerate(UNARY):
            x[i] = rng.uniform(*row.samples[0])
        slopes = tg.jacobian(f, argnums=(0, 1))(x, y)
        assert all(s.shape == (n, n) for s in slopes)
        h = 1e-6
        for s, dx, dy in ((slopes[0], h, 0.0), (slopes[1], 0.0, h)):
            expected = (f(x + dx, y + dy) - f(x - dx, y - dy)) / (2.0 * h)
            far = np.abs(expected) > 1e4
            assert not np.count_nonzero(s - np.diag(np.diagonal(s)))
            np.testing.assert_allclose(np.diagonal(s)[~far], expected[~far], rtol=1e-5, atol=1e-6)
        # The same, recorded as operations.
        value, tangent = tg.record(f, x, y).jvp((x, y), (np.ones(n), np.zeros(n)))
        np.testing.assert_allclose(value, f(x, y), rtol=1e-12)
        np.testing.assert_allclose(tangent, np.diagonal(slopes[0]), rtol=1e-9, atol=1e-12)


@numba.njit
def of_arrays(a, x):
    n = len(x)
    s = np.sum(a @ x) + np.dot(x, a)[0] + np.sum((a @ a) * a) + np.dot(x, x)
    s += np.sum(a.sum(axis=0) * x) + a.mean() + a.max() + np.prod(1.0 + 0.1 * x) + a.T.min()
    s += np.sum(np.linalg.solve(a + 4.0 * np.eye(n), x) ** 2) + np.linalg.norm(x)
    y = np.zeros_like(x)
    y[1:] += x[:-1]
    y *= 2.0
    y[x > 0.0] = 1.5
    z = np.where(x > 0.2, x, 0.3 * y) + np.maximum(x, 0.1) - np.clip(x, -0.5, 0.5) / np.exp(x)
    s += np.sum(z) + np.sum(np.ones_like(x) * x) + np.sum(np.cumsum(x) * x) + x[np.argmax(x)]
    s += np.sum(np.concatenate((x, y)) ** 2) + np.sum(a.reshape(n * n)[::2]) + np.sum(np.outer(x, x)[0])
    for i, (p, q) in enumerate(zip(x, x[::-1])):
        s += i * p * q
    pairs = [(x[0], x[1] * 2.0)]
    first, second = pairs[0]
    b = np.array([[first, second], [1.0, x[0]]])
    return s + np.sum(b @ b) + sum(x)


@pytest.mark.slow
def test_arrays():
    rng = np.random.default_rng(4)
    gradient, h = tg.value_and_grad(of_arrays, argnums=(0, 1)), 1e-6
    for _ in range(5):
        a, x = rng.normal(size=(4, 4)), rng.normal(size=4)
        value, (ga, gx) = gradient(a, x)
        assert value == pytest.approx(of_arrays(a, x), rel=1e-12)
        for given, found in ((a, ga), (x, gx)):
            for i in range(given.size):
                ends = []
                for sign in (1.0, -1.0):
                    moved = given.copy()
                    moved.flat[i] += sign * h
                    ends.append(of_arrays(moved, x) if given is a else of_arrays(a, moved))
                assert found.flat[i] == pytest.approx((ends[0] - ends[1]) / (2.0 * h), rel=1e-4, abs=1e-5)


def test_the_norm_has_slope_0_at_0():
    f = numba.njit(lambda p: np.linalg.norm(p[0] - p[1]) + np.linalg.norm(p[1] - p[2]))
    p = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    h = math.sqrt(0.5)
    np.testing.assert_allclose(tg.grad(f)(p), [[0.0, 0.0], [-h, -h], [h, h]], rtol=1e-14)
    # The same as operations, without a guard: one branch serves for all numbers.
    r = tg.record(f, np.arange(6.0).reshape(3, 2) ** 2)
    np.testing.assert_allclose(r.grad(p), [[0.0, 0.0], [-h, -h], [h, h]], rtol=1e-14)
    assert r.stats().branches == 1 and np.isfinite(r.hessian(p)).all()
    assert np.isnan(r(np.full((3, 2), np.nan)))


def test_a_list_is_refused_as_a_result():
    f = numba.njit(lambda x: [x, x * x])
    op = tg.njit_op(lambda x: [x, x])
    for g in (tg.jacobian(f), lambda x: tg.record(f, x), tg.grad(lambda x: op(x)[0])):
        with pytest.raises(tg.errors.UnsupportedError, match="returns a list.* tuple, or as an array"):
            g(1.0)


def test_the_refusal_of_a_function_says_what_there_is():
    with pytest.raises(tg.errors.UnsupportedError, match=r"`std\(.* supported are .*docs/styles.md lists"):
        tg.grad(numba.njit(lambda x: np.std(x)))(np.ones(3))
