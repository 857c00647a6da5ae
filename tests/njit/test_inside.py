"""Gradients of Numba functions that Numba functions call."""

import collections
import gc
import math
import threading

import numba
import numpy as np
import pytest

import tapegrad as tg
from tapegrad import errors

Point = collections.namedtuple("Point", "x y")


@numba.njit
def energy(x, k=2.0):
    """A number of steps that depends on x, and an array that is changed."""
    total, n = 0.0, 0
    while total < 3.0 and n < 40:
        x[n % len(x)] *= k
        total += x[n % len(x)] ** 2 * 0.01
        n += 1
    return total + np.sum(np.sin(x))


@numba.njit
def of_scalars(a, n, b):
    y = a
    for _ in range(n):
        y = y * b + math.exp(-a)
    return y


@numba.njit
def nested(p, q):
    a, (b, c) = q
    return p.x * p.y**2 + a * b[0] + np.sum(c) * b[1]


@numba.njit
def with_aux(x):
    return np.sum(x**3), (x[0], np.exp(x))


@numba.njit
def raises(x):
    y = x[0] * x[1]
    if y > 10.0:
        raise ValueError("too large")
    return y * y


@numba.njit
def constant(x):
    return 3.0


@numba.njit
def stores(x, room):
    for i in range(len(x)):
        room[i] = x[i] * x[i]
    return room[0] + room[1] * room[2]


@numba.njit
def doubled(x, y):
    for i in range(len(x)):
        x[i] *= 2.0
    return np.sum(x * y)


@numba.njit
def products(x, y):
    return np.sum(x * y)


@numba.njit
def vector(x):
    return 2.0 * x


@numba.njit
def bad(x):
    y = np.linalg.inv(np.outer(x, x))
    return y[0, 0]


@numba.njit
def factorial(n, x):
    if n == 0:
        return 1.0 + 0.0 * x
    return x * factorial(n - 1, x)


@numba.njit
def any_number(*xs):
    return xs[0] * xs[1]


def inside(g, *given):
    """g(*given), called by Numba code that takes it from around it, and by such that is handed it."""
    names = ", ".join(f"a{i}" for i in range(len(given)))
    space = {"g": g}
    exec(f"def around({names}):\n    return g({names})\ndef handed(g, {names}):\n    return g({names})", space)
    found = numba.njit(space["around"])(*given)
    again = numba.njit(space["handed"])(g, *given)
    same(found, again)
    return found


def same(x, y):
    assert type(x) is type(y)
    if isinstance(x, tuple):
        assert len(x) == len(y)
        for a, b in zip(x, y):
            same(a, b)
        return
    np.testing.assert_array_equal(x, y)
    assert np.asarray(x).dtype == np.asarray(y).dtype and np.shape(x) == np.shape(y)


@pytest.mark.parametrize("derivative", [tg.grad, tg.value_and_grad])
def test_as_from_python(derivative):
    x = np.array([0.5, -1.5, 0.8])
    same(inside(derivative(energy), x), derivative(energy)(x))
    same(inside(derivative(energy), x[::-1], 1.7), derivative(energy)(x[::-1], 1.7))
    same(inside(derivative(of_scalars, (2, 0)), 0.3, 5, 0.9), derivative(of_scalars, (2, 0))(0.3, 5, 0.9))
    same(inside(derivative(with_aux, has_aux=True), x), derivative(with_aux, has_aux=True)(x))
    same(inside(derivative(constant), x), derivative(constant)(x))
    np.testing.assert_array_equal(x, [0.5, -1.5, 0.8])


def test_nested_arguments_and_dtypes():
    p, q = Point(2.0, np.array([3.0])[0]), (1.5, (np.array([1.0, 2.0]), np.ones((2, 2))))
    g = tg.grad(nested, argnums=(0, 1))
    same(inside(g, p, q), g(p, q))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    g = tg.grad(products)
    same(inside(g, x, np.asfortranarray(x)), g(x, np.asfortranarray(x)))
    assert inside(g, x, x.copy()).dtype == np.float32
    same(inside(tg.grad(any_number, (0, 1)), 2.0, 3.0), (3.0, 2.0))
    assert inside(tg.grad(factorial, 1), 4, 2.0) == 32.0


def test_keywords_and_defaults():
    g = tg.grad(energy)

    @numba.njit
    def calls(x):
        return g(x), g(x, k=1.5), g(k=2.0, x=x)

    x = np.array([0.5, -1.5, 0.8])
    same(calls(x), (g(x), g(x, 1.5), g(x)))


def test_a_descent_without_python():
    step = tg.value_and_grad(energy)

    @numba.njit
    def descent(x, steps):
        value = 0.0
        for _ in range(steps):
            value, slope = step(x)
            x = x - 0.01 * slope
        return x, value

    x = start = np.array([0.5, -1.5, 0.8])
    for _ in range(50):
        value, slope = step(x)
        x = x - 0.01 * slope
    found = descent(start, 50)
    np.testing.assert_allclose(found[0], x, rtol=1e-12)
    assert np.isclose(found[1], value)


