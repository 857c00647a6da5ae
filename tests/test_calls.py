"""Functions that a tape calls instead of looking into: black boxes, own rules, solvers, recomputation, linear algebra."""

import functools
import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import (
    CutGradientError,
    OperationError,
    ShapeError,
    StructureError,
    TapeMismatchError,
    UnsupportedError,
)  # fmt: skip

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)  # compiles faster
jnp = jax.numpy

X, V = np.array([0.3, 1.2]), np.array([1.0, 2.0])


def alike(found, expected, rtol=1e-10):
    """The same numbers, in leaves of the same shapes."""
    found, expected = jax.tree_util.tree_leaves(found), jax.tree_util.tree_leaves(expected)
    assert [np.shape(x) for x in found] == [np.shape(x) for x in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-11)


def differences(f, x, h=1e-5):
    columns = [
        (f(x + h * e.reshape(np.shape(x))) - f(x - h * e.reshape(np.shape(x)))) / (2 * h) for e in np.eye(np.size(x))
    ]
    return np.stack(columns, -1).reshape(np.shape(columns[0]) + np.shape(x))


# The cube, element by element, by every way to make a call.


def _with_rules(made, *rules):
    (made.defvjp if len(rules) == 2 else made.defjvp)(*rules)
    return made


CUBES = {
    "external": tg.external(lambda x: x**3, lambda w, y, x: 3 * w * x * x, numpy_rules=True),
    "external with jvp": tg.external(
        lambda x: x**3, lambda w, y, x: 3 * w * x * x, lambda t, y, x: 3 * t[0] * x * x, numpy_rules=True
    ),
    "checkpoint": tg.checkpoint(lambda x: x**3),
    "custom_vjp": _with_rules(tg.custom_vjp(lambda x: x**3), lambda x: (x**3, x), lambda x, w: (3 * w * x * x,)),
    "custom_jvp": _with_rules(tg.custom_jvp(lambda x: x**3), lambda p, t: (p[0] ** 3, 3 * p[0] ** 2 * t[0])),
    "implicit_root": tg.implicit_root(lambda y, x: y + y**3 - x**3 - x**9, lambda x: x**3),
    "fixed_point": tg.fixed_point(lambda y, x: 0.5 * y + 0.5 * x**3, lambda x: x**3),
    "iterated": tg.fixed_point(lambda y, x: 0.5 * y + 0.5 * x**3, np.zeros(2)),
    "solve": lambda x: np.linalg.solve(np.eye(2, dtype=x.dtype), x**3),
}


@pytest.mark.parametrize("name", CUBES)
def test_every_derivative_through_a_call(name):
    f = CUBES[name]
    loss = lambda x: np.sum(f(x) * V.astype(x.dtype))
    first, second = np.diag(3 * X**2), np.diag(6 * V * X)
    alike(tg.value_and_grad(loss)(X), (np.sum(X**3 * V), V * 3 * X**2))
    v = Value(X)
    loss(v * 1.0).backward()
    alike(v.grad, V * 3 * X**2)
    w = Value(X)
    np.sum(tg.jacobian(f)(w) ** 2).backward()
    alike(w.grad, 36 * X**3)
    for jacobian in (tg.jacobian, tg.jacrev, tg.jacfwd):
        alike(jacobian(f)(X), first)
    alike(tg.jacobian(f, sparse=True)(X).toarray(), first)
    alike(tg.jvp(f, (X,), (V,)), (X**3, first @ V))
    alike(tg.vjp(f, X)[1](V)[0], first @ V)
    r = tg.record(loss, np.array([2.0, -1.0]))
    alike(
        (r.grad(X), r.hessian(X), r.hvp((X,), (V,)), r.make_hvp(X)(V)), (V * 3 * X**2, second, second @ V, second @ V)
    )
    alike(r.hessian(X, sparse=True).toarray(), second)
    alike(tg.jvp(tg.grad(loss), (X,), (V,))[1], second @ V)
    alike(tg.grad(lambda x: np.sum(tg.grad(loss)(x) ** 2))(X), 2 * V * 3 * X**2 * np.diag(second))
    alike(np.einsum("iii->i", tg.jacobian(tg.hessian(loss))(X)), 6 * V)


@pytest.mark.parametrize("name", set(CUBES) - {"iterated"})
def test_every_call_in_float32(name):
    f, x = CUBES[name], X.astype(np.float32)
    loss = lambda x: np.sum(f(x) * x)
    for g, expected in ((tg.grad(loss)(x), 4 * X**3), (tg.jacfwd(f)(x), np.diag(3 * X**2)),
                        (tg.hessian(loss)(x), np.diag(12 * X**2)), (tg.hvp(loss, (x,), (x,)), 12 * X**3)):  # fmt: skip
        assert g.dtype == np.float32
        np.testing.assert_allclose(g, expected, rtol=1e-5)


