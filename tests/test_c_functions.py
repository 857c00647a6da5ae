"""Recordings and gradients as functions of C."""

import collections
import ctypes
import gc

import numba
import numpy as np
import pytest
import scipy.integrate
import scipy.ndimage

import tapegrad as tg
from tapegrad import errors

Pair = collections.namedtuple("Pair", "a b")


@numba.njit
def rough(x, p):
    y = p[0]
    while y < 10.0:
        y *= 1.0 + x * x
    return y * p[1]


@numba.njit
def picky(x):
    if x[0] > 1.0:
        raise ValueError("too large")
    return x[0] ** 2 * x[1]


def pointer(x):
    return x.ctypes.data_as(ctypes.POINTER(ctypes.c_double))


def test_integrals():
    r = tg.record(lambda x: np.exp(-x * x), 0.5)
    for f, plain in ((r, r), (tg.grad(r), r.grad)):
        c = tg.cfunc(f, "double (double)")
        assert c.ctypes(0.3) == plain(0.3)
        found, expected = (scipy.integrate.quad(g, 0.0, 1.0)[0] for g in (c.low_level_callable(), plain))
        assert np.isclose(found, expected, rtol=1e-13)


def test_integrals_with_parameters():
    r = tg.record(lambda x, p: p[0] * np.exp(-p[1] * x), 0.5, np.ones(2))
    p = np.array([3.0, 2.0])
    f = tg.cfunc(r, "double (double, void *)").low_level_callable(p)
    assert np.isclose(scipy.integrate.quad(f, 0.0, np.inf)[0], 1.5)
    p[1] = 4.0
    assert np.isclose(scipy.integrate.quad(f, 0.0, np.inf)[0], 0.75)
    by_p = tg.cfunc(tg.grad(r), "double (double, void *)").low_level_callable(p)
    assert np.isclose(scipy.integrate.quad(by_p, 0.0, np.inf)[0], -3.0)
    with pytest.raises(errors.ShapeError, match="contiguous array of float64"):
        tg.cfunc(r, "double (double, void *)").low_level_callable(np.ones(2, np.float32))


def test_integrals_over_several_variables():
    r = tg.record(lambda x, y, p: p[0] * x * np.sin(y) ** 2, 0.5, 0.3, np.ones(1))
    f = tg.cfunc(r, "double (int, double *, void *)").low_level_callable(np.array([2.0]))
    found = scipy.integrate.nquad(f, [[0.0, 1.0], [0.0, 2.0]])[0]
    assert np.isclose(found, 1.0 - np.sin(4.0) / 4.0)
    r = tg.record(lambda x: x[0] * np.sin(x[1]) ** 2, np.ones(2))
    f = tg.cfunc(r, "double (int n, double *x)")
    assert np.isclose(scipy.integrate.nquad(f.low_level_callable(), [[0.0, 1.0], [0.0, 2.0]])[0], found / 2.0)
    x = np.array([0.5, 2.0])
    assert f.ctypes(2, pointer(x)) == r(x)
    assert np.isnan(f.ctypes(3, pointer(x)))


def test_filters():
    weights, image = np.array([1.0, 2.0, 1.0]), np.random.default_rng(0).normal(size=50)
    r = tg.record(lambda x: np.log(np.sum(weights * np.exp(x))), np.ones(3))
    f = tg.cfunc(r, "int (double *buffer, npy_intp size, double *value, void *data)").low_level_callable()
    found, expected = (scipy.ndimage.generic_filter(image, g, size=3) for g in (f, lambda x: r(x.copy())))
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    with pytest.raises(RuntimeError, match="filter function"):
        scipy.ndimage.generic_filter(image, f, size=5)


def test_gradients():
    pair = Pair(np.array([[1.0, 2.0], [3.0, 4.0]]), 0.5)
    r = tg.record(lambda p, x: np.sum(p.a**2) * p.b * x, pair, 2.0)
    packed = np.array([1.0, 2.0, 3.0, 4.0, 0.5, 2.0])
    expected = r.value_and_grad(pair, 2.0, argnums=(1, 0))
    flat = np.concatenate([[expected[1][0]], expected[1][1].a.ravel(), [expected[1][1].b]])
    gradient, value = np.zeros(6), np.zeros(1)
    f = tg.cfunc(tg.value_and_grad(r, (1, 0)), "double (const double *x, double *gradient)")
    assert np.isclose(f.ctypes(pointer(packed), pointer(gradient)), expected[0])
    np.testing.assert_allclose(gradient, flat)
    f = tg.cfunc(tg.value_and_grad(r, (1, 0)), "int (const double *x, double *value, double *gradient)")
    gradient[:] = 0.0
    assert f.ctypes(pointer(packed), pointer(value), pointer(gradient)) == 0
    assert np.isclose(value[0], expected[0])
    np.testing.assert_allclose(gradient, flat)


