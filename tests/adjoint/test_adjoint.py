"""Derivative programs: what is written, what simplifying leaves of it, and how it is swept."""

import itertools
import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.adjoint import pull_back, push_forward
from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import ALONE, FIRST, INSIDE, LAST, group_flag
from tapegrad.sweeps import BLOCK
from tapegrad.tape import EXPECT


def names(recording):
    """The operations that a replay carries out, in order."""
    return [TABLE[op % RUN].name for op in recording.code.steps[:, 0].tolist()]


def gradient_of(f, *args):
    return tg.record(tg.grad(f), *args)


# Simplification


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (lambda x: x * x * x, 27.0),
        (lambda x: x + x, 2.0),
        (lambda x: x * 1.0, 1.0),
        (lambda x: (x + 0.0) / 1.0 - 0.0, 1.0),
    ],
)
def test_gradients_of_short_functions_are_short(f, expected):
    r = gradient_of(f, 2.0)
    assert r(3.0) == expected
    assert len(r) <= 4


def test_constants_are_computed_once():
    r = gradient_of(lambda x: np.sin(0.5) * (2.0 * 3.0) * x + 2.0 * x, 1.0)
    assert names(r) == []
    assert r(5.0) == pytest.approx(6.0 * math.sin(0.5) + 2.0)


def test_the_same_thing_is_computed_once():
    # e^x of the value, of its derivative, and written twice by hand.
    r = tg.record(lambda x: tg.grad(lambda x: np.exp(x) + np.exp(x))(x) + np.exp(x), 1.0)
    assert names(r).count("exp") == 1
    assert r(2.0) == pytest.approx(3.0 * math.exp(2.0))
    x = np.arange(4.0)
    r = tg.record(lambda x: tg.grad(lambda x: np.sum(np.exp(x)) + np.sum(np.exp(x)))(x) + np.exp(x), x)
    assert names(r).count("exp") == 1
    np.testing.assert_allclose(r(x + 1.0), 3.0 * np.exp(x + 1.0))


def test_dead_code_goes_and_guards_stay():
    def f(x):
        unused = np.exp(x) * 7.0
        del unused
        return x * x if np.sin(x) > 0.0 else x

    r = gradient_of(f, 1.0)
    assert "exp" not in names(r)
    assert names(r).count("expect") == 1
    assert r(2.0) == 4.0 and r(-1.0) == 1.0


def test_factors_of_one_and_zeros_go_from_arrays_too():
    x = np.arange(1.0, 5.0)
    r = gradient_of(lambda x: np.sum((x * 1.0 + 0.0) / 1.0 * x), x)
    assert names(r) == ["add"]
    assert r(x + 1.0).tolist() == (2.0 * (x + 1.0)).tolist()


def test_order_of_factors_does_not_hide_a_common_subexpression():
    r = tg.record(lambda x, y: tg.grad(lambda x: np.sin(x * y) + np.cos(y * x))(x), 1.0, 2.0)
    assert names(r).count("sin") == names(r).count("cos") == 1
    assert r(0.5, 3.0) == pytest.approx(3.0 * math.cos(1.5) - 3.0 * math.sin(1.5))


def test_what_may_differ_at_each_call_is_not_shared():
    calls = []

    def count(x):
        calls.append(1)
        return x * 2.0

    black = tg.external(count, lambda w, y, x: 2.0 * w)
    r = gradient_of(lambda x: black(x) + black(x), 1.0)
    assert r(1.0) == 4.0


# Adjoints are put together


def by_sweep(f, x):
    v = tg.Value(x)
    y = f(v)
    y.backward(np.ones(y.shape))
    return np.asarray(v.grad)


def written(f, x):
    v = tg.Value(x)
    copy = v.copy()
    y = f(copy)
    (g,) = pull_back([copy], [y], [tg.Value(np.ones(y.shape), requires_grad=False)])
    return np.zeros(np.shape(x)) if g is None else np.asarray(g.data)


