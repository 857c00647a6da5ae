"""`njit_op`: a Numba function as one operation of a tape that Python records."""

import collections
import pickle
import threading

import numba
import numpy as np
import pytest

import tapegrad as tg
from tapegrad import errors

Point = collections.namedtuple("Point", "x y")


@tg.njit_op
@numba.njit
def rounds(x, k):
    """As many rounds as the numbers say; an array, and a number."""
    y = np.zeros_like(x)
    s = 0.0
    for i in range(len(x)):
        s += x[i] * k
        while s > 1.0:
            s *= 0.5
        y[i] = s
    return y, s * s


def rounds_in_python(x, k):
    y, s = np.zeros_like(x), 0.0
    for i in range(len(x)):
        s += x[i] * k
        while s > 1.0:
            s *= 0.5
        y[i] = s
    return y, s * s


def loss_by(f):
    def loss(x, k):
        y, q = f(np.sin(x), k)
        return np.sum(y * x) + q * k

    return loss


loss, plainly = loss_by(rounds), loss_by(rounds_in_python)
X = np.array([0.3, 0.7, 1.1, 0.2])


def differences(x, k, h=1e-6):
    by_x = [(plainly(x + h * e, k) - plainly(x - h * e, k)) / (2.0 * h) for e in np.eye(len(x))]
    return by_x, (plainly(x, k + h) - plainly(x, k - h)) / (2.0 * h)


def test_any_way_that_a_replay_takes_is_right():
    recording = tg.record(loss, X, 1.3)
    gradient = tg.grad(loss, (0, 1))
    for scale in (1.0, 0.5, 3.0, 10.0, 0.1):
        x = scale * X
        by_x, by_k = differences(x, 1.3)
        for found in (gradient(x, 1.3), recording.grad(x, 1.3, argnums=(0, 1))):
            np.testing.assert_allclose(found[0], by_x, rtol=1e-6)
            np.testing.assert_allclose(found[1], by_k, rtol=1e-6)
        assert recording(x, 1.3) == pytest.approx(plainly(x, 1.3), rel=1e-14)
    # One instruction, and no guards.
    assert "less" not in str(recording) and "expect" not in str(recording)
    # Compiled code goes other ways as well.
    compiled = tg.grad(loss, compile=True)
    for scale in (1.0, 3.0):
        np.testing.assert_allclose(compiled(scale * X, 1.3), gradient(scale * X, 1.3)[0], rtol=1e-12)


def test_eager_values():
    x, k = tg.Value(X), tg.Value(1.3)
    loss(x, k).backward()
    by_x, by_k = differences(X, 1.3)
    np.testing.assert_allclose(x.grad, by_x, rtol=1e-6)
    np.testing.assert_allclose(k.grad, by_k, rtol=1e-6)


def test_every_derivative():
    v, s = np.array([1.0, -1.0, 0.5, 2.0]), 0.3
    by_x, by_k = differences(X, 1.3)
    assert np.isclose(tg.jvp(loss, (X, 1.3), (v, s))[1], v @ by_x + s * by_k, rtol=1e-6)
    expected = np.array([[1.3, 0, 0, 0], [0.65, 0.65, 0, 0], [0.1625, 0.1625, 0.325, 0], [0.1625, 0.1625, 0.325, 1.3]])
    for jacobian in (tg.jacobian, tg.jacrev, tg.jacfwd):
        np.testing.assert_allclose(jacobian(lambda x: rounds(x, 1.3)[0])(X), expected)
    _, pullback = tg.vjp(lambda x: rounds(x, 1.3), X)
    np.testing.assert_allclose(pullback((v, 0.0))[0], v @ expected)


