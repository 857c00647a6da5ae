"""`where`, `cond`, `scan`, `while_loop`, `fori_loop`: against JAX's, on one tape, and safe in what is not chosen."""

import functools

import numpy as np
import pytest
from oracles import jax, jnp

import tapegrad as tg
from tapegrad.errors import NonScalarError, ShapeError, StructureError

lax = jax.lax


def alike(found, expected, rtol=1e-10):
    """The same numbers, in leaves of the same shapes."""
    found, expected = jax.tree_util.tree_leaves(found), jax.tree_util.tree_leaves(expected)
    assert [np.shape(x) for x in found] == [np.shape(x) for x in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)


# Each program is written against a library of control flow and one of arrays.


def where_broadcast(ad, xp, x):
    return xp.sum(xp.where(x[:, None] > 0, x[None, :] ** 2 * x[:, None], xp.where(x < -0.3, xp.exp(x), x[:, None])))


def cond_of_a_tree(ad, xp, x):
    def yes(p):
        return {"u": p["a"] * p["b"][0], "v": (xp.sin(p["a"]), p["b"][0])}

    def no(p):
        return {"u": p["a"] - p["b"][0], "v": (xp.exp(p["a"]), p["b"][0] ** 2)}

    r = ad.cond(x[0] > 0.5, yes, no, {"a": x[1], "b": [x[2:]]})
    return xp.sum(r["u"] * r["v"][0] + r["v"][1])


def cond_in_cond(ad, xp, x):
    def inner(z):
        return ad.cond(xp.sum(z) > 0, lambda z: xp.sin(z) * z, lambda z: z**3, z[::-1] * 2.0)

    return xp.sum(ad.cond(x[0] > x[1], inner, lambda z: z * z[0], x) ** 2)


def recurrent(ad, xp, x):
    w = x.reshape(2, 2)

    def step(carry, t):
        h = xp.tanh(w @ carry["h"] + t["u"] * t["s"])
        return {"h": h, "n": carry["n"] + xp.sum(h * h)}, (h * t["s"], carry["n"])

    ts = {"u": np.linspace(-1, 1, 10).reshape(5, 2), "s": np.linspace(0.5, 1.5, 5)}
    carry, (hs, ns) = ad.scan(step, {"h": xp.ones(2), "n": 0.0}, ts)
    return xp.sum(hs**2) + carry["n"] * xp.sum(ns) + xp.sum(carry["h"])


def scan_over_the_argument(ad, xp, x):
    last, ys = ad.scan(lambda c, z: (c * z + xp.sin(c), [c * c]), x[0], (x[1:]))
    return last * xp.sum(ys[0])


def scan_of_one_array(ad, xp, x):
    last, ys = ad.scan(lambda c, z: (c * z, c * c), x[0], x)
    return last + xp.sum(ys * xp.arange(4.0))


def scan_by_length(ad, xp, x):
    last, _ = ad.scan(lambda c, _: (xp.sin(c) * x, None), x, None, length=4)
    return xp.sum(last)


def fori(ad, xp, x):
    return ad.fori_loop(1, 4, lambda i, s: (s[0] * x + i, s[1] + s[0][i] * x[i]), (x, 0.0))[1]


PROGRAMS = [where_broadcast, cond_of_a_tree, cond_in_cond, recurrent, scan_over_the_argument, scan_of_one_array,
            scan_by_length, fori]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_against_jax(program, rng):
    r = tg.record(functools.partial(program, tg, np), rng.normal(size=4))
    f = jax.jit(functools.partial(program, lax, jnp))
    second = jax.jit(jax.hessian(f))
    first = jax.jit(jax.value_and_grad(f))
    for _ in range(6):
        x, v = rng.normal(size=(2, 4))
        value, gradient = first(x)
        alike(r.value_and_grad(x), (value, gradient))
        alike(r.jvp((x,), (v,))[1], gradient @ v)
        alike(r.hessian(x), second(x), rtol=1e-9)
        alike(r.hessian(x, sparse=True).toarray(), second(x), rtol=1e-9)
    assert r.stats().recorded == 1 and r.stats().guards == 0


def halvings(s_max, x, y):
    state = {"a": x, "b": x * 0.0}
    body = lambda s: {"a": s["a"] * 0.5 * y, "b": s["b"] + s["a"] ** 2}
    return tg.while_loop(lambda s: s["a"] > 1.0, body, state, max_steps=s_max)["b"] * x