def test_what_is_raised_comes_out_and_tapes_go_back():
    g = tg.grad(raises)

    @numba.njit
    def tried(x):
        found = 0.0
        for i in range(1000):
            try:
                found += g(x * i)[0]
            except Exception:
                found += 1.0
        return found

    @numba.njit
    def plain(x):
        return g(x)

    x = np.array([1.0, 2.0])
    expected = sum(g(x * i)[0] if 2.0 * i * i <= 10.0 else 1.0 for i in range(1000))
    assert tried(x) == expected
    with pytest.raises(ValueError, match="too large"):
        plain(10.0 * x)
    np.testing.assert_array_equal(plain(x), g(x))


def test_arrays_that_results_are_stored_in():
    x, room = np.array([1.0, 2.0, 3.0]), np.zeros(3)
    np.testing.assert_array_equal(inside(tg.grad(stores), x, room), [2.0, 36.0, 24.0])
    np.testing.assert_array_equal(room, x * x)
    both = np.arange(6.0)

    @numba.njit
    def shares(x):
        return tg_grad(x[:3], x[2:5])

    tg_grad = tg.grad(stores)
    with pytest.raises(errors.UnsupportedError, match="shares memory"):
        shares(both)


def test_arguments_that_share_memory():
    by_both, by_second, harmless = tg.grad(doubled, (0, 1)), tg.grad(doubled, 1), tg.grad(products, (0, 1))

    @numba.njit
    def of_both(x):
        return by_both(x, x)

    @numba.njit
    def of_second(x):
        return by_second(x[:2], x[1:])

    @numba.njit
    def of_products(x):
        return harmless(x, x[::-1])

    for f in (of_both, of_second):
        with pytest.raises(errors.UnsupportedError, match="shares memory"):
            f(np.arange(1.0, 4.0))
    x = np.arange(1.0, 4.0)
    same(of_products(x), (x[::-1].copy(), x))


def test_in_parallel():
    g = tg.value_and_grad(of_scalars)

    @numba.njit(parallel=True)
    def many(a):
        values, slopes = np.empty(len(a)), np.empty(len(a))
        for i in numba.prange(len(a)):
            values[i], slopes[i] = g(a[i], i % 700, 0.5)
        return values, slopes

    a = np.linspace(0.0, 1.0, 2000)
    values, slopes = many(a)
    for i in (0, 3, 699, 1999):
        same((float(values[i]), float(slopes[i])), g(float(a[i]), i % 700, 0.5))


def test_threads():
    g, found = tg.grad(of_scalars), {}

    @numba.njit(nogil=True)
    def total(n):
        s = 0.0
        for i in range(n):
            s += g(0.001 * i, i % 50, 0.5)
        return s

    expected = total(3000)

    def work(k):
        found[k] = total(3000)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(found.values()) == {expected}


def test_long_tapes_go_back():
    g = tg.grad(of_scalars)

    @numba.njit
    def slope(n):
        return g(0.2, n, 0.5)

    assert np.isclose(slope(1_000_000), g(0.2, 1_000_000, 0.5))
    assert slope(10) == g(0.2, 10, 0.5)


def test_a_gradient_that_nobody_else_refers_to():
    def made():
        g = tg.grad(of_scalars)
        return numba.njit(lambda a: g(a, 3, 0.5))

    f = made()
    gc.collect()
    assert f(0.3) == tg.grad(of_scalars)(0.3, 3, 0.5)


def test_a_cached_caller(tmp_path):
    import subprocess
    import sys

    (tmp_path / "kept.py").write_text(
        "import numba, tapegrad as tg\n"
        "@numba.njit\ndef f(x):\n    return x**3\n"
        "g = tg.grad(f)\n"
        "@numba.njit(cache=True)\ndef twice(x):\n    return 2.0 * g(x)\n"
        "print(twice(2.0), len(twice.stats.cache_hits))\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "kept.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("24.0")
    assert done.stdout.split()[1] == "1", done.stdout


@pytest.mark.parametrize(
    ("derivative", "args", "error", "message"),
    [
        (tg.grad(of_scalars, 1), (0.3, 5, 0.9), Exception, "only floats can be differentiated"),
        (tg.grad(vector), (np.ones(2),), errors.NonScalarError, "needs a scalar result"),
        (tg.grad(with_aux), (np.ones(2),), errors.StructureError, "has_aux"),
        (tg.grad(bad), (np.ones(2),), errors.UnsupportedError, "linalg.inv"),
        (tg.hessian(energy), (np.ones(2),), errors.UnsupportedError, "hessian of energy"),
        (tg.grad(tg.grad(of_scalars)), (0.3, 5, 0.9), errors.UnsupportedError, "cannot be called from Numba code"),
        (tg.grad(lambda x: x * x), (0.3,), errors.UnsupportedError, "record it"),
        (tg.recorded(lambda x: x * x), (0.3,), errors.UnsupportedError, "record it"),
    ],
)
def test_what_is_refused(derivative, args, error, message):
    with pytest.raises(error, match=message):
        inside(derivative, *args)


def test_second_derivatives_are_refused():
    g = tg.grad(of_scalars)

    @numba.njit
    def f(x):
        return g(x, 3, 0.5) ** 2

    with pytest.raises(errors.UnsupportedError, match="second derivatives"):
        tg.grad(f)(0.3)
