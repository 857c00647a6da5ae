"""Certificates of differentiability, statistics of recordings, and derivatives that are asked for wrongly."""

import functools
import math
import warnings

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import (
    DTypeError,
    IntegerInputError,
    NonScalarError,
    ShapeError,
    StructureError,
    TapegradError,
)  # fmt: skip

ARRAY = np.array


def branches(x):
    return x * x if x < 1 else x


# A function, points on a kink with the operation that has it, points off it with the distance of the nearest.
KINKS = {
    "abs": (np.abs, "absolute", [0.0, -0.0], [(1.5, 1.5), (-0.25, 0.25)]),
    "relu": (tg.relu, "relu", [0.0], [(0.25, 0.25), (-0.5, 0.5)]),
    "leaky relu": (lambda x: tg.leaky_relu(x, 0.1), "leaky_relu", [0.0], [(0.25, 0.25), (-0.5, 0.5)]),
    "sqrt": (np.sqrt, "sqrt", [0.0], [(0.5, 0.5)]),
    "power": (lambda x: x**1.5, "power", [0.0], [(0.5, 0.5)]),
    "maximum": (lambda x: np.maximum(x, 2.0), "maximum", [2.0], [(1.5, 0.5), (3.0, 1.0)]),
    "minimum": (lambda x: np.minimum(2.0 * x, x + 1.0), "minimum", [1.0], [(1.5, 0.5)]),
    "clip": (lambda x: np.clip(x, 0.0, 1.0), "clip", [0.0, 1.0], [(0.25, 0.25), (1.5, 0.5), (-1.0, 1.0)]),
    "where": (lambda x: np.where(x > 0, x, -x), "greater", [0.0], [(0.25, 0.25), (-1.0, 1.0)]),
    "cond": (lambda x: tg.cond(x < 1, lambda x: x * x, lambda x: x, x), "less", [1.0], [(0.75, 0.25), (3.0, 2.0)]),
    "guard": (branches, "less", [1.0], [(0.75, 0.25), (3.0, 2.0)]),
    "equality": (lambda x: x * x if x == 1 else x, "equal", [1.0], [(1.5, 0.5)]),
    "floor": (lambda x: x * np.floor(x), "floor", [1.0, -2.0], [(1.25, 0.25), (-0.125, 0.125)]),
    "rint": (np.rint, "rint", [0.5, 1.5], [(0.25, 0.25), (1.0, 0.5)]),
    "sign": (np.sign, "sign", [0.0], [(0.5, 0.5)]),
    "int": (lambda x: x * int(x), "trunc", [1.0, -3.0], [(1.25, 0.25), (1.75, 0.25)]),
    "while": (lambda x: tg.while_loop(lambda s: s > 1, lambda s: 0.5 * s, x, 4), "greater", [2.0, 4.0], [(1.5, 0.25)]),
    "max": (np.max, "max", [ARRAY([1.0, 2.0, 2.0])], [(ARRAY([1.0, 2.0, 1.5]), 0.5)]),
    "min": (np.min, "m", [ARRAY([1.0, 1.0, 2.0])], [(ARRAY([1.0, 2.0, 1.5]), 0.5)]),
    "rows": (lambda x: np.max(x, 1), "max", [ARRAY([[1.0, 2], [3, 3]])], [(ARRAY([[1.0, 2], [3, 2.5]]), 0.5)]),
    "sort": (lambda x: np.sort(x) ** 2, "", [ARRAY([1.0, 3.0, 1.0])], [(ARRAY([1.0, 2.0, 1.5]), 0.5)]),
    "norm": (np.linalg.norm, "norm", [np.zeros(2)], [(ARRAY([3.0, 4.0]), 5.0)]),
    "arcsin, squared": (lambda x: (np.arcsin(x) - np.pi / 2) ** 2, "arcsin", [1.0], [(0.75, 0.25)]),
    "arccosh, squared": (lambda x: np.arccosh(x) ** 2, "arccosh", [1.0], [(1.5, 0.5)]),
    "angle": (lambda x: np.arctan2(x, -1.0), "arctan2", [0.0], [(0.5, 0.5), (-0.25, 0.25)]),
    "power of two": (lambda x: x[0] ** x[1], "power", [ARRAY([0.0, 0.5])], [(ARRAY([0.25, 0.5]), 0.25)]),
    "distance": (lambda x: np.sqrt(np.sum((x - 1.0) ** 2)), "sqrt", [np.ones(2)], [(ARRAY([4.0, 5.0]), 25.0)]),
    "argmax": (lambda x: x[np.argmax(x)], "argmax", [ARRAY([1.0, 1.0])], [(ARRAY([1.0, 1.5]), 0.5)]),
    "any": (lambda x: x[1] if np.any(x > 0) else -x[0], "greater", [ARRAY([-1.0, 0.0])], [(ARRAY([-1.0, -0.5]), 0.5)]),
    "elements": (lambda x: np.sum(np.abs(x)), "absolute", [ARRAY([1.0, 0.0, -3.0])], [(ARRAY([1.0, 0.5, -3.0]), 0.5)]),
}  # fmt: skip


