"""`vmap` of Values and inside recorded functions: instructions as any others, and a guard for each lane."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import IndexRangeError, ShapeError, StructureError

# Guards of lanes stand in an order that a recording can rely on.
pytestmark = pytest.mark.filterwarnings("error::tapegrad.errors.RecordingWarning")

RNG = np.random.default_rng(1)


def branching(x, k=1.0):
    if x[0] > 0.0:
        return k * np.sum(x * x)
    return np.sum(x) * x[1] if x[1] > 0.3 else x[2] ** 3


def lane_by_lane(f):
    return lambda x, *rest: tg.stack([f(row, *rest) for row in x])


@pytest.mark.parametrize("count", [1, 3, 20])
def test_derivatives_through_a_batch(count):
    x = RNG.normal(size=(count, 3))
    for total in (
        lambda batch, x: np.sum(batch(branching)(x) ** 2),
        lambda batch, x: np.prod(1.0 + 0.1 * np.sin(batch(branching)(x))),
        lambda batch, x: np.sum(batch(tg.grad(branching))(x) ** 2),
    ):
        own, known = (lambda x, b=b, total=total: total(b, x) for b in (tg.vmap, lane_by_lane))
        for derivative in (tg.grad, tg.hessian):
            np.testing.assert_allclose(derivative(own)(x), derivative(known)(x), rtol=1e-11, atol=1e-12)
    tg.check_grads(lambda x: np.sum(tg.vmap(branching)(x) ** 2), (x,))


def test_a_recording_follows_lanes_to_their_branches():
    recording = tg.record(lambda x: np.sum(tg.vmap(branching)(x)), RNG.normal(size=(5, 3)))
    for _ in range(6):
        x = RNG.normal(size=(5, 3))
        value, gradient = recording.value_and_grad(x)
        assert np.isclose(value, sum(branching(row) for row in x))
        np.testing.assert_allclose(gradient, [tg.grad(branching)(row) for row in x], rtol=1e-12)


def test_values_outside_of_a_recording():
    x = tg.Value(RNG.normal(size=(6, 3)))
    y = tg.vmap(branching)(x)
    np.sum(y * y).backward()
    wanted = [2.0 * branching(row) * tg.grad(branching)(row) for row in x.data]
    np.testing.assert_allclose(x.grad, wanted, rtol=1e-12)
    # A long batch of them, so that the tape forgets what nobody holds while it is written.
    long = tg.Value(RNG.normal(size=(40, 3)))
    for _ in range(30):
        y = tg.vmap(lambda x: np.sum(np.sin(x * x[0]) + x**2), in_axes=0)(long)
        for _ in range(8):
            y = tg.vmap(lambda a: np.tanh(a) * a + 1.0)(y)
    assert np.isfinite(y.data).all()


def test_axes_and_what_is_the_same_in_all_lanes():
    x, k = RNG.normal(size=(3, 4, 2)), 2.5

    def f(x, k):
        a, b, c = tg.vmap(lambda x, k: (x * k, np.sum(x), k * k), in_axes=(1, None), out_axes=(-1, 0, None))(x, k)
        return np.sum(a[:, :, 1] ** 2) + b[0] * b[3] + c

    def known(x, k):
        b = np.sum(x, axis=(0, 2))
        return np.sum((x[:, 1] * k) ** 2) + b[0] * b[3] + k * k

    for found, wanted in zip(tg.grad(f, (0, 1))(x, k), tg.grad(known, (0, 1))(x, k)):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    with pytest.raises(ShapeError, match="out_axes is None for a result"):
        tg.grad(lambda x: np.sum(tg.vmap(lambda x: x, out_axes=None)(x)))(np.ones(3))
    with pytest.raises(ShapeError, match="the batch is empty"):
        tg.grad(lambda x: np.sum(tg.vmap(lambda x: x)(x[:0])))(np.ones(3))
    with pytest.raises(StructureError, match="nested differently"):
        tg.grad(lambda x: np.sum(tg.vmap(lambda x: x if x > 0.0 else (x, x))(x)))(np.array([1.0, -1.0]))


def test_a_function_that_uses_values_from_around_it():
    w, x = RNG.normal(size=3), RNG.normal(size=(5, 3))

    def f(w):
        return np.sum(tg.vmap(lambda x: np.tanh(x @ w) if x[0] > 0.0 else x @ w)(x))

    def known(w):
        return sum(np.tanh(row @ w) if row[0] > 0.0 else row @ w for row in x)

    np.testing.assert_allclose(tg.grad(f)(w), tg.grad(known)(w), rtol=1e-12)
    np.testing.assert_allclose(tg.hessian(f)(2.0 * w), tg.hessian(known)(2.0 * w), rtol=1e-11)
    outside = tg.Value(w)
    y = np.sum(tg.vmap(lambda x: np.sin(x @ outside))(x))
    y.backward()
    np.testing.assert_allclose(outside.grad, np.sum(np.cos(x @ w)[:, None] * x, 0), rtol=1e-12)
    assert tg.grad(lambda a: np.sum(tg.vmap(lambda x: a)(x)))(1.0) == 5.0


def test_integers_and_indices_on_the_tape():
    def f(x, n):
        return np.sum(tg.vmap(lambda x, n: x[n] * x[0] if n > 0 else x[1])(x, n))

    x, first = RNG.normal(size=(4, 3)), np.array([0, 2, 1, 2])
    recording = tg.record(f, x, first)
    for n in (first, np.array([2, 2, 2, 2]), np.array([0, 0, 1, 0])):
        wanted = sum(row[i] * row[0] if i > 0 else row[1] for row, i in zip(x, n))
        assert np.isclose(recording(x, n), wanted)
        tg.check_grads(lambda x, n=n: f(x, n), (x,))
    picked = tg.record(lambda x, n: np.sum(tg.vmap(lambda x, n: x[n[:2]] * x[n[1:]])(x, n)), x, np.zeros((4, 3), int))
    n = RNG.integers(-3, 3, size=(4, 3))
    assert np.isclose(picked(x, n), sum(np.sum(r[i[:2]] * r[i[1:]]) for r, i in zip(x, n)))
    np.testing.assert_allclose(
        picked.grad(x, n), [tg.grad(lambda r, i=i: np.sum(r[i[:2]] * r[i[1:]]))(r) for r, i in zip(x, n)], rtol=1e-12
    )
    with pytest.raises(IndexRangeError):
        picked(x, n + 5)


def test_batches_of_batches():
    x = RNG.normal(size=(3, 4, 3))
    f = tg.vmap(tg.vmap(tg.value_and_grad(branching), in_axes=0), in_axes=1, out_axes=1)
    value, gradient = f(x)
    for i in range(3):
        for j in range(4):
            assert np.isclose(value[i, j], branching(x[i, j]))
            np.testing.assert_allclose(gradient[i, j], tg.grad(branching)(x[i, j]), rtol=1e-12)
    total = lambda x: np.sum(tg.vmap(lambda rows: np.prod(tg.vmap(branching)(rows)))(x))
    known = lambda x: sum(np.prod(np.stack([branching(row) for row in rows])) for rows in x)
    np.testing.assert_allclose(tg.grad(total)(x), tg.grad(lambda x: known(x) * 1.0)(x), rtol=1e-11)


def test_loops_and_functions_with_rules_of_their_own():
    def settled(r, x):
        step = lambda x, _: (r * x * (1.0 - x), None)
        return tg.scan(step, x, None, 2000)[0]

    r, x = np.linspace(1.5, 2.5, 4), np.linspace(0.1, 0.4, 4)
    found = tg.vmap(tg.value_and_grad(settled))(r, x)
    for i in range(4):
        value, slope = tg.value_and_grad(settled)(r[i], x[i])
        assert np.isclose(found[0][i], value) and np.isclose(found[1][i], slope)

    @tg.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (np.clip(g, -1.0, 1.0),))
    total = lambda x: np.sum(3.0 * tg.vmap(lambda x: clipped(x) * 1.0)(x))
    assert tg.grad(total)(np.ones(4)).tolist() == [1.0] * 4


def test_float32_values():
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    gradient = tg.grad(lambda x: np.sum(tg.vmap(branching)(x)))(x)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, [tg.grad(branching)(row) for row in x], rtol=1e-5)
    wide = np.array([1.0, 1e-9, 3.0])
    gradient = tg.grad(lambda x: np.sum(tg.vmap(lambda x: np.sum(x * wide))(x)))(x)
    np.testing.assert_allclose(gradient, np.tile(wide, (5, 1)), rtol=1e-6)
