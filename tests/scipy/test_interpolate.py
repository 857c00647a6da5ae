"""tapegrad.scipy.interpolate: against SciPy and differences."""

import numpy as np
import pytest
import scipy.interpolate

import tapegrad as tg
from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.scipy.interpolate import CubicSpline, PPoly, interp1d

RNG = np.random.default_rng(0)
X = np.sort(RNG.uniform(0.0, 5.0, 8))
AT = RNG.uniform(-0.5, 5.5, (2, 3))
ENDS = ["not-a-knot", "natural", "clamped", ((1, 0.5), (2, 0.0))]


@pytest.mark.parametrize(("shape", "axis"), [((8,), 0), ((8, 2), 0), ((3, 8, 2), 1), ((2, 8), -1)])
@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_cubic_splines(ends, shape, axis):
    y = RNG.normal(size=shape)
    if not isinstance(ends, str) and len(shape) > 1:
        ends = "natural"
    expected = scipy.interpolate.CubicSpline(X, y, axis=axis, bc_type=ends)
    for nu in range(4):
        for at in (AT, AT[0, 0], X):
            exact = expected(at, nu)
            for data, points in ((y, at), (tg.Value(y), at), (y, tg.Value(at)), (tg.Value(y), tg.Value(at))):
                found = CubicSpline(X, data, axis, ends)(points, nu)
                found = found.data if isinstance(found, tg.Value) else found
                assert np.shape(found) == exact.shape
                np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-10)
    tg.check_grads(lambda y, at: CubicSpline(X, y, axis, ends)(at), (y, AT), order=2)
    tg.check_grads(lambda y, at: CubicSpline(X, y, axis, ends)(at, 1), (y, AT))
    tg.check_grads(lambda y: CubicSpline(X, y, axis, ends)(AT, 1), (y,), order=2)


def test_replays_at_points_in_other_intervals():
    y = RNG.normal(size=8)
    recording = tg.record(lambda y, at: CubicSpline(X, y)(at), y, AT)
    exact = scipy.interpolate.CubicSpline(X, 2.0 * y)
    for at in (AT, AT[::-1], 0.5 * AT):
        np.testing.assert_allclose(recording(2.0 * y, at), exact(at), rtol=1e-10, atol=1e-10)
        slopes = np.diag(recording.jacobian(2.0 * y, at, argnums=1).reshape(6, 6))
        np.testing.assert_allclose(slopes, exact(at, 1).reshape(-1), rtol=1e-9)


def test_derivatives_and_integrals_are_splines_too():
    y = RNG.normal(size=8)
    exact = scipy.interpolate.CubicSpline(X, y)
    ours = CubicSpline(X, tg.Value(y))
    np.testing.assert_allclose(ours.derivative()(AT).data, exact(AT, 1), rtol=1e-9)
    np.testing.assert_allclose(ours.derivative(4)(AT).data, 0.0 * AT)
    assert ours.integrate(0.3, 4.1).item() == pytest.approx(float(exact.integrate(0.3, 4.1)), rel=1e-12)
    tg.check_grads(lambda y, a, b: CubicSpline(X, y).integrate(a, b), (y, 0.3, 4.1), order=2)


def test_outside():
    y = RNG.normal(size=8)
    expected = scipy.interpolate.CubicSpline(X, y, extrapolate=False)(AT)
    for at in (AT, tg.Value(AT)):
        found = CubicSpline(X, y, extrapolate=False)(at)
        np.testing.assert_allclose(found.data if isinstance(found, tg.Value) else found, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@pytest.mark.parametrize(("shape", "axis"), [((8,), -1), ((8, 2), 0), ((3, 8, 2), 1)])
@pytest.mark.parametrize("fill", [np.nan, "extrapolate", 7.0, (1.0, 2.0)], ids=str)
def test_interp1d(kind, shape, axis, fill):
    y = RNG.normal(size=shape)
    order = RNG.permutation(8)
    bounds = None if isinstance(fill, str) else False
    exact = scipy.interpolate.interp1d(X, y, kind, axis=axis, fill_value=fill, bounds_error=bounds)(AT)
    for data, at in ((y, AT), (tg.Value(y), tg.Value(AT)), (tg.Value(y), AT)):
        for x, moved in ((X, data), (X[order], np.take(data, order, axis=axis))):
            found = interp1d(x, moved, kind, axis, fill_value=fill, bounds_error=bounds)(at)
            found = found.data if isinstance(found, tg.Value) else found
            np.testing.assert_allclose(found, exact, rtol=1e-10, atol=1e-11)
    inside = RNG.uniform(X[0] + 0.01, X[-1] - 0.01, 4)
    tg.check_grads(lambda y, at: interp1d(X, y, kind, axis)(at), (y, inside), order=2)


def test_float32():
    y = RNG.normal(size=8).astype(np.float32)
    at = np.linspace(X[0] + 0.1, X[-1] - 0.1, 5)
    for make in (CubicSpline, interp1d):
        gradient = tg.grad(lambda y, f=make: np.sum(f(X, y)(at.astype(np.float32)) ** 2))(y)
        exact = tg.grad(lambda y, f=make: np.sum(f(X, y)(at) ** 2))(y.astype(float))
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-5)


def test_what_is_wrong_is_named():
    y = np.ones(8)
    with pytest.raises(UnsupportedError, match="x must be plain numbers"):
        CubicSpline(tg.Value(X), y)
    with pytest.raises(ShapeError, match="do not fit"):
        CubicSpline(X, y[1:])
    with pytest.raises(UnsupportedError, match="periodic"):
        CubicSpline(X, y, bc_type="periodic")
    with pytest.raises(ValueError, match="outside"):
        interp1d(X, y)([10.0])
    with pytest.raises(UnsupportedError, match="'linear' or 'cubic'"):
        interp1d(X, y, "nearest")
    with pytest.raises(ValueError, match="ascend"):
        PPoly(np.ones((2, 2)), [0.0, 2.0, 1.0])
    with pytest.raises(ShapeError, match="one more than intervals"):
        PPoly(np.ones((2, 2)), [0.0, 2.0])