def test_second_and_third_derivatives():
    h = 1e-5
    expected = [(tg.grad(loss)(X + h * e, 1.3) - tg.grad(loss)(X - h * e, 1.3)) / (2.0 * h) for e in np.eye(4)]
    hessian = tg.hessian(loss)
    np.testing.assert_allclose(hessian(X, 1.3), expected, rtol=1e-6, atol=1e-8)
    # Another way, for which the second derivative records anew.
    expected = [(tg.grad(loss)(3 * X + h * e, 1.3) - tg.grad(loss)(3 * X - h * e, 1.3)) / (2 * h) for e in np.eye(4)]
    np.testing.assert_allclose(hessian(3.0 * X, 1.3), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(tg.hvp(loss, (X, 1.3), (np.ones(4), 0.0))[0], hessian(X, 1.3) @ np.ones(4))
    assert tg.check_grads(loss, (X, 1.3), order=2).worst < 1e-6
    third = tg.grad(tg.grad(tg.grad(lambda t: rounds(np.stack([t, t * t]), 1.1)[1])))
    assert np.isclose(third(0.3), 1.1**2 * (12.0 + 24.0 * 0.3))


def test_float32():
    x = X.astype(np.float32)
    value, found = tg.value_and_grad(loss)(x, 1.3)
    assert found.dtype == np.float32 and np.isclose(value, plainly(X, 1.3), rtol=1e-6)
    np.testing.assert_allclose(found, differences(X, 1.3)[0], rtol=1e-5)
    assert tg.hessian(loss)(x, 1.3).dtype == np.float32
    v = tg.Value(x)
    np.sum(rounds(v, 1.3)[0]).backward()
    assert v.grad.dtype == np.float32


@tg.njit_op
def mixed(p, table, n, q):
    """Named tuples, constants, whole numbers; compiled by the decorator."""
    total = 0.0
    for i in range(n):
        total += p.x[i % len(p.x)] * table[i % len(table)] * p.y
    return Point(total * q[0], q[1] * p.x), n


def test_arguments_and_results_of_all_kinds():
    table = np.array([1, 2, 3])

    def f(x, y, n):
        found, count = mixed(Point(x, y), table, n, (2.0, y))
        return np.sum(found.y) + found.x + 0.0 * count

    x = np.array([0.5, -0.25])
    for n in (4, 7):
        h = 1e-6
        weight = sum(x[i % 2] * table[i % 3] for i in range(n))
        assert np.isclose(f(x, 1.5, n), 2.0 * 1.5 * weight + 1.5 * np.sum(x))
        by_x, by_y = tg.grad(f, (0, 1))(x, 1.5, n)
        assert np.isclose(by_y, 2.0 * weight + np.sum(x))
        expected = [(f(x + h * e, 1.5, n) - f(x - h * e, 1.5, n)) / (2.0 * h) for e in np.eye(2)]
        np.testing.assert_allclose(by_x, expected, rtol=1e-6)


def test_without_values_it_is_the_function():
    found = rounds(X, 1.3)
    assert isinstance(found, tuple) and type(found[0]) is np.ndarray
    np.testing.assert_array_equal(found[0], rounds.dispatcher(X, 1.3)[0])
    assert rounds.__name__ == "rounds" and "As many rounds" in rounds.__doc__
    assert pickle.loads(pickle.dumps(rounds)).dispatcher is rounds.dispatcher
    assert tg.njit_op(rounds) is rounds


@numba.njit
def by_compiled_code(x):
    return rounds(x, 1.3)[1]


def test_compiled_functions_call_it():
    assert by_compiled_code(X) == rounds(X, 1.3)[1]
    np.testing.assert_allclose(tg.grad(by_compiled_code)(X), tg.grad(lambda x: rounds(x, 1.3)[1])(X))


@tg.njit_op
def in_place(x, room):
    for i in range(len(x)):
        x[i] *= 2.0
        room[i] += 1.0
    return np.sum(x * x)


def test_arguments_that_are_changed():
    # A Value is copied, and so is not changed; a constant must not be.
    x = np.array([1.0, 2.0])
    np.testing.assert_array_equal(tg.grad(lambda x: in_place(x, np.zeros(2) * x))(x), 8.0 * x)
    np.testing.assert_array_equal(x, [1.0, 2.0])
    with pytest.raises(errors.UnsupportedError, match="in_place changes its argument 1 in place"):
        tg.grad(lambda x: in_place(x, np.zeros(2)))(x)
    assert in_place(x, np.zeros(2)) == 20.0
    np.testing.assert_array_equal(x, [2.0, 4.0])


@tg.njit_op
def unsupported(x):
    y = np.linalg.inv(np.outer(x, x) + np.eye(len(x)))
    return y[0, 0]


@tg.njit_op
def fails(x):
    if x > 1.0:
        raise KeyError("too large")
    return x * x


def test_errors():
    with pytest.raises(errors.UnsupportedError, match=r"unsupported cannot be.* at test_njit_op.py:\d+ \(`y = "):
        tg.grad(lambda x: unsupported(x))(np.ones(3))
    slope = tg.grad(lambda x: fails(x))
    assert slope(0.5) == 1.0
    with pytest.raises(KeyError, match="too large"):
        slope(2.0)
    assert slope(0.25) == 0.5
    with pytest.raises(errors.OperationError, match="takes a function"):
        tg.njit_op(3)
    with pytest.raises(errors.UnsupportedError, match="njit_op"):
        tg.grad(lambda x: by_compiled_code(x))(X)
    with pytest.raises(errors.UnsupportedError, match="njit_op"):
        by_compiled_code(tg.Value(X))


def test_threads():
    slope = tg.grad(loss)
    expected = [slope(X * (1.0 + 0.1 * k), 1.3) for k in range(6)]
    found = {}

    def run(k):
        found[k] = [slope(X * (1.0 + 0.1 * k), 1.3) for _ in range(50)]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k in range(6):
        for g in found[k]:
            np.testing.assert_array_equal(g, expected[k])
