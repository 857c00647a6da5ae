"""Jacobians, Hessians, `vjp`, `linearize` and `make_hvp` by compiled programs, against sweeps of the interpreter."""

import gc
import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import pytree
from tapegrad.compiled.callable import INTERPRETED
from tapegrad.errors import NonScalarError, ShapeError, StructureError
from tapegrad.native import choice
from tapegrad.recording import known
from tapegrad.recording.directions import Directions

from .ways import assert_same, chosen, eager, how, wait_for

__all__ = ["chosen", "eager"]

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")

RNG = np.random.default_rng(5)
W = RNG.normal(size=(30, 7))


def rosenbrock(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def arm(q):
    angle, x, y = 0.0, 0.0, 0.0
    for i in range(5):
        angle = angle + q[i]
        x, y = x + np.cos(angle), y + np.sin(angle)
    return [x, {"y": y, "angle": angle}]


def mixed(model, n, x, kind):
    """Nested arguments, an integer, a string; several results, one of them a constant."""
    scale = 2.0 if kind == "double" else 1.0
    h = np.tanh(model["w"] @ x) * model["b"] ** n
    return scale * h, {"sum": np.sum(h) * x[0], "three": 3.0, "x": 2.0 * x}


MIXED = {"w": RNG.normal(size=(4, 3)), "b": 0.7}, 2, RNG.normal(size=3), "double"


def guarded(x):
    """Another number of results on each side."""
    return np.stack([x[0] * x[1], x[1]]) if x[0] > 0.0 else np.stack([np.sin(x[0]), x[1], x[0] * x[1]])


def wide(x):
    """More inputs than outputs, more outputs than lanes."""
    return np.sin(x[:20]) * x[20:40] + x[40] ** 2


def long(x):
    """More outputs than inputs, more inputs than lanes."""
    return np.concatenate([np.sin(x) * x[::-1], x[:5] ** 3])


FUNCTIONS = {
    "rosenbrock": (rosenbrock, (RNG.normal(size=10),), 0),
    "rosenbrock, more columns than lanes": (rosenbrock, (RNG.normal(size=37),), 0),
    "arm": (arm, (RNG.normal(size=5),), 0),
    "mixed": (mixed, MIXED, 0),
    "mixed, several arguments": (mixed, MIXED, (2, 0)),
    "mixed, one argument twice": (mixed, MIXED, (2, 2)),
    "wide": (wide, (RNG.normal(size=41),), 0),
    "long": (long, (RNG.normal(size=30),), 0),
    "a number of a number": (lambda x: np.exp(x) * x, (0.3,), 0),
    "numbers": (lambda x, y: (x * y, math.sin(x), 2.0), (0.3, 0.4), (0, 1)),
    "linear": (lambda x: W @ x, (RNG.normal(size=7),), 0),
    "shape ()": (lambda x: np.sum(x), (RNG.normal(size=(2, 3)),), 0),
    "two axes": (lambda x: np.tanh(x) @ W.T, (RNG.normal(size=(3, 7)),), 0),
    "float32": (lambda x: (np.tanh(x) * x[0], 1.0), (RNG.normal(size=6).astype(np.float32),), 0),
    "float32, more columns than lanes": (long, (RNG.normal(size=30).astype(np.float32),), 0),
    "guarded": (guarded, (np.array([0.5, 2.0]),), 0),
    "a view": (lambda x: (2.0 * x).reshape(2, 3).T, (RNG.normal(size=6),), 0),
    "no numbers": (lambda x: 2.0 * x, (np.zeros(0),), 0),
    "a constant": (lambda x: 3.0, (np.ones(3),), 0),
    "an integer": (lambda x, n: (x * n, n + 1), (np.ones(3), 2), 0),
    "truth values": (lambda x: (x * 2.0, x > 0.5, True, np.array([1, 2])), (np.ones(3),), 0),
    "arguments": (lambda x: (x[:0], x, x, x[0]), (np.ones(3),), 0),
    "float32 and a float": (lambda x, s: (x * s, s), (np.ones(3, np.float32), 2.0), (0, 1)),
}
ALL = pytest.mark.parametrize("name", FUNCTIONS)


def rtol(args):
    single = any(getattr(x, "dtype", None) == np.float32 for x in pytree.flatten(args)[0])
    return 1e-5 if single else 1e-12


def pair(f, args):
    """Recordings that are always compiled, and never."""
    return [tg.record(f, *args, compile=compile) for compile in (True, False)]


def moved(args):
    """Other arguments of the same kind."""
    leaves, structure = pytree.flatten(args)
    change = lambda x: x * 0.9 + 0.05 if isinstance(x, float) else (x * x.dtype.type(0.9)) if hasattr(x, "dtype") else x
    return pytree.unflatten(structure, map(change, leaves))


def directions(tree, seed):
    """Numbers as nested and shaped as a tree has them."""
    rng = np.random.default_rng(seed)
    leaves, structure = pytree.flatten(tree)
    return pytree.unflatten(structure, [
        None if isinstance(x, str | int) else rng.normal(size=np.shape(x)).astype(getattr(x, "dtype", float))[()]
        for x in leaves
    ])  # fmt: skip


@ALL
@pytest.mark.parametrize("which", ["jacobian", "jacrev", "jacfwd"])
def test_jacobians(name, which):
    f, args, argnums = FUNCTIONS[name]
    found, plain = pair(f, args)
    for own in (args, moved(args), args):
        assert_same(*[getattr(r, which)(*own, argnums=argnums) for r in (found, plain)], rtol(args))
    runs = found.stats().runs[1]
    if name not in ("a view", "no numbers"):
        assert runs.what.startswith("jacobian") and runs.how == "compiled"


@pytest.mark.parametrize("argnums", [0, 1, (1,), (0, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("n", [3, 20])
def test_hessians(argnums, n):
    def f(model, y):
        return rosenbrock(model["x"]) * model["scale"] + np.sum(np.sin(model["x"]) * y)

    args = {"x": RNG.normal(size=n), "scale": 0.5}, RNG.normal(size=n)
    found, plain = pair(f, args)
    for own in (args, moved(args)):
        assert_same(*[r.hessian(*own, argnums=argnums) for r in (found, plain)], 1e-11)
        v = directions(own[argnums] if isinstance(argnums, int) else tuple(own[i] for i in argnums), 1)
        assert_same(*[r.make_hvp(*own, argnums=argnums)(v) for r in (found, plain)], 1e-11)
    assert [runs.how for runs in found.stats().runs[1:]] == ["compiled", "compiled"]


@ALL
def test_held_at_arguments(name):
    f, args, _ = FUNCTIONS[name]
    found, plain = pair(f, args)
    for own in (args, moved(args)):
        (value, pull), (expected, pull_plain) = (r.vjp(*own) for r in (found, plain))
        assert_same(value, expected, rtol(args))
        (value, push), (_, push_plain) = (r.linearize(*own) for r in (found, plain))
        assert_same(value, expected, rtol(args))
        for seed in range(3):
            w, v = directions(expected, seed), directions(own, seed)
            assert_same(pull(w), pull_plain(w), rtol(args))
            assert_same(push(*v), push_plain(*v), rtol(args))
    if name not in ("a view",):
        assert {runs.what: runs.how for runs in found.stats().runs} == dict.fromkeys(
            ["value", "vjp", "jvp"], "compiled"
        )


def test_cotangents_and_tangents_that_are_left_out():
    for r in (pair(mixed, MIXED)):
        _, pull = r.vjp(*MIXED)
        _, push = r.linearize(*MIXED)
        zero = pull(None)
        assert zero[1] is None and zero[3] is None and not zero[2].any() and zero[0]["b"] == 0.0
        assert_same(pull((np.ones(4), None))[2], pull((np.ones(4), {"sum": 0.0, "three": 1.0, "x": np.zeros(3)}))[2])
        assert not push(None, None, None, None)[0].any()
        none = {"w": np.zeros((4, 3)), "b": 1.0}
        assert_same(push({"w": None, "b": 1.0}, None, None, None), push(none, 0, None, None))


def test_errors_are_the_same():
    for r in pair(mixed, MIXED):
        _, pull = r.vjp(*MIXED)
        with pytest.raises(StructureError, match="the cotangent must be nested as the result"):
            pull(np.ones(4))
        with pytest.raises(ShapeError, match="cotangent .* has shape"):
            pull((np.ones(3), None))
        with pytest.raises(ShapeError, match="there are 1 tangents for 4 arguments"):
            r.linearize(*MIXED)[1](None)
        with pytest.raises(ShapeError):
            r.vjp(1.0)
        for ask in (r.make_hvp, r.hessian):
            with pytest.raises(NonScalarError):
                ask(*MIXED)
    for r in pair(lambda x: "text", (1.0,)):
        for ask in (r.vjp, r.linearize, r.jacobian):
            with pytest.raises(StructureError, match="returned str, which has no derivative"):
                ask(1.0)
    for r in pair(lambda x, i: x[i], (np.ones(3), np.array([0, 1]))):
        for ask in (r.vjp, r.linearize, r.jacobian):
            with pytest.raises(tg.errors.IndexRangeError):
                ask(np.ones(3), np.array([0, 3]))
    for r in pair(lambda x, i: np.sum(x[i] ** 2), (np.ones(3), np.array([0, 1]))):
        for ask in (r.make_hvp, r.hessian):
            with pytest.raises(tg.errors.IndexRangeError):
                ask(np.ones(3), np.array([0, 3]))


def test_what_is_held_does_not_follow_the_arguments():
    f = lambda x, y: np.sin(x) * y
    x, y = RNG.normal(size=5), RNG.normal(size=5)
    for r in pair(f, (x, y)):
        a, b = x.copy(), y.copy()
        _, pull = r.vjp(a, b)
        _, push = r.linearize(a, b)
        product = tg.record(lambda a, b: np.sum(f(a, b)), a, b, compile=r.forced).make_hvp(a, b)
        a[:], b[:] = 100.0, 200.0
        r.vjp(a, b)[1](np.ones(5))
        assert_same(pull(np.ones(5)), (np.cos(x) * y, np.sin(x)))
        assert_same(push(np.ones(5), np.ones(5)), np.cos(x) * y + np.sin(x))
        assert_same(product(np.ones(5)), -np.sin(x) * y)


scale = 1.0


def test_what_is_held_does_not_follow_what_the_function_takes_from_around_it():
    global scale

    def f(x):
        return np.sum(np.sin(x) * scale)

    x, ones = RNG.normal(size=5), np.ones(5)
    for r in pair(f, (x,)):
        scale = 1.0
        held = r.vjp(x)[1], r.linearize(x)[1], r.make_hvp(x)
        scale = 3.0
        assert_same(r.jacobian(x), 3.0 * np.cos(x))
        assert_same(r.hessian(x), np.diag(-3.0 * np.sin(x)))
        assert_same(r.vjp(x)[1](1.0)[0], 3.0 * np.cos(x))
        assert_same(held[0](1.0)[0], np.cos(x))
        assert_same(held[1](ones), float(np.cos(x).sum()))
        assert_same(held[2](ones), -np.sin(x))
    scale = 1.0


@pytest.mark.parametrize("first", [0, 1])
def test_branches(first):
    points = np.array([0.5, 2.0]), np.array([-0.5, 3.0])
    found, plain = pair(guarded, (points[first],))
    held = []
    for x in (*points, *points):
        for which in ("jacobian", "jacrev", "jacfwd"):
            assert_same(getattr(found, which)(x), getattr(plain, which)(x))
        value, pull = found.vjp(x)
        assert_same(value, guarded(x))
        held.append((pull, plain.vjp(x)[1], found.linearize(x)[1], plain.linearize(x)[1], np.ones(len(value))))
    for pull, pull_plain, push, push_plain, w in held:
        assert_same(pull(w), pull_plain(w))
        assert_same(push(w[:2]), push_plain(w[:2]))
    inner = lambda x: np.sum(guarded(x) ** 2)
    found, plain = pair(inner, (points[first],))
    for x in (*points, *points):
        assert_same(found.hessian(x), plain.hessian(x))
        assert_same(found.make_hvp(x)(x), plain.make_hvp(x)(x))


def test_a_branch_that_depends_on_a_number_that_was_read():
    def f(x):
        return x * x.sum().item()

    found, plain = pair(f, (np.array([0.1, 0.2, 0.3]),))
    for x in (np.array([0.1, 0.2, 0.3]), np.array([1.0, 1 / 3, 0.7])):
        assert_same(found.vjp(x)[1](np.ones(3)), plain.vjp(x)[1](np.ones(3)))
        assert_same(found.jacobian(x), plain.jacobian(x))


def test_operands_that_were_not_chosen_pass_nothing():
    f = lambda x: np.where(x > 0.0, np.sqrt(x), 0.0) * np.ones(20)[: x.size]
    x = np.zeros(20)
    x[::2] = 4.0
    found, plain = pair(f, (x,))
    for of in (f, lambda x: np.sum(f(x) ** 3)):
        found, plain = pair(of, (x,))
        expected = plain.jacobian(x)
        assert np.isfinite(expected).all()
        assert_same(found.jacobian(x), expected)
        assert_same(found.jacfwd(x), expected)
        w = np.ones_like(expected[..., 0])[()]
        assert_same(found.vjp(x)[1](w), plain.vjp(x)[1](w))
        assert_same(found.linearize(x)[1](x), plain.linearize(x)[1](x))
    assert_same(found.hessian(x), plain.hessian(x))


def test_functions_of_python_are_not_called_again_for_each_direction():
    calls = []

    def cube(x):
        calls.append(1)
        return x**3

    own = tg.external(cube, lambda w, y, x: 3.0 * w * x**2)
    f = lambda x: np.sum(own(x))
    x = np.array([1.0, 2.0])
    recording = tg.record(f, x, compile=True)
    value, pull = recording.vjp(x)
    assert value == 9.0
    before = len(calls)
    for _ in range(3):
        assert_same(pull(1.0), (3.0 * x**2,))
    assert len(calls) == before
    assert [(runs.how, runs.why[:26]) for runs in recording.stats().runs if runs.what == "vjp"] == [
        ("interpreted", "it calls Python functions,")
    ]
    solve = lambda x: np.linalg.solve(np.diag(x) + W[:3, :3], x)
    found, plain = pair(solve, (np.array([1.0, 2.0, 3.0]),))
    point = np.array([2.0, 2.0, 1.0])
    assert_same(found.jacobian(point), plain.jacobian(point))
    assert_same(found.vjp(point)[1](point), plain.vjp(point)[1](point))


# When


def test_they_are_swapped_in_when_sweeps_have_paid_for_it(eager):
    recording = tg.record(rosenbrock, np.ones(8))
    x = RNG.normal(size=8)
    plain = tg.record(rosenbrock, x, compile=False)
    asks = [
        lambda r: r.jacobian(x), lambda r: r.hessian(x), lambda r: r.vjp(x)[1](2.0), lambda r: r.linearize(x)[1](x),
        lambda r: r.make_hvp(x)(x),
    ]  # fmt: skip
    before = [ask(recording) for ask in asks]
    wait_for(recording)
    assert {runs.what: runs.how for runs in recording.stats().runs if runs.what != "value"} == dict.fromkeys(
        ["jacobian", "hessian", "vjp", "jvp", "hvp"], "compiled"
    )
    for ask, one in zip(asks, before, strict=True):
        assert_same(one, ask(plain), 0.0)
        assert_same(ask(recording), one, 1e-11)


def test_products_by_sweeps_are_counted(monkeypatch):
    recording = tg.record(rosenbrock, np.ones(8))
    seconds = choice.replay_seconds(recording.program)
    monkeypatch.setattr(choice, "compile_seconds", lambda program: 10 * seconds)
    product = recording.make_hvp(np.ones(8))
    for _ in range(10):
        product(np.ones(8))
    assert how(recording)["hvp"] == "interpreted"
    recording.make_hvp(np.ones(8))
    assert how(recording)["hvp"] in ("compiling", "compiled") or "not faster" in recording.stats().runs[-1].why
    wait_for(recording)


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, "interpreted"), (1e9, "compiled")])
def test_matrices_are_compared_with_the_sweeps_they_replace(seconds, expected, monkeypatch):
    monkeypatch.setattr(choice, "compile_seconds", lambda program: 0.0)
    measured = []

    def by_sweeps(self, program, inputs):
        measured.append((found(self, program, inputs), self.replays))
        return seconds

    found = Directions.seconds_by_sweeps
    monkeypatch.setattr(Directions, "seconds_by_sweeps", by_sweeps)
    x = RNG.normal(size=37)
    recording, plain = tg.record(rosenbrock, x), tg.record(rosenbrock, x, compile=False)
    for ask in ("jacobian", "hessian"):
        before = getattr(recording, ask)(x)
        wait_for(recording)
        runs = recording.stats().runs[-1]
        assert (runs.what, runs.how) == (ask, expected)
        assert runs.why == ("compiled it was not faster" if expected == "interpreted" else "")
        assert_same(getattr(recording, ask)(x), before, 1e-12)
        assert_same(before, getattr(plain, ask)(x), 0.0)
    assert [replays for _, replays in measured] == [1, 3] and all(taken > 0.0 for taken, _ in measured)


def test_few_instructions_over_long_arrays_are_compiled_at_once():
    x = np.linspace(0.1, 1.0, 60_000)
    f = lambda x, p: np.exp(x * p[0]) * p[1] + p[2]
    p = np.array([0.5, 2.0, 1.0])
    recording = tg.record(f, x, p)
    value, pull = recording.vjp(x, p)
    assert_same(value, f(x, p))
    assert_same(pull(np.ones(60_000))[0], np.exp(x * 0.5), 1e-12)
    assert_same(
        recording.jacobian(x, p, argnums=1), np.stack([value - 1.0, value - 1.0, value]).T * [1, 1, 0]
        * np.stack([x, np.full_like(x, 0.5), x]).T + [0, 0, 1], 1e-12,
    )  # fmt: skip
    assert how(recording) == {"value": "compiled", "vjp": "compiled", "jacobian by 1": "compiled"}


def test_compile_now():
    recording = tg.record(mixed, *MIXED)
    asks = [
        lambda: recording.jacobian(*MIXED), lambda: recording.jacfwd(*MIXED, argnums=2),
        lambda: recording.vjp(*MIXED)[1](None), lambda: recording.linearize(*MIXED)[1](*directions(MIXED, 0)),
    ]  # fmt: skip
    before = [ask() for ask in asks]
    assert set(how(recording).values()) == {"interpreted"}
    recording.compile()
    assert how(recording) == dict.fromkeys(["value", "jacobian", "jacobian by 2", "vjp", "jvp"], "compiled")
    assert_same([ask() for ask in asks], before, 1e-12)


def test_who_asks_for_it():
    x = RNG.normal(size=6)
    for transform in (tg.jacobian, tg.jacrev, tg.jacfwd, tg.hessian, tg.make_hvp):
        f = lambda x: rosenbrock(x)
        found, plain = (transform(f, compile=compile)(x) for compile in (True, False))
        if transform is tg.make_hvp:
            found, plain = found(x), plain(x)
        assert_same(found, plain, 1e-11)
        assert "compiled" in how(known(f, True).at((x,))[0]).values()
    for transform in (tg.vjp, tg.linearize):
        f = lambda x: rosenbrock(x)
        (_, found), (_, plain) = (transform(f, x, compile=compile) for compile in (True, False))
        w = 2.0 if transform is tg.vjp else x
        assert_same(found(w), plain(w), 1e-11)
        assert "compiled" in how(known(f, True).at((x,))[0]).values()


def test_what_is_held_works_when_memory_was_given_back():
    x = RNG.normal(size=50_000)
    recording = tg.record(lambda x: np.tanh(x) * x, x, compile=True)
    _, pull = recording.vjp(x)
    expected = pull(np.ones(50_000))
    limit = tg.set_memory_limit(1)
    try:
        tg.set_memory_limit(1)
        assert_same(pull(np.ones(50_000)), expected, 0.0)
    finally:
        tg.set_memory_limit(limit)
    del recording, x
    gc.collect()
    assert_same(pull(np.ones(50_000)), expected, 0.0)