# Black boxes.

A, B = np.array([[1.0, -0.5], [0.3, 2.0], [0.7, 0.1]]), np.array([0.2, -1.0, 0.5])


def layer(p, x, s):
    y = p["a"] @ x * s + p["b"]
    return {"y": np.sin(y), "n": np.sum(y**2)}


def layer_vjp(w, result, p, x, s):
    y = p["a"] @ x * s + p["b"]
    g = w["y"] * np.cos(y) + 2 * y * w["n"]
    return {"a": np.outer(g, x) * s, "b": g}, p["a"].T @ g * s, g @ (p["a"] @ x)


def test_external_of_nested_arguments():
    around = lambda f: lambda p, x, s: np.sum(f(p, x, s * 1.0)["y"] * B) * f(p, x, s)["n"] + np.sum(x)
    here, there = ({"a": A, "b": B}, X, 1.3), ({"a": A[::-1] * 2, "b": -B}, -V, 0.7)
    every = (0, 1, 2)
    for numpy_rules in (False, True):
        f = tg.external(layer, layer_vjp, numpy_rules=numpy_rules)
        r, plain = tg.record(around(f), *here), tg.record(around(layer), *here)
        alike(r.value_and_grad(*there, argnums=every), plain.value_and_grad(*there, argnums=every))
        alike(tg.jacobian(f, every)(*there), tg.jacobian(layer, every)(*there))
        alike(tg.jacfwd(f, every)(*there), tg.jacobian(layer, every)(*there))
        alike(tg.jvp(f, there, here), tg.jvp(layer, there, here))
        alike(tg.vjp(f, *there)[1]({"y": B, "n": None}), tg.vjp(layer, *there)[1]({"y": B, "n": 0.0}))
        sparse = tg.jacobian(f, every, sparse=True)(*there).toarray()
        alike(sparse, tg.jacobian(layer, every, sparse=True)(*there).toarray())
        if numpy_rules:
            alike(r.hessian(*there, argnums=every), plain.hessian(*there, argnums=every))
            alike(r.hvp(there, here), plain.hvp(there, here))
        else:
            with pytest.raises(UnsupportedError, match="layer.*numpy_rules"):
                r.hessian(*there)


def test_external_sees_arrays_of_its_own():
    kinds = []

    def careless(w, y, x):
        kinds.append((w.dtype, y.dtype, x.dtype))
        w *= np.cos(x)
        y[:], x[:] = 0.0, 0.0
        return w

    buffer = np.zeros(2, np.float32)
    sine = tg.external(lambda x: np.sin(x, out=buffer), careless)
    r = tg.record(lambda x: np.sum(sine(x) * sine(2.0 * x)), X.astype(np.float32))
    for _ in range(2):
        value, gradient = r.value_and_grad(X.astype(np.float32))
        assert value == pytest.approx(np.sum(np.sin(X) * np.sin(2 * X)), rel=1e-6)
        np.testing.assert_allclose(gradient, np.cos(X) * np.sin(2 * X) + 2 * np.sin(X) * np.cos(2 * X), rtol=1e-5)
    assert {str(k) for kind in kinds for k in kind} == {"float32"}


class Oops(Exception):
    pass


@pytest.mark.parametrize("error", [Oops("why"), KeyboardInterrupt(), SystemExit(3), StopIteration(), MemoryError()])
@pytest.mark.parametrize("inside", ["f", "vjp"])
def test_errors_inside_surface_unchanged(error, inside, rng):
    fail = []

    def guarded(name, value):
        if name in fail:
            raise error
        return value

    f = tg.external(lambda x: guarded("f", np.sin(x)), lambda w, y, x: guarded("vjp", w * np.cos(x)))
    g, r = tg.value_and_grad(lambda x: np.sum(f(x) * x)), tg.record(lambda x: f(x) * x, X)
    expected = g(X)
    asked = [g, r.jacobian, r.jacfwd, lambda x: r.jacobian(x, sparse=True), lambda x: r.jvp((x,), (V,)),
             lambda x: r.vjp(x)[1](V), lambda x: tg.jvp(f, (x,), (V,)), lambda x: np.sum(f(Value(x))).backward()]  # fmt: skip
    for ask in asked:
        fail.append(inside)
        with pytest.raises(type(error)) as info:
            ask(rng.normal(size=2))
        assert info.value is error
        fail.clear()
        alike(g(X), expected, rtol=0)
        alike(r.jacobian(X), np.diag(expected[1]))


WRONG = {
    "gradient of another shape": (ShapeError, r"\(5,\).*\(2,\)", lambda w, y, x: np.ones(5)),
    "gradient of no shape": (ShapeError, r"\(\).*\(2,\)", lambda w, y, x: 2.0),
    "two gradients": (ShapeError, "1 argument", lambda w, y, x: (w, w)),
    "list": (StructureError, "list", lambda w, y, x: list(w)),
    "complex gradient": (TypeError, "complex", lambda w, y, x: w * 1j),
}