def test_what_fails_is_not_a_number():
    r = tg.record(lambda x: np.sum(x) ** 2 if x[0] < 1.0 else np.sum(x), np.zeros(2))
    status = tg.cfunc(r, "int (const double *x, double *value, double *gradient)")
    plain = tg.cfunc(r, "double (const double *x, double *gradient)")
    x, value, gradient = np.array([0.5, 1.0]), np.zeros(1), np.zeros(2)
    assert status.ctypes(pointer(x), pointer(value), pointer(gradient)) == 0
    assert value[0] == 2.25 and gradient.tolist() == [3.0, 3.0]
    assert plain.ctypes(pointer(x), pointer(gradient)) == 2.25
    x[0] = 2.0
    assert status.ctypes(pointer(x), pointer(value), pointer(gradient)) == 1
    assert np.isnan(value[0]) and np.isnan(gradient).all()
    gradient[:] = 0.0
    assert np.isnan(plain.ctypes(pointer(x), pointer(gradient))) and np.isnan(gradient).all()


def test_functions_of_numba():
    p = np.array([2.0, 3.0])
    f = tg.cfunc(rough, "double (double, void *)", 0.5, p)
    assert f.ctypes(0.7, pointer(p)) == rough(0.7, p)
    f = tg.cfunc(tg.grad(rough), "double (double, void *)", 0.5, p).low_level_callable(p)
    slope = tg.grad(rough)
    assert np.isclose(scipy.integrate.quad(f, 0.9, 0.95)[0], scipy.integrate.quad(slope, 0.9, 0.95, args=(p,))[0])
    f, gradient = tg.cfunc(tg.value_and_grad(picky), "double (double *, double *)", p), np.zeros(2)
    x = np.array([0.5, 3.0])
    assert f.ctypes(pointer(x), pointer(gradient)) == 0.75 and gradient.tolist() == [3.0, 0.25]
    assert np.isnan(f.ctypes(pointer(p), pointer(gradient))) and np.isnan(gradient).all()


def test_called_from_numba_by_address():
    r = tg.record(lambda x: np.sin(x) * x, 0.5)
    f = tg.cfunc(tg.grad(r), "double (double)")
    call = f.ctypes

    @numba.njit
    def total(n):
        s = 0.0
        for i in range(n):
            s += call(0.1 * i)
        return s

    assert np.isclose(total(20), sum(r.grad(0.1 * i) for i in range(20)))


def test_it_stays_as_long_as_somebody_calls_it():
    def made():
        return tg.cfunc(tg.record(lambda x: np.exp(-x * x), 0.5), "double (double)").low_level_callable()

    f = made()
    gc.collect()
    assert np.isclose(scipy.integrate.quad(f, 0.0, 1.0)[0], 0.7468241328124271)
    c = tg.cfunc(tg.record(lambda x: x * x, 0.5), "double (double)")
    assert ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(c.address)(3.0) == 9.0
    assert repr(c).endswith("<lambda>: double (double)>")


@pytest.mark.parametrize(
    ("f", "signature", "examples", "error", "message"),
    [
        (lambda: tg.record(np.sin, 1.0), "float (float)", (), errors.OperationError, "the signature is one of"),
        (lambda: np.sin, 3, (), errors.OperationError, "the signature is a text"),
        (lambda: np.sin, None, (), errors.OperationError, "the signature is a text"),
        (lambda: np.sin, "double (double", (), errors.OperationError, "the signature is one of"),
        (lambda: tg.record(np.sin, 1.0), "double (double, void *)", (), errors.UnsupportedError, r"double \(d"),
        (lambda: tg.record(np.sin, np.ones(2)), "double (double)", (), errors.UnsupportedError, "double \\*"),
        (lambda: tg.record(np.sin, np.ones(2)), "double (int, double *)", (), errors.UnsupportedError, "one number"),
        (lambda: tg.record(np.sin, 1), "double (int, double *)", (), errors.UnsupportedError, "not of float64"),
        (lambda: tg.record(np.sin, 1.0), "double (int, double *, void *)", (), errors.UnsupportedError, "one argument"),
        (lambda: tg.grad(tg.record(np.sin, 1.0)), "double (double *, double *)", (), errors.UnsupportedError, "value"),
        (lambda: picky, "double (int, double *)", (), errors.UnsupportedError, "pass example arguments"),
        (lambda: tg.grad(np.sin), "double (double)", (), errors.UnsupportedError, "record it"),
        (lambda: np.sin, "double (double)", (), errors.UnsupportedError, "neither a recording"),
    ],
)
def test_what_is_refused(f, signature, examples, error, message):
    with pytest.raises(error, match=message):
        tg.cfunc(f(), signature, *examples)