VIEWS = {
    "overlapping slices": lambda x: x[1:] * x[:-1] + x[2] * x[0],
    "reversed": lambda x: x[::-1] * x,
    "steps": lambda x: x[::2] * x[1::2] * x[3],
    "one element often": lambda x: sum((x[2] * x[i] for i in range(6)), 0.0),
    "broadcast": lambda x: x.reshape(2, 3)[:, None, :] * x.reshape(3, 2)[:, :1],
    "transposed": lambda x: x.reshape(2, 3) @ x.reshape(2, 3).T,
    "diagonal": lambda x: np.diagonal(np.outer(x, x)) * x,
    "unused": lambda x: x[:2] * 2.0,
    "itself": lambda x: x,
    "joined": lambda x: np.concatenate([x[2:4], x, x[:1]]) * np.arange(9.0),
    "gathered": lambda x: x[np.array([0, 0, 5, 2])] * x[np.array([[1], [1]])],
    "sum of everything": lambda x: np.sum(x) * x,
    "empty": lambda x: x[:0] * 2.0,
}


@pytest.mark.parametrize("name", VIEWS)
def test_written_adjoints_are_those_of_the_sweep(name, rng):
    x = rng.normal(size=6)
    np.testing.assert_allclose(written(VIEWS[name], x), by_sweep(VIEWS[name], x), rtol=1e-14)


@pytest.mark.parametrize("name", VIEWS)
def test_written_tangents_are_those_of_the_adjoints(name, rng):
    x, t = rng.normal(size=(2, 6))
    v = tg.Value(x).copy()
    y = VIEWS[name](v)
    (pushed,) = push_forward([v], [tg.Value(t)], [y])
    w = rng.normal(size=y.shape)
    (pulled,) = pull_back([v], [y], [tg.Value(w)])
    left = np.sum(w * (0.0 if pushed is None else np.asarray(pushed.data)))
    right = np.sum(t * (0.0 if pulled is None else pulled.data))
    assert left == pytest.approx(right, rel=1e-12)


def test_a_derivative_of_values_is_a_value():
    x = tg.Value(3.0)
    slope = tg.grad(lambda x: x**3)(x)
    assert slope.data == 27.0
    slope.backward()
    assert x.grad == 18.0


def test_a_long_tape_keeps_its_memory_while_a_derivative_is_written():
    # More instructions than the tape collects at, the first of them needed again by the adjoint.
    x = tg.Value(1.0)

    def f(x):
        y = x
        for _ in range(20_000):
            y = y * 1.0001
        return y * y

    assert tg.grad(f)(x).data == pytest.approx(2.0 * 1.0001**40_000, rel=1e-9)


# Several directions at once


def scalars(x):
    y = list(x)
    for _ in range(20):
        y = [np.tanh(a * b + 0.1) for a, b in zip(y, y[1:] + y[:1])]
    return tg.stack(y)


def arrays(x):
    y = np.tile(x, 100) * np.linspace(0.5, 1.5, 600)
    return np.cumsum(np.sin(y)[:300] * y[300:].reshape(20, 15).T.reshape(-1))[::50] + np.max(y)