@pytest.mark.parametrize("name", WRONG)
def test_rules_that_return_something_else(name):
    error, text, rule = WRONG[name]
    with pytest.raises(error, match=f"(?s){text}"):
        tg.grad(lambda x: np.sum(tg.external(np.sin, rule)(x)))(X)


def test_black_boxes_that_return_something_else():
    rule = lambda w, y, x: w
    for f, error, text in (
        (lambda x: "text", UnsupportedError, "real"),
        (lambda x: x * 1j, UnsupportedError, "complex"),
        (lambda x: Value(1.0) * 1.0, CutGradientError, ""),
    ):
        with pytest.raises(error, match=text):
            tg.grad(lambda x, f=f: np.sum(tg.external(f, rule)(x)))(X)
    r = tg.record(lambda x: tg.external(lambda x: x[x > 0], rule)(x), X)
    with pytest.raises(ShapeError, match=r"\(1,\).*\(2,\)"):
        r(np.array([1.0, -1.0]))
    assert r(V).tolist() == [1.0, 2.0]


def test_a_black_box_that_returns_nothing():
    with pytest.raises((UnsupportedError, OperationError, StructureError)):
        tg.grad(lambda x: np.sum(x) + (tg.external(lambda x: None, lambda w, y, x: w)(x) or 0.0))(X)


# Checkpoints.

step = lambda x: np.sin(x) * np.exp(-0.1 * x) + np.tanh(np.cos(x) * x) * 0.1


def test_checkpoints_trade_memory_for_time():
    def loop(f, n):
        return lambda x: np.sum(functools.reduce(lambda x, _: f(x), range(n), x) ** 2)

    x = np.linspace(-1, 1, 20)
    plain, kept = tg.record(loop(step, 1000), x), tg.record(loop(tg.checkpoint(step), 1000), x)
    alike(kept.value_and_grad(x[::-1] + 0.1), plain.value_and_grad(x[::-1] + 0.1))
    assert kept.stats().slots < plain.stats().slots / 8 and kept.stats().bytes < plain.stats().bytes / 5
    inner = tg.checkpoint(step)
    nested = tg.checkpoint(lambda x: inner(inner(x)))
    for f, n in ((inner, 4), (nested, 2)):
        a, b = tg.record(loop(f, n), X), tg.record(loop(step, 4), X)
        alike((a.grad(V), a.hessian(V), a.hvp((V,), (X,))), (b.grad(V), b.hessian(V), b.hvp((V,), (X,))))


def test_checkpoints_of_branches_and_trees():
    f = tg.checkpoint(lambda p, n: {"z": p["w"] * n if p["x"][0] > 0 else p["w"] ** 2 * p["x"][0]})
    g = tg.hessian(lambda p: np.sum(f(p, 3)["z"]) * 2.0)
    for x in (1.0, -1.5, 2.0):
        h = g({"w": V, "x": (x,)})
        alike(h["w"]["w"], np.diag([0.0 if x > 0 else 4 * x] * 2))
        alike(h["w"]["x"][0], [0.0, 0.0] if x > 0 else 4 * V)
    with pytest.raises(TapeMismatchError, match="argument"):
        tg.grad(lambda x: tg.checkpoint(lambda y: y * x)(x))(3.0)


def test_checkpoints_that_call_themselves():
    plain = lambda x: plain(0.5 * x) * x if x > 1 else x * x
    f = tg.checkpoint(lambda x: f(0.5 * x) * x if x > 1 else x * x)
    counted = tg.checkpoint(lambda x, n: counted(np.sin(counted(x, n - 1)), n - 1) if n else np.sin(x))
    found = []

    def ask():
        found.append(
            tg.grad(counted)(0.5, 1) == pytest.approx(np.cos(np.sin(np.sin(0.5))) * np.cos(np.sin(0.5)) * np.cos(0.5))
        )
        found.extend(tg.grad(f)(x) == tg.grad(plain)(x) for x in (0.5, 1.5, 3.0))

    # In a thread, because it may never end.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(10)
    assert found == [True] * 4


def test_black_boxes_that_replay_what_called_them():
    found, own = [], []
    f = tg.external(lambda x: x * 1.0 if x < 1 else own[0](x - 1.0) + 1.0, lambda w, y, x: w)
    own.append(tg.record(lambda x: f(x) * 2.0, 0.5))
    thread = threading.Thread(target=lambda: found.append(own[0](2.5)), daemon=True)
    thread.start()
    thread.join(10)
    assert found == [2 * (1 + 2 * (1 + 2 * 0.5))]