@jax.jit
def halvings_of_jax(x, y):
    def step(s, _):
        go, following = s["a"] > 1.0, {"a": s["a"] * 0.5 * y, "b": s["b"] + s["a"] ** 2}
        return {k: jnp.where(go, following[k], s[k]) for k in s}, None

    return lax.scan(step, {"a": x, "b": x * 0.0}, None, length=12)[0]["b"] * x


def test_while_loop_against_jax(rng):
    bounded = tg.record(functools.partial(halvings, 12), 3.0, 1.0)
    python = tg.record(functools.partial(halvings, None), 3.0, 1.0)
    first = jax.jit(jax.value_and_grad(halvings_of_jax, (0, 1)))
    second = jax.jit(jax.hessian(halvings_of_jax, (0, 1)))
    rounds = set()
    for x, y in rng.uniform((0.2, 0.5), (9, 1.2), (30, 2)):
        for r in (bounded, python):
            alike(r.value_and_grad(x, y, argnums=(0, 1)), first(x, y))
            alike(r.hessian(x, y, argnums=(0, 1)), second(x, y))
        steps, a = 0, x
        while a > 1.0:
            steps, a = steps + 1, a * 0.5 * y
        rounds.add(steps)
    assert bounded.stats().recorded == 1 and bounded.stats().guards == 0
    assert python.stats().recorded == python.stats().branches <= len(rounds) + 1


def test_loops_with_a_number_of_steps_on_the_tape():
    r = tg.record(lambda x, n: tg.fori_loop(0, n, lambda i, s: s * x + i, x, max_steps=6), 2.0, 1.0)
    for n in range(7):
        f = lambda x, n=n: lax.fori_loop(0, n, lambda i, s: s * x + i, x)
        alike((r.grad(2.0, float(n)), r.hessian(2.0, float(n))), (jax.grad(f)(2.0), jax.hessian(f)(2.0)))
    assert r.stats().recorded == 1
    assert np.isnan(r(2.0, 7.0))


def test_the_counter_of_a_bounded_loop_can_index():
    f = lambda x, n: tg.fori_loop(0, n, lambda i, s: s + x[i] ** 2, 0.0, max_steps=4)
    r = tg.record(f, np.ones(4), np.array(2))
    x = np.arange(1.0, 5.0)
    for n in (1, 2, 4):
        assert r.grad(x, np.array(n)).tolist() == (2 * x * (np.arange(4) < n)).tolist()
    assert r.stats().recorded == 1


def test_loops_whose_bound_is_read():
    r = tg.record(lambda x, n: tg.fori_loop(0, n, lambda i, s: s + x[i] ** 2, 0.0), np.ones(4), np.array(2))
    x = np.arange(1.0, 5.0)
    for n in (1, 2, 4, 0, 2):
        assert r(x, np.array(n)) == np.sum(x[:n] ** 2)
        assert r.grad(x, np.array(n)).tolist() == (2 * x * (np.arange(4) < n)).tolist()
    assert r.stats().recorded == 4
    power = tg.grad(lambda x, n: tg.fori_loop(0, n, lambda i, s: s * x, x))
    assert [power(2.0, n) for n in (0, 1, 2, 3)] == [1.0, 4.0, 12.0, 32.0]


def test_too_many_steps_never_give_a_number_that_looks_right():
    halve = lambda x: tg.while_loop(lambda x: x > 1.0, lambda x: 0.5 * x, x, max_steps=3)
    r = tg.record(halve, 1.5)
    assert r.value_and_grad(1.5) == (0.75, 0.5)
    value, gradient = r.value_and_grad(1e6)
    assert np.isnan(value)
    assert np.isnan(gradient)
    assert r.value_and_grad(1.5) == (0.75, 0.5)
    with pytest.raises(ArithmeticError, match="3 steps"):
        halve(1e6)


def test_too_many_steps_while_recording():
    with pytest.raises(ArithmeticError, match="3 steps"):
        tg.grad(lambda x: tg.while_loop(lambda x: x > 1.0, lambda x: 0.5 * x, x, max_steps=3))(1e6)


# What is not chosen passes nothing.

