"""Derivatives of functions that use a Value from around them: Values, which depend on that one."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import OuterValueError


def test_a_gradient_closes_over_a_value():
    v = Value(2.0)
    slope = tg.grad(lambda y: v * y * y)(3.0)
    assert isinstance(slope, Value)
    assert slope.item() == 12.0
    slope.backward()
    assert v.grad == 6.0


def test_every_transform_closes_over_a_value():
    w, x, d = Value([1.0, 2.0]), np.array([0.3, 0.7]), np.array([1.0, -1.0])

    def f(x):
        return np.sum(np.sin(x) * x * w)

    def plain(x):
        return np.sum(np.sin(x) * x * np.array([1.0, 2.0]))

    asked = {
        "grad": lambda f: tg.grad(f)(x),
        "value": lambda f: tg.value_and_grad(f)(x)[0],
        "keywords": lambda f: tg.grad(lambda x, k: f(x) * k)(x, k=2.0),
        "vjp": lambda f: tg.vjp(f, x)[1](1.0)[0],
        "jvp": lambda f: tg.jvp(f, (x,), (d,))[1],
        "linearize": lambda f: tg.linearize(f, x)[1](d),
        "jacobian": lambda f: tg.jacobian(lambda x: np.stack([f(x), f(2.0 * x)]))(x),
        "jacfwd": lambda f: tg.jacfwd(lambda x: np.stack([f(x), f(2.0 * x)]))(x),
        "jacrev": lambda f: tg.jacrev(f)(x),
        "hessian": lambda f: tg.hessian(f)(x),
        "hvp": lambda f: tg.hvp(f, (x,), (d,)),
        "make_hvp": lambda f: tg.make_hvp(f)(x)(d),
        "elementwise": lambda f: tg.elementwise_grad(f)(x),
    }
    for name, ask in asked.items():
        found = ask(f)
        assert isinstance(found, Value), name
        np.testing.assert_allclose(found.data, ask(plain), rtol=1e-13, err_msg=name)
        w.zero_grad()
        np.sum(found).backward()
        assert np.any(np.array(w.grad) != 0.0), name


def test_a_branch_that_meets_a_value_later():
    v = Value(3.0)
    slope = tg.grad(lambda y: y * y if y < 1.0 else v * y)
    assert slope(0.5) == 1.0
    assert slope(2.0).item() == 3.0
    assert slope(0.25) == 0.5


def test_a_recording_does_not():
    v = Value(2.0)
    with pytest.raises(OuterValueError, match="as an argument"):
        tg.record(lambda y: v * y, 3.0)
