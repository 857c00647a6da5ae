"""Windows are views whose elements overlap, so that adjoints of many elements are added into one."""

import numpy as np
import pytest

import tapegrad as tg

windows = np.lib.stride_tricks.sliding_window_view


def gathered(x, shape, axis=None):
    """Windows by index arrays."""
    return x.reshape(-1)[windows(np.arange(x.size).reshape(x.shape), shape, axis)]


CASES = {
    "one axis": (lambda w, x: np.sin(w(x, 7)), (3000,)),
    "longer than a block": (lambda w, x: w(x, 1100) * 0.5 + 1.0, (1300,)),
    "product with itself": (lambda w, x: w(x, 5) * w(x, 5)[::-1], (3000,)),
    "transposed": (lambda w, x: np.exp(w(x, 40).T), (600,)),
    "two axes": (lambda w, x: np.tanh(w(x, (3, 4))), (30, 40)),
    "one of two axes": (lambda w, x: w(x, 5, axis=0) ** 2, (60, 20)),
    "sums": (lambda w, x: np.sum(w(x, 9) ** 2, axis=-1), (2000,)),
    "sums of windows": (lambda w, x: np.sum(w(x, 9), axis=0), (2000,)),
    "largest": (lambda w, x: np.max(w(x, 6), axis=-1), (2000,)),
    "norms": (lambda w, x: np.linalg.norm(w(x, 6), axis=1), (2000,)),
    "matrix product": (lambda w, x: np.matmul(w(x, 6), w(x, 6).T)[::7], (300,)),
    "joined": (lambda w, x: np.concatenate([w(x, 6), w(x, 6)], axis=1), (500,)),
    "sorted": (lambda w, x: np.sort(w(x, 6), axis=1), (500,)),
    "flattened": (lambda w, x: np.cumsum(w(x, 6).reshape(-1)), (500,)),
    "windows of windows": (lambda w, x: w(w(x, 6), 3, axis=0) * 2.0, (500,)),
}


# Compiled, where the loops differ.
COMPILED = ("one axis", "product with itself", "two axes", "sums", "largest")


@pytest.mark.parametrize(("name", "compile"), [(n, False) for n in CASES] + [(n, True) for n in COMPILED])
def test_windows_add_up(name, compile):
    f, shape = CASES[name]
    rng = np.random.default_rng(2)
    x, v = rng.normal(size=shape), rng.normal(size=shape)
    weight = rng.normal(size=f(windows, x).shape)
    losses = [lambda x, w=w: np.sum(f(w, x) * weight) for w in (windows, gathered)]
    one, other = (tg.value_and_grad(loss, compile=compile) for loss in losses)
    for at in (x, x + 0.1 * v):
        (value, gradient), (expected, exact) = one(at), other(at)
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-10 * np.abs(weight).sum())
        np.testing.assert_allclose(gradient, exact, rtol=1e-9, atol=1e-10 * (1.0 + np.abs(exact).max()))
    if not compile:
        one, other = (tg.hvp(loss, (x,), (v,)) for loss in losses)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * (1.0 + np.abs(other).max()))
        one, other = (tg.jvp(loss, (x,), (v,))[1] for loss in losses)
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(weight).sum())


@pytest.mark.parametrize("mode", ["full", "same", "valid"])
@pytest.mark.parametrize("sizes", [(2000, 30), (31, 700), (600, 600)])
def test_long_convolutions(mode, sizes):
    rng = np.random.default_rng(4)
    a, v = (rng.normal(size=n) for n in sizes)
    weight = rng.normal(size=np.convolve(a, v, mode).shape)
    value, (by_a, by_v) = tg.value_and_grad(lambda a, v: np.sum(np.convolve(a, v, mode) * weight), argnums=(0, 1))(a, v)
    np.testing.assert_allclose(value, np.sum(np.convolve(a, v, mode) * weight), rtol=1e-9)
    # It is linear in each.
    np.testing.assert_allclose(np.sum(by_a * a), value, rtol=1e-9)
    np.testing.assert_allclose(np.sum(by_v * v), value, rtol=1e-9)
    unit = np.zeros(sizes[0])
    for i in (0, sizes[0] // 2, sizes[0] - 1):
        unit[:] = np.arange(sizes[0]) == i
        np.testing.assert_allclose(by_a[i], np.sum(np.convolve(unit, v, mode) * weight), rtol=1e-8, atol=1e-9)
