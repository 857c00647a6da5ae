"""tapegrad.scipy.integrate: against SciPy and differences."""

import numpy as np
import pytest
import scipy.integrate

import tapegrad as tg
from tapegrad.errors import ShapeError
from tapegrad.scipy import integrate

RNG = np.random.default_rng(0)
RULES = ["trapezoid", "simpson", "cumulative_trapezoid"]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("several", [False, True])
def test_sums_over_samples(name, n, several):
    y, axis = (RNG.normal(size=(n, 3)), 0) if several else (RNG.normal(size=n), -1)
    x = np.sort(RNG.normal(size=n))
    ours, theirs = getattr(integrate, name), getattr(scipy.integrate, name)
    for kwargs in ({}, {"x": x}, {"dx": 0.3}):
        expected = theirs(y, axis=axis, **kwargs)
        np.testing.assert_allclose(ours(y, axis=axis, **kwargs), expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(ours(tg.Value(y), axis=axis, **kwargs).data, expected, rtol=1e-12, atol=1e-14)
    tg.check_grads(lambda y, x: ours(y, x=x, axis=axis), (y, x), order=2)


def test_sums_over_samples_that_stand_in_their_own_places():
    y, x = RNG.normal(size=(2, 6)), np.sort(RNG.normal(size=(2, 6)))
    for name in RULES:
        expected = getattr(scipy.integrate, name)(y, x=x)
        np.testing.assert_allclose(getattr(integrate, name)(tg.Value(y), x=tg.Value(x)).data, expected, rtol=1e-12)
    found = integrate.cumulative_trapezoid(tg.Value(y), x=x, initial=0).data
    np.testing.assert_allclose(found, scipy.integrate.cumulative_trapezoid(y, x=x, initial=0), rtol=1e-13)
    with pytest.raises(ValueError, match="initial"):
        integrate.cumulative_trapezoid(tg.Value(y), initial=1.0)
    with pytest.raises(ShapeError, match="5 points"):
        integrate.trapezoid(tg.Value(y), x=np.arange(5.0))


def wave(x, k, m):
    return np.exp(-k * x) * np.sin(m["w"][0] * x + m["w"][1])


def area(a, b, k, w):
    return integrate.quad(wave, a, b, args=(k, {"w": w}))[0]


def test_quad():
    args = (0.1, 1.3, 0.7, np.array([2.0, 0.3]))
    exact = scipy.integrate.quad(wave, 0.1, 1.3, args=(0.7, {"w": args[3]}))
    assert integrate.quad(wave, 0.1, 1.3, args=(0.7, {"w": args[3]})) == exact
    recording = tg.record(area, 0.0, 1.0, 0.5, np.array([1.0, 0.0]))
    assert recording(*args) == pytest.approx(exact[0], rel=1e-14)
    tg.check_grads(area, args, order=2)
    _, error = tg.record(lambda b: integrate.quad(np.sin, 0.0, b), 1.0)(2.0)
    assert error == scipy.integrate.quad(np.sin, 0.0, 2.0)[1]


def test_quad_to_infinity():
    def f(k):
        return integrate.quad(lambda x, k: np.exp(-k * x), 0.0, np.inf, args=(k,))[0]

    assert tg.grad(f)(2.0) == pytest.approx(-0.25, rel=1e-9)
    assert tg.grad(tg.grad(f))(2.0) == pytest.approx(0.25, rel=1e-8)


def test_quad_refuses_what_it_does_not_differentiate():
    with pytest.raises(TypeError, match="weight, wvar= is not supported"):
        tg.grad(lambda b: integrate.quad(np.sin, 0.0, b, weight="cos", wvar=1.0)[0])(1.0)
    assert integrate.quad(np.sin, 0.0, 1.0, weight="cos", wvar=1.0)[0] == pytest.approx(0.354036709)