@pytest.mark.parametrize("name", KINKS)
def test_kinks(name):
    f, operation, on, off = KINKS[name]
    # Recorded elsewhere than where it is certified.
    r = tg.record(f, off[0][0])
    for x in on:
        c = r.certificate(x)
        assert not c.differentiable and c.nearest.distance == 0.0 and operation in c.nearest.operation
        assert str(c).startswith("not differentiable") and c.nearest.operation in str(c)
        assert 0 <= c.nearest.instruction < len(r)
    for x, distance in off:
        c = r.certificate(x)
        assert c.differentiable and str(c).startswith("differentiable")
        assert c.nearest.distance == pytest.approx(distance, rel=1e-12)
        assert operation in c.nearest.operation
    assert [k.distance for k in c.kinks] == sorted(k.distance for k in c.kinks)


def test_which_element_and_which_instruction():
    r = tg.record(lambda x: np.sum(np.abs(x) * np.sin(x)) + np.sum(tg.relu(x - 1.0)), np.ones(4))
    c = r.certificate(ARRAY([2.0, 0.5, 0.0, -1.0]))
    assert (c.nearest.operation, c.nearest.element, c.nearest.operands) == ("absolute", 2, (0.0,))
    c = r.certificate(ARRAY([2.0, 0.5, 0.75, -1.0]))
    assert c.differentiable and (c.nearest.operation, c.nearest.element) == ("relu", 2)
    assert c.nearest.distance == 0.25 and [k.operation for k in c.kinks] == ["relu", "absolute"]


def test_numbers_that_are_read_are_kinks():
    c = tg.record(lambda x: x * x.item(), 1.0).certificate(2.0)
    assert not c.differentiable and c.nearest.operation == "guard"
    assert "read" in str(c)


def test_functions_without_kinks_and_constants():
    for f in (np.sin, lambda x: x**3 - np.exp(x), lambda x: x * np.abs(ARRAY(0.0)) + x * max(0.0, -0.0)):
        c = tg.record(f, 1.0).certificate(0.0)
        assert c.differentiable and c.nearest is None and c.kinks == () and "nothing" in str(c)
    whole = tg.record(lambda x, i: np.sum(x[i] * np.abs(i)), np.ones(3), ARRAY([0, 1, 2]))
    assert whole.certificate(np.zeros(3), ARRAY([0, 0, 0])).differentiable


SINGULAR = {
    "log": (np.log, 0.0), "reciprocal": (lambda x: 1.0 / x, 0.0), "negative power": (lambda x: x**-2.0, 0.0),
    "arcsin": (np.arcsin, 1.0), "arccos": (np.arccos, -1.0), "arctanh": (np.arctanh, 1.0),
    "arctan2": (lambda x: np.arctan2(x, 0.0 * x), 0.0), "sqrt of less than nothing": (np.sqrt, -1.0),
    "log of less than nothing": (np.log, -1.0), "division by zero": (lambda x: np.sin(x) / (x * x), 0.0),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGULAR)
