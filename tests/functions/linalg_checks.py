"""Derivatives of functions of arrays, at points that were not recorded, against differences of NumPy's functions."""

import numpy as np

import tapegrad as tg
from tests.checks import difference


def weighed(y):
    """A smooth function of all elements, each with weights of its own."""
    rng = np.random.default_rng(len(y.shape))
    first, second = rng.normal(size=(2, *y.shape)).astype(y.dtype)
    return np.sum(first * y + second * y * y)


def close(got, expected, rtol):
    scale = 1.0 + np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(got, expected, rtol=0.0, atol=rtol * scale)


def check_derivatives(f, shape, h=2e-4, second=True):
    """Value, gradient, forward mode, and second derivatives in the orders that differ, of f from arrays to a number."""
    rng = np.random.default_rng(sum(shape))
    recorded_at, x, d = rng.normal(size=(3, *shape))
    recording = tg.record(f, recorded_at)
    value, gradient = recording.value_and_grad(x)
    close(value, f(x), 1e-12)
    slope = difference(lambda t: f(x + t * d), h)
    close(np.sum(gradient * d), slope, 1e-7)
    close(recording.jvp((x,), (d,))[1], slope, 1e-7)
    if second:
        curve = difference(lambda t: recording.grad(x + t * d), h)
        close(recording.hvp((x,), (d,)), curve, 1e-6)
        close(tg.grad(lambda x: np.sum(tg.grad(f)(x) * d))(x), curve, 1e-6)
        twice = tg.jvp(lambda x: tg.jvp(f, (x,), (d,))[1], (x,), (d,))[1]
        close(twice, np.sum(curve * d), 1e-6)


def check_float32(f, shape):
    """float32 stays float32, and is the double precision result to its own."""
    x = np.random.default_rng(3).normal(size=shape)
    value, gradient = tg.value_and_grad(f)(x.astype(np.float32))
    expected = tg.grad(f)(x.astype(np.float32).astype(float))
    assert f(tg.Value(x.astype(np.float32))).dtype == gradient.dtype == np.float32
    close(value, f(x), 2e-4)
    close(gradient, expected, 2e-3)
