"""Functions that are one instruction take arguments by name, as those do that they were made of."""

import functools

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import OperationError


def product(x, y=2.0, z=1.0):
    return np.sin(x) * y * z


def rules(w, result, x, y, z):
    return w * np.cos(x) * y * z, w * np.sin(x) * z, w * np.sin(x) * y


def by_vjp():
    made = tg.custom_vjp(product)
    made.defvjp(lambda x, y, z: (product(x, y, z), (x, y, z)), lambda kept, w: rules(w, None, *kept))
    return made


def by_jvp():
    made = tg.custom_jvp(product)

    @made.defjvp
    def _(primals, tangents):
        return product(*primals), sum(t * g for t, g in zip(tangents, rules(1.0, None, *primals)))

    return made


MADE = {
    "custom_vjp": by_vjp,
    "custom_jvp": by_jvp,
    "checkpoint": lambda: tg.checkpoint(product),
    "external": lambda: tg.external(product, rules, numpy_rules=True),
}


@pytest.mark.parametrize("name", MADE)
def test_values_and_gradients_are_those_of_the_function(name):
    f = MADE[name]()
    for call in (
        lambda f, x, y, z: f(x, y, z=z),
        lambda f, x, y, z: f(z=z, x=x, y=y),
        lambda f, x, y, z: f(x, z=z),  # y has its default
        lambda f, x, y, z: f(y, z=3.0, y=x * z),
    ):
        at = 0.5, 3.0, -1.5
        assert call(f, *at) == call(product, *at)
        found = tg.grad(functools.partial(call, f), argnums=(0, 1, 2))(*at)
        expected = tg.grad(functools.partial(call, product), argnums=(0, 1, 2))(*at)
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_arguments_that_are_not_differentiated():
    made = tg.custom_vjp(lambda x, times: x * len(times), nondiff_argnums=(1,))
    made.defvjp(lambda x, times: (x * len(times), None), lambda times, _, w: (10.0 * len(times) * w,))
    assert tg.grad(lambda x: made(times="abc", x=x))(1.0) == 30.0


def test_roots():
    root = tg.implicit_root(lambda x, a, b: x * x - a * b, lambda a, b=1.0: np.sqrt(a * b))
    assert tg.grad(lambda a: root(b=1.0, a=a))(4.0) == 0.25


def test_what_has_no_place_is_refused():
    step = tg.checkpoint(lambda x, *, rate=0.5: x * rate)
    assert tg.grad(step)(2.0) == 0.5
    with pytest.raises(OperationError, match=r"rate can be given by name alone.*functools\.partial"):
        step(2.0, rate=0.1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'ratio'"):
        step(2.0, ratio=0.1)
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        tg.checkpoint(product)(y=1.0)


def test_functions_whose_arguments_have_no_names():
    with pytest.raises(OperationError, match="give them by place"):
        tg.external(max, lambda w, y, a, b: (w * (a >= b), w * (a < b)))(1.0, other=2.0)