UNSAFE = {
    "sqrt": (lambda w, x: w(x > 0, np.sqrt, lambda x: 0.0 * x, x), lambda x: 0.5 / np.sqrt(x), 0.0),
    "log": (lambda w, x: w(x > 0, np.log, lambda x: 2.0 * x, x), lambda x: 1 / x, 2.0),
    "reciprocal": (lambda w, x: w(x > 0, lambda x: 1 / x, lambda x: x * 3.0, x), lambda x: -1 / x**2, 3.0),
    "power": (lambda w, x: w(x > 0, lambda x: x**1.5, lambda x: -x, x), lambda x: 1.5 * x**0.5, -1.0),
}


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("way", ["where", "cond"])
def test_nothing_comes_from_the_branch_not_taken(name, way):
    choose = tg.cond if way == "cond" else lambda p, a, b, x: tg.where(p, a(x), b(x))
    with np.errstate(all="ignore"):
        f, slope, other = UNSAFE[name]
        g = functools.partial(f, choose)
        r, h = tg.record(g, 1.0), tg.grad(tg.grad(tg.grad(g)))
        for x in (0.0, -1.0, 4.0, -0.0, 0.25):
            expected = slope(x) if x > 0 else other
            assert r.grad(x) == r.jvp((x,), (1.0,))[1] == r.jacfwd(x) == pytest.approx(expected, rel=1e-14)
            if x <= 0:
                assert r.hessian(x) == r.hvp((x,), (1.0,)) == h(x) == 0.0
        if way == "where":
            a = tg.record(lambda x: np.sum(g(x)), np.ones(3))
            x = np.array([0.0, 4.0, -1.0])
            np.testing.assert_allclose(a.grad(x), [other, slope(4.0), other], rtol=1e-14)
            assert np.isfinite(a.hessian(x)).all() and np.isfinite(a.hessian(x, sparse=True).toarray()).all()


def test_steps_after_the_last_pass_nothing():
    roots = lambda s: (s[0] - 1.0, np.sqrt(s[0]) + s[1])
    f = lambda n, x: tg.while_loop(lambda s: s[0] > 0.5, roots, (x, x * 1.0), max_steps=n)[1]
    for x in (0.0, 0.25, 1.0, 2.5):
        found = tg.value_and_grad(functools.partial(f, 5))(x)
        assert found == pytest.approx(tg.value_and_grad(functools.partial(f, None))(x), rel=1e-14)


def test_stop_gradient():
    still = tg.record(lambda p: np.sum(tg.stop_gradient(p)["a"] * p["a"] ** 2), {"a": np.ones(2)})
    v = np.array([1.0, 2.0])
    alike((still.grad({"a": v})["a"], still.hessian({"a": v})["a"]["a"]), (2 * v**2, np.diag(2 * v)))
    assert tg.jvp(lambda x: tg.stop_gradient(x) * x, (3.0,), (1.0,)) == (9.0, 3.0)
    alike(tg.jacobian(lambda x: tg.stop_gradient(x[::-1]) * x, sparse=True)(v).toarray(), np.diag(v[::-1]))
    assert tg.grad(lambda x: np.sum(tg.stop_gradient(np.array([x, 2 * x], object)) * x))(3.0) == 9.0


# Plain numbers, plain conditions, and what is refused.


def test_plain_numbers_stay_plain():
    total, sums = tg.scan(lambda c, x: (c + x, c + x), 0.0, np.array([1.0, 2.0, 3.0]))
    assert total == 6.0 and isinstance(sums, np.ndarray) and sums.tolist() == [1.0, 3.0, 6.0]
    last, before = tg.scan(lambda c, _: (2.0 * c, c), 1.0, None, length=4)
    assert last == 16.0 and before.tolist() == [1.0, 2.0, 4.0, 8.0]
    assert tg.scan(lambda c, x: (c + x, None), 0.0, np.ones(3)) == (3.0, None)
    assert tg.cond(1 > 0, lambda x: x, lambda x: -x, 2) == 2 and tg.fori_loop(0, 5, lambda i, s: s + i, 0) == 10
    assert tg.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * 2), (0, 1)) == (3, 8)
    assert tg.where([True, False], 1.0, [3.0, 4.0]).tolist() == [1.0, 4.0]
    assert isinstance(tg.where(True, 1.0, 2.0), float)


def test_a_plain_condition_calls_one_function_only():
    def never(x):
        raise AssertionError

    assert tg.grad(lambda x: tg.cond(True, lambda x: x * x, never, x))(3.0) == 6.0
    assert tg.grad(lambda x: tg.cond(np.bool_(False), never, lambda x: x * x, x))(3.0) == 6.0