def test_a_point_without_a_derivative_is_not_certified(name):
    f, x = SINGULAR[name]
    with np.errstate(all="ignore"):
        r = tg.record(f, 0.5)
        assert not all(map(math.isfinite, r.value_and_grad(x)))
        assert not r.certificate(x).differentiable


@pytest.mark.parametrize("f", [np.sin, np.abs, np.sqrt, lambda x: np.maximum(x, 0.0) * 0.0, lambda x: 2.0 * x])
def test_nan_is_not_certified(f):
    r = tg.record(f, 0.5)
    assert not r.certificate(np.nan).differentiable
    assert r.certificate(0.5).differentiable


def test_kinks_inside_a_checkpoint():
    r = tg.record(lambda x: tg.checkpoint(lambda x: np.abs(x) * x)(x), 1.0)
    assert not r.certificate(0.0).differentiable
    assert r.certificate(1.0).differentiable


def test_certificates_follow_the_branch_and_take_float32():
    r = tg.record(lambda x: np.sum(np.abs(x)) if x[0] > 0 else np.sum(x), np.ones(2))
    assert not r.certificate(ARRAY([1.0, 0.0])).differentiable
    assert r.certificate(ARRAY([-1.0, 0.0])).nearest.operation == "greater"
    assert not tg.record(np.abs, np.ones(2, np.float32)).certificate(ARRAY([0.5, 0.0], np.float32)).differentiable
    with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
        r.certificate(np.ones(3))


# Statistics.

table, vector, whole = np.arange(6.0).reshape(2, 3), np.ones(4), np.arange(3)


def test_captured_arrays_are_listed_by_name():
    inner = np.linspace(0, 1, 5)
    s = tg.record(lambda x: np.sum(table @ x) + np.sum(x * whole) + np.sum(inner * x[0]), np.ones(3)).stats()
    assert {(c.name, c.shape) for c in s.captured} == {("table", (2, 3)), ("whole", (3,)), ("inner", (5,))}
    assert "table (2, 3)" in str(s) and "arguments" in str(s)
    s = tg.record(lambda x: np.sum(ARRAY([1.0, 2.0, 4.0]) * x), np.ones(3)).stats()
    assert [c.shape for c in s.captured] == [(3,)] and "array (3,)" in str(s)
    assert tg.record(lambda x, w: np.sum(w * x), 1.0, vector).stats().captured == ()


def test_captured_arrays_are_listed():
    own = np.ones(3)
    r = tg.record(lambda x: np.sum(own * x), np.ones(3))
    assert r(np.ones(3)) == 3.0 and [c.shape for c in r.stats().captured] == [(3,)]


def test_an_array_that_is_captured_in_a_loop_is_one_array():
    square = np.random.default_rng(0).normal(size=(30, 30))

    def f(x):
        for _ in range(20):
            x = np.tanh(square @ x)
        return np.sum(x)

    s = tg.record(f, np.ones(30)).stats()
    assert [c.name for c in s.captured] == ["square"] and s.slots < 5000


def test_counts():
    r = tg.record(lambda x: np.sum(np.sin(x) * x) if x[0] > 0 else np.sum(x), np.ones(10))
    s = r.stats()
    assert s.operations == {"greater": 1, "expect": 1, "sin": 1, "multiply": 1, "sum": 1}
    assert (s.guards, s.branches, s.recorded) == (1, 1, 1) and s.instructions == len(r) == 5
    assert s.slots >= 31 and s.bytes > 8 * s.slots and s.elements >= 21
    r(-np.ones(10))
    s = r.stats()
    assert (s.branches, s.recorded) == (2, 2) and "sin" not in s.operations and "2 branches" in str(s)


# Derivatives that are asked for wrongly.