@pytest.mark.parametrize("f", [scalars, arrays])
@pytest.mark.parametrize("wide", [False, True])
def test_lanes_are_single_sweeps(f, wide, rng):
    x0, x = rng.normal(size=(2, 6))
    r = tg.record(f, x0)
    r.program.wide = wide
    rows = np.stack([r.vjp(x)[1](w)[0] for w in np.eye(6)])
    np.testing.assert_allclose(r.jacrev(x), rows, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(r.jacfwd(x), rows, rtol=1e-12, atol=1e-12)
    columns = np.stack([r.jvp((x,), (t,))[1] for t in np.eye(6)], 1)
    np.testing.assert_allclose(columns, rows, rtol=1e-12, atol=1e-12)


def test_both_directions_after_each_other(rng):
    x = rng.normal(size=6)
    r = tg.record(arrays, x)
    first = r.jacfwd(x)
    r.jacrev(x + 1.0)
    assert np.array_equal(r.jacfwd(x), first)


def test_more_directions_than_lanes(rng):
    x = rng.normal(size=75)
    r = tg.record(lambda x: np.sin(np.cumsum(x)), x)
    expected = np.cos(np.cumsum(x))[:, None] * np.tri(75)
    np.testing.assert_allclose(r.jacrev(x), expected, rtol=1e-13)
    np.testing.assert_allclose(r.jacfwd(x), expected, rtol=1e-13)


def test_elementwise_gradients_of_recordings(rng):
    r = tg.record(lambda x, y: np.sin(x) * y, np.ones((2, 3)), 2.0)
    x = rng.normal(size=(2, 3))
    np.testing.assert_allclose(r.elementwise_grad(x, 3.0), 3.0 * np.cos(x), rtol=1e-14)
    gx, gy = r.elementwise_grad(x, 3.0, argnums=(0, -1))
    np.testing.assert_allclose(gx, 3.0 * np.cos(x), rtol=1e-14)
    assert gy == pytest.approx(np.sum(np.sin(x)))
    second = tg.grad(lambda x: np.sum(r.elementwise_grad(x, 3.0)))(x)
    np.testing.assert_allclose(second, -3.0 * np.sin(x), rtol=1e-14)


# Groups of runs


def chained(x):
    a = x * 2.0 + x[::-1]
    b = np.sin(a) * a - 0.5 * x
    c = b[::-1] * a
    d = np.exp(-c * c) + a
    return np.sum(d * b) + np.sum(a[1:] * d[:-1])


def test_groups_change_nothing(rng):
    n = 3 * BLOCK + 17
    x0, x = rng.normal(size=(2, n))
    r = tg.record(chained, x0, compile=False)
    code, flags = r.program.steps, r.program._groups
    records = code[code[:, 0] >= RUN, 2].astype(int)
    kinds = flags[group_flag(records)]
    assert {FIRST, LAST} <= set(kinds.tolist())
    # A run that reads another's result the other way round cannot go with it.
    assert np.count_nonzero(kinds == FIRST) >= 2
    grouped = r.value_and_grad(x), r.jvp((x,), (x0,)), r.hvp((x,), (x0,))
    for program in (r.program, r._gradients[0].program):
        for own in (program._groups, *program._flags.values()):
            own[group_flag(program.steps[program.steps[:, 0] >= RUN, 2].astype(int))] = ALONE
    apart = r.value_and_grad(x), r.jvp((x,), (x0,)), r.hvp((x,), (x0,))
    # What is accumulated comes in another order.
    np.testing.assert_allclose(grouped[0][1], apart[0][1], rtol=1e-13)
    assert grouped[0][0] == apart[0][0] and grouped[1] == apart[1]
    np.testing.assert_allclose(grouped[2], apart[2], rtol=1e-12, atol=1e-12)


def test_groups_have_a_first_and_a_last():
    x = np.linspace(0.0, 1.0, 2 * BLOCK)

    def f(x):
        for _ in range(100):
            x = x * 1.01
        return np.sum(x)

    r = tg.record(f, x)
    flags, code = r.program._groups, r.program.steps
    kinds = [int(flags[group_flag(k)]) for op, _, k, _, _ in code.tolist() if op >= RUN]
    assert kinds.count(FIRST) == kinds.count(LAST) >= 3
    order = [k for k in kinds if k in (FIRST, INSIDE, LAST)]
    assert all(b in ((INSIDE, LAST) if a in (FIRST, INSIDE) else (FIRST,)) for a, b in itertools.pairwise(order))
    np.testing.assert_allclose(r.grad(x), 1.01**100, rtol=1e-12)


# Whole numbers and orders as guards


def test_whole_numbers_of_values():
    v = tg.Value(2.7)
    assert (int(v), math.floor(v), math.ceil(v), math.trunc(-v)) == (2, 2, 3, -2)
    f = lambda x: x ** int(x)
    slope = tg.grad(f)
    assert [slope(x) for x in (2.5, 3.5, 2.25, 1.5)] == [5.0, 3 * 3.5**2, 4.5, 1.0]
    r = tg.record(f, 2.5)
    for x in np.linspace(1.1, 4.9, 50):
        assert r.grad(float(x)) == pytest.approx(int(x) * x ** (int(x) - 1))
    assert r.stats().recorded == 4


def test_sorting_needs_no_guard(rng):
    w = np.arange(1.0, 6.0)
    r = tg.record(lambda x: np.sum(np.sort(x) * w), rng.normal(size=5))
    for x in rng.normal(size=(20, 5)):
        assert r(x) == pytest.approx(np.sum(np.sort(x) * w))
        np.testing.assert_array_equal(r.grad(x), w[np.argsort(np.argsort(x))])
    assert r.stats().recorded == 1
    assert EXPECT not in r.code.rows[:, 0]
    x = rng.normal(size=(3, 4, 2))
    for axis in (0, 1, 2, -1, None):
        np.testing.assert_array_equal(np.sort(tg.Value(x), axis).data, np.sort(x, axis))
        np.testing.assert_array_equal(np.argsort(tg.Value(x), axis), np.argsort(x, axis))


def test_positions_are_one_guard(rng):
    r = tg.record(lambda x: x[np.argmax(x)] * np.argmin(x), rng.normal(size=4))
    for x in rng.normal(size=(100, 4)):
        value, g = r.value_and_grad(x)
        assert value == x[np.argmax(x)] * np.argmin(x)
        assert g.tolist() == [float(np.argmin(x)) if i == np.argmax(x) else 0.0 for i in range(4)]
    assert r.stats().recorded <= 12


# Where a rule has to be careful, it must not be constant


@pytest.mark.parametrize(
    ("f", "point", "expected"),
    [
        (lambda v: np.logaddexp(v[0], v[1]), [1.0, 1.0], [[0.25, -0.25], [-0.25, 0.25]]),
        (lambda v: v[0] ** v[1], [2.0, 0.0], [[0.0, 0.5], [0.5, math.log(2.0) ** 2]]),
        (lambda v: np.prod(v), [0.0, 0.0], [[0.0, 1.0], [1.0, 0.0]]),
        (lambda v: np.prod(np.stack([v[0], v[1], v[0], v[1]])), [0.0, 3.0], [[18.0, 0.0], [0.0, 0.0]]),
        (lambda v: np.linalg.norm(v) ** 2, [3.0, 4.0], [[2.0, 0.0], [0.0, 2.0]]),
        (lambda v: np.hypot(v[0], v[1]), [3.0, 4.0], [[16 / 125, -12 / 125], [-12 / 125, 9 / 125]]),
        (lambda v: np.arctan2(v[0], v[1]), [1.0, 0.0], [[0.0, 1.0], [1.0, 0.0]]),
        (lambda v: tg.cross_entropy(v, 0), [60.0, 0.0], None),
    ],
)
def test_second_derivatives_at_special_points(f, point, expected):
    H = tg.hessian(f)(np.array(point))
    if expected is None:
        p = math.exp(-60.0)
        expected = [[p, -p], [-p, p]]
    np.testing.assert_allclose(H, expected, rtol=1e-12, atol=1e-15 if point[0] != 60.0 else 0.0)


@pytest.mark.parametrize("ask", [
    lambda x: tg.jvp(np.sum, x, x), lambda x: tg.jvp(np.sum, (x,), x), lambda x: tg.hvp(np.sum, x, (x,)),
    lambda x: tg.record(np.sum, x).jvp(x, x), lambda x: tg.record(np.sum, x).hvp((x,), x),
])  # fmt: skip
def test_primals_and_tangents_come_in_tuples(ask):
    with pytest.raises(tg.errors.StructureError, match=r"tuple.*write \(x,\)"):
        ask(np.ones(3))


# Precision


IN_FLOAT32 = {
    "cross_entropy": lambda x: tg.cross_entropy(x.reshape(2, 3), np.array([1, 2])),
    "sort": lambda x: np.sum(np.sort(x) ** 3),
    "prod": lambda x: np.prod(x),
    "norm": lambda x: np.linalg.norm(x) ** 3,
    "max": lambda x: np.max(x * x) * np.min(x),
    "solve": lambda x: np.sum(np.linalg.solve(np.outer(x[:2], x[2:4]) + np.eye(2).astype(x.dtype), x[4:])),
    "cholesky": lambda x: np.linalg.cholesky(np.outer(x[:2], x[:2]) + np.eye(2).astype(x.dtype))[1, 1],
    "det": lambda x: np.linalg.det(x[:4].reshape(2, 2)) ** 2,
    "gather": lambda x: np.sum(x[np.array([0, 0, 3])] ** 3) + np.sum(np.cumsum(x)[::2] ** 2),
    "where": lambda x: np.sum(np.where(x > 0.0, np.log(x), x * x)),
    "checkpoint": lambda x: np.sum(tg.checkpoint(lambda x: np.sin(x) * x)(x)),
    "logsumexp": lambda x: tg.logsumexp(x) * np.std(x),
}


@pytest.mark.parametrize("name", IN_FLOAT32)
def test_second_derivatives_in_float32(name, rng):
    """As in float64 at the same point, but for a few roundings."""
    f = IN_FLOAT32[name]
    x, v = rng.uniform(0.5, 2.0, 6).astype(np.float32), rng.normal(size=6).astype(np.float32)
    point, direction = x.astype(float), v.astype(float)
    fine, third = tg.hessian(f)(point), tg.jacobian(tg.hessian(f))(point)
    # What one rounding does: of the Hessian itself, or of an intermediate number, which moves it about as much as the
    # same relative change of the inputs does.
    rounding = np.finfo(np.float32).eps * (np.abs(fine).max() + (np.abs(third) @ point).max())
    coarse = tg.hessian(f)(x)
    assert coarse.dtype == np.float32
    np.testing.assert_allclose(coarse, fine, rtol=0, atol=4 * rounding)
    for product in (tg.hvp(f, (x,), (v,)), tg.grad(lambda x: np.sum(tg.grad(f)(x) * v.astype(x.dtype)))(x)):
        assert product.dtype == np.float32
        np.testing.assert_allclose(product, fine @ direction, rtol=0, atol=4 * rounding * np.abs(direction).sum())


# A network


def perceptron(xp, parameters, x, labels):
    h = x
    for w, b in parameters[:-1]:
        h = xp.maximum(h @ w + b, 0.0)
    return h @ parameters[-1][0] + parameters[-1][1], labels


def test_the_hessian_of_a_network_times_a_vector_is_that_of_jax():
    from oracles import jax, jnp

    rng = np.random.default_rng(0)
    sizes = [784, 128, 64, 10]
    shapes = list(itertools.pairwise(sizes))
    make = lambda scale: [(scale * rng.normal(size=s) / s[0] ** 0.5, scale * rng.normal(size=s[1])) for s in shapes]
    parameters, direction = make(1.0), make(0.1)
    x, labels = rng.uniform(size=(64, 784)), rng.integers(0, 10, 64)

    def loss(parameters, x, labels):
        return tg.cross_entropy(*perceptron(np, parameters, x, labels))

    def reference(parameters):
        logits, _ = perceptron(jnp, parameters, x, labels)
        return jnp.mean(jax.nn.logsumexp(logits, 1) - logits[jnp.arange(64), labels])

    r = tg.record(loss, make(1.0), x, labels)
    ours = r.hvp((parameters, x, labels), (direction,), argnums=0)
    theirs = jax.jvp(jax.grad(reference), (parameters,), (direction,))[1]
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
