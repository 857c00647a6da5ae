"""Gradients of short functions of long arrays that nobody wants the value of: programs without it."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import NonScalarError

N = 60_000


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    monkeypatch.delenv("TAPEGRAD_COMPILE", raising=False)


def chained(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def points(count=3, seed=0):
    return list(np.random.default_rng(seed).normal(size=(count, N)))


def asked(recording):
    return {key[0] for key in recording.derived.asked()}


def test_gradients_are_those_beside_the_value():
    both, alone = tg.record(chained, points()[0]), tg.record(chained, points()[0])
    for x in points():
        value, gradient = both.value_and_grad(x)
        assert value == pytest.approx(chained(x), rel=1e-12)
        # Bit by bit: the same instructions compute it.
        np.testing.assert_array_equal(alone.grad(x), gradient)
    assert asked(alone) == {"grad"} and asked(both) == {"value_and_grad"}
    (key,) = alone.derived.asked()
    small, large = alone.derived.programs(key)[0], both.derived.programs(both.derived.asked()[0])[0]
    assert len(small.steps) < len(large.steps)
    assert [(runs.what, runs.how) for runs in alone.stats().runs] == [("value", "interpreted"), ("grad", "compiled")]


def test_both_may_be_asked_for():
    r = tg.record(chained, points()[0])
    for x in points():
        gradient = r.grad(x)
        value, other = r.value_and_grad(x)
        np.testing.assert_array_equal(gradient, other)
        assert isinstance(value, float) and value == pytest.approx(chained(x), rel=1e-12)
    f = lambda x: chained(x) * 2.0
    for x in points():
        np.testing.assert_array_equal(tg.grad(f)(x), tg.value_and_grad(f)(x)[1])
        assert tg.value_and_grad(f)(x)[0] == pytest.approx(f(x), rel=1e-12)


def test_several_arguments_and_nested_ones():
    def f(p, k):
        return np.sum(p["x"] * np.tanh(p["y"])) * k

    x, y = points(2)
    for argnums in (0, (0, 1), (1,)):
        r = tg.record(f, {"x": x, "y": y}, 2.0)
        for k in (2.0, 3.0):
            given = {"x": x * k, "y": y}, k
            found = r.grad(*given, argnums=argnums)
            expected = tg.record(f, *given).value_and_grad(*given, argnums=argnums)[1]
            for a, b in zip(_flat(found), _flat(expected), strict=True):
                np.testing.assert_array_equal(a, b)


def _flat(nested):
    if isinstance(nested, dict):
        nested = tuple(nested.values())
    return [x for part in nested for x in _flat(part)] if isinstance(nested, tuple) else [nested]


def test_what_is_returned_besides_the_value():
    f = lambda x: (chained(x), x[:3] * 2.0)
    for x in points():
        gradient, aux = tg.grad(f, has_aux=True)(x)
        np.testing.assert_array_equal(gradient, tg.grad(chained)(x))
        np.testing.assert_array_equal(aux, x[:3] * 2.0)


def test_branches_are_taken_as_the_function_takes_them():
    def f(x):
        return chained(x) if x[0] > 0.0 else np.sum(x * x)

    r = tg.record(f, np.ones(N))
    for _ in range(2):
        for x in points():
            for first in (1.0, -1.0):
                x[0] = first
                np.testing.assert_allclose(r.grad(x), tg.grad(chained)(x) if first > 0.0 else 2.0 * x, rtol=1e-13)


def test_single_precision_stays_so():
    x = points()[0].astype(np.float32)
    found = tg.record(chained, x).grad(x)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tg.record(chained, x).value_and_grad(x)[1])


def test_second_derivatives_and_gradients_within_gradients():
    x, v = points(2)
    f = lambda x: np.sum(x**3)
    g = lambda x: np.sum(tg.grad(f)(x) * v)
    np.testing.assert_allclose(tg.grad(g)(x), 6.0 * x * v, rtol=1e-13)
    np.testing.assert_allclose(tg.record(g, x).grad(x), 6.0 * x * v, rtol=1e-13)


def test_functions_that_one_program_serves_for():
    # Short arrays, many instructions, and where nothing is compiled.
    assert "grad" not in asked(_after_grad(lambda x: np.sum(x * x), np.ones(10)))

    def long(x):
        for _ in range(70):
            x = x * 0.9 + 0.1
        return np.sum(x)

    assert "grad" not in asked(_after_grad(long, np.ones(N)))
    assert "grad" not in asked(_after_grad(chained, np.ones(N), compile=False))
    assert "grad" in asked(_after_grad(chained, np.ones(N), compile=True))


def _after_grad(f, x, **how):
    r = tg.record(f, x, **how)
    r.grad(x)
    return r


def test_compiling_takes_it_for_a_gradient():
    r = _after_grad(chained, points()[0])
    r.compile()
    assert asked(r) == {"grad"}


def test_errors_are_those_of_gradients():
    for f in (lambda x: x * 2.0, lambda x: (np.sum(x), x)):
        r = tg.record(f, np.ones(N))
        with pytest.raises(Exception) as found:
            r.grad(np.ones(N))
        with pytest.raises(found.type):
            r.value_and_grad(np.ones(N))
    with pytest.raises(NonScalarError):
        tg.grad(lambda x: x * 2.0)(np.ones(N))