X = np.ones(3)
EVERY = {
    "grad": tg.grad, "hessian": tg.hessian, "jacobian": tg.jacobian, "jacfwd": tg.jacfwd, "jacrev": tg.jacrev,
    "elementwise_grad": tg.elementwise_grad, "make_hvp": lambda f: lambda x: tg.make_hvp(f)(x)(x),
    "jvp": lambda f: lambda x: tg.jvp(f, (x,), (x,)), "vjp": lambda f: lambda x: tg.vjp(f, x)[1](1.0),
    "linearize": lambda f: lambda x: tg.linearize(f, x)[1](x), "hvp": lambda f: lambda x: tg.hvp(f, (x,), (x,)),
    "sparse jacobian": functools.partial(tg.jacobian, sparse=True),
    "sparse hessian": functools.partial(tg.hessian, sparse=True),
    "grad of grad": lambda f: tg.grad(lambda x: np.sum(tg.grad(f)(x))),
}  # fmt: skip
SCALAR = ("grad", "hessian", "make_hvp", "hvp", "sparse hessian", "grad of grad")


@pytest.mark.parametrize("name", EVERY)
def test_functions_that_return_no_numbers(name):
    returns = [(lambda x: "text", "str"), (lambda x: object(), "object"), (lambda x: 1j, "complex")]
    if name not in ("jvp", "vjp", "linearize"):
        returns.append((lambda x: None, "None|nothing"))
    for f, text in returns:
        with pytest.raises(TapegradError, match=text):
            EVERY[name](f)(X)


@pytest.mark.parametrize("name", SCALAR)
def test_results_that_are_not_one_number(name):
    for f, text in ((lambda x: 2.0 * x, r"shape \(3,\)"), (lambda x: (x[0], x[1]), "tuple"), (lambda x: [x[0]], "list"),
                    (lambda x: {"loss": x[0]}, "dict"), (lambda x: np.ones(2), r"\(2,\)|ndarray")):  # fmt: skip
        with pytest.raises(NonScalarError, match=text):
            EVERY[name](f)(X)
    assert EVERY[name](lambda x: np.sum(x**2)[None])(X) is not None


def both_ways(f, *examples):
    """jvp, pullback and push of a function and of its recording."""
    r = tg.record(f, *examples)
    return [
        (lambda *a: tg.jvp(f, *a), lambda w: tg.vjp(f, *examples)[1](w), lambda *t: tg.linearize(f, *examples)[1](*t)),
        (r.jvp, lambda w: r.vjp(*examples)[1](w), lambda *t: r.linearize(*examples)[1](*t)),
    ]


def test_tangents_and_cotangents_of_another_shape():
    at = (X, 2.0)
    for jvp, pull, push in both_ways(lambda x, y: np.sum(x * y) * x, *at):
        for tangents, one, other in (
            ((np.ones(4), 1.0), r"argument 0.*\(4,\)", r"\(3,\)"), ((1.0, 1.0), r"argument 0.*\(\)", r"\(3,\)"),
            ((X, X), r"argument 1.*\(3,\)", r"\(\)"), ((X,), "1 tangent", "2"), ((X, 1.0, 1.0), "3 tangent", "2"),
        ):  # fmt: skip
            for ask in (functools.partial(jvp, at), lambda t, push=push: push(*t)):
                with pytest.raises(ShapeError, match=f"{one}.*{other}"):
                    ask(tangents)
        for w, one in ((np.ones(2), r"\(2,\)"), (1.0, r"\(\)")):
            with pytest.raises(ShapeError, match=rf"cotangent.*{one}.*\(3,\)"):
                pull(w)
        for w in ([1.0, 1.0, 1.0], (X,), {"a": X}):
            with pytest.raises(StructureError, match=type(w).__name__):
                pull(w)
    r = tg.record(np.sum, X)
    for ask in (lambda t: tg.hvp(np.sum, (X,), (t,)), tg.make_hvp(np.sum)(X), lambda t: r.hvp((X,), (t,))):
        with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
            ask(np.ones(2))