def test_loops_that_do_not_run():
    assert tg.grad(lambda x: tg.fori_loop(5, 0, lambda i, s: s * x, x))(2.0) == 1.0
    assert tg.grad(lambda x: tg.while_loop(lambda s: s > 9.0, lambda s: s * x, x, max_steps=0))(2.0) == 1.0
    assert tg.grad(lambda x: tg.while_loop(lambda s: s > 9.0, lambda s: s * x, x))(2.0) == 1.0
    assert tg.grad(lambda x: tg.scan(lambda c, z: (c * z, c), x, np.zeros(0))[0])(2.0) == 1.0


def test_guards_inside_a_branch_on_the_tape():
    g = tg.record(lambda x: tg.cond(x > 0, lambda x: x * x if x > 1 else x, lambda x: -x if x > -2 else x * 5, x), 1.0)
    assert [g.grad(x) for x in (0.5, 2.0, -1.0, -3.0, 0.5)] == [1.0, 4.0, -1.0, 5.0, 1.0]


# Each of a Value v = 1 and the array a = (v, v).
REFUSED = {
    "cond of a pair": (StructureError, "true_fun.*false_fun", lambda v, a: tg.cond(v > 0, lambda: (v, v), lambda: v)),
    "cond of other keys": (StructureError, "nested", lambda v, a: tg.cond(v > 0, lambda: {"a": v}, lambda: {"b": v})),
    "cond of two shapes": (ShapeError, r"\(2,\).*\(1,\)", lambda v, a: tg.cond(v > 0, lambda: a, lambda: a[:1])),
    "cond of an array and a number": (ShapeError, r"\(2,\).*\(\)", lambda v, a: tg.cond(v > 0, lambda: a, lambda: v)),
    "second of two results": (ShapeError, r"1 of 2", lambda v, a: tg.cond(v > 0, lambda: (v, v), lambda: (v, a))),
    "cond on an array": (NonScalarError, r"\(2,\)", lambda v, a: tg.cond(a > 0, lambda: v, lambda: v)),
    "while on an array": (NonScalarError, r"\(2,\)", lambda v, a: tg.while_loop(lambda s: s > 0, lambda s: s, a)),
    "while nests": (StructureError, "state", lambda v, a: tg.while_loop(lambda s: s < 9, lambda s: (s, s), v)),
    "bounded while": (StructureError, "state", lambda v, a: tg.while_loop(lambda s: s < 9, lambda s: [s], v, 2)),
    "while grows": (ShapeError, r"\(\).*\(2,\)", lambda v, a: tg.while_loop(lambda s: s < 9, lambda s: s * a, v)),
    "fori grows": (ShapeError, r"\(\).*\(2,\)", lambda v, a: tg.fori_loop(0, 2, lambda i, s: s * a, v)),
    "fori nests": (StructureError, "state", lambda v, a: tg.fori_loop(0, 2, lambda i, s: [s], v)),
    "scan grows its carry": (ShapeError, r"carry.*\(2,\)", lambda v, a: tg.scan(lambda c, x: (c * a, x), v, a)),
    "scan nests its carry": (StructureError, "carry", lambda v, a: tg.scan(lambda c, x: ((c, c), x), v, a)),
    "scan without a pair": (StructureError, r"\(carry, y\)", lambda v, a: tg.scan(lambda c, x: c, v, a)),
    "scan without a length": (ShapeError, "length|steps", lambda v, a: tg.scan(lambda c, x: (c, x), v)),
    "scan of two lengths": (ShapeError, "1 and 2", lambda v, a: tg.scan(lambda c, x: (c, x), v, (a, a[:1]))),
    "scan of another length": (ShapeError, "2 and 3", lambda v, a: tg.scan(lambda c, x: (c, x), v, a, length=3)),
    "scan of a number": (ShapeError, "leading|axis|length", lambda v, a: tg.scan(lambda c, x: (c, x), v, 3.0)),
    "ys that nest": (StructureError, "ys", lambda v, a: tg.scan(lambda c, x: (2 * c, x if c < 2 else [x]), v, a)),
    "ys that grow": (ValueError, "shape", lambda v, a: tg.scan(lambda c, x: (2 * c, (a[: int(c)],)), v, a)),
    "where of three shapes": (ShapeError, r"\(2,\).*\(3,\)", lambda v, a: tg.where(a > 0, v * np.ones(3), 0.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    error, text, call = REFUSED[name]
    with pytest.raises(error, match=f"(?s){text}"):
        tg.record(lambda v: call(v, v * np.ones(2)), 1.0)
    assert tg.grad(lambda x: x * x)(3.0) == 6.0