def test_tangents_nested_otherwise():
    p = {"a": X, "b": [2.0]}
    for jvp, _, _ in both_ways(lambda p: np.sum(p["a"]) * p["b"][0], p):
        for tangent, text in (([X, [1.0]], "dict.*list"), ({"a": X, "b": (1.0,)}, "list.*tuple"), (X, "dict.*ndarray")):
            with pytest.raises(StructureError, match=text):
                jvp((p,), (tangent,))
        with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
            jvp((p,), ({"a": X[:2], "b": [1.0]},))


def test_keys_of_tangents():
    p = {"a": X, "b": 2.0}
    for jvp, _, _ in both_ways(lambda p: np.sum(p["a"]) * p["b"], p):
        assert jvp((p,), ({"b": 1.0, "a": X},)) == (6.0, 9.0)
        for tangent, text in (({"a": X}, "b"), ({"a": X, "c": 1.0}, "'c'")):
            with pytest.raises(StructureError, match=f"keys.*{text}|{text}.*key"):
                jvp((p,), (tangent,))


@pytest.mark.parametrize("bad", [1j * X, ARRAY(["a", "b", "c"])])
def test_tangents_of_another_dtype(bad):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for jvp, pull, push in both_ways(lambda x: x * x, X):
            for ask in (lambda t, jvp=jvp: jvp((X,), (t,)), pull, push, lambda t: tg.hvp(np.sum, (X,), (t,))):
                with pytest.raises((DTypeError, StructureError), match="complex|str|U1"):
                    ask(bad)


def test_integers():
    f, n = lambda x, n: x * n, ARRAY([1, 2, 3])
    for jvp, _, _ in both_ways(f, X, n):
        with pytest.raises(IntegerInputError, match="argument 1.*integers"):
            jvp((X, n), (X, X))
        assert jvp((X, n), (X, None))[1].tolist() == [1, 2, 3]
    for name in sorted(set(EVERY) - {"jvp", "vjp", "linearize", "hvp"}):
        with pytest.raises(IntegerInputError, match="argument 0.*int"):
            EVERY[name](lambda x: np.sum(x * x))(n)
    for x in (3, True, [1, 2], {"a": 1.0, "b": 2}):
        with pytest.raises(IntegerInputError, match="float"):
            tg.grad(lambda x: 1.0)(x)


def test_argument_numbers():
    f = lambda x, y: x * y
    r = tg.record(f, 1.0, 2.0)
    for make in (tg.grad, tg.value_and_grad, tg.jacobian, tg.jacfwd, tg.hessian, tg.make_hvp, tg.elementwise_grad):
        for n in (2, -3, (0, 2)):
            with pytest.raises(IndexError, match="argument.*function has 2"):
                make(f, argnums=n)(1.0, 2.0)
        for n in ("a", 1.0, None, (), True):
            with pytest.raises(TypeError, match="argnums"):
                make(f, argnums=n)(1.0, 2.0)
    for ask in (r.grad, r.jacobian, r.hessian, r.make_hvp, r.sparsity):
        with pytest.raises(IndexError, match="argument 2.*function has 2"):
            ask(1.0, 2.0, argnums=2)


OTHERS = {
    "fewer": ((X,), "1.*2|2.*1"),
    "more": ((X, 2.0, 3.0), "3.*2|2.*3"),
    "shape": ((X[:2], 2.0), r"argument 0.*\(3,\).*\(2,\)"),
    "integer": ((X, 2), "argument 1.*an integer"),
    "float32": ((X.astype(np.float32), 2.0), "float64.*float32"),
    "nested": ((X, [1.0]), "argument 1.*list|nested"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_arguments_than_recorded(name):
    args, text = OTHERS[name]
    r = tg.record(lambda x, y: np.sum(x) * y, X, 2.0)
    for ask in (r, r.grad, r.hessian, r.certificate, r.vjp):
        with pytest.raises((ShapeError, StructureError, DTypeError), match=text):
            ask(*args)


def test_the_library_works_after_all_that():
    v = Value(X)
    np.sum(v * v).backward()
    assert v.grad.tolist() == [2.0, 2.0, 2.0] and tg.grad(tg.grad(lambda x: x**3))(2.0) == 12.0
