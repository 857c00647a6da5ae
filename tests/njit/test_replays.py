"""Compiled recordings that Numba functions call."""

import collections
import gc
import pickle
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest
from numba.core.runtime import _nrt_python, rtsys

import tapegrad as tg
from tapegrad import errors
from tapegrad.native.image import IDLE

Point = collections.namedtuple("Point", "x y")
A = np.random.default_rng(0).normal(size=(4, 4))


def banana(x):
    return np.sum((1.0 - x[:-1]) ** 2 + 5.0 * (x[1:] - x[:-1] ** 2) ** 2)


def products(x):
    """Left to the interpreter in part: matrix products and a gather."""
    y = A @ np.tanh(x)
    return np.sum(y[np.array([0, 2, 2])] ** 2) + np.sum((A @ y) * x)


def nested(p, q, k):
    a, (b, c) = q
    return p.x * p.y**2 + a * b[0] * k + np.sum(c) * b[1]


def many_results(x, flag):
    y = np.sin(x) if flag else np.cos(x)
    return Point(np.sum(y), y[::-1]), (x.T, 3.0, np.arange(3.0)), 2.0 * y[:, :1]


def branching(x):
    return x * x if x < 1.0 else 2.0 * x - 1.0


def same(x, y, rtol=1e-13):
    assert type(x) is type(y)
    if isinstance(x, tuple):
        assert len(x) == len(y)
        for a, b in zip(x, y):
            same(a, b, rtol)
        return
    np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-13)
    assert np.shape(x) == np.shape(y) and np.asarray(x).dtype == np.asarray(y).dtype


@numba.njit
def value_of(r, *args):
    return r(*args)


@numba.njit
def slope_of(r, *args):
    return r.grad(*args)


@numba.njit
def both_of(r, *args):
    return r.value_and_grad(*args)


def check(r, *args):
    for _ in range(2):
        same(value_of(r, *args), r(*args))
        same(slope_of(r, *args), r.grad(*args))
        same(both_of(r, *args), r.value_and_grad(*args))


@pytest.mark.parametrize("f", [banana, products])
def test_as_from_python(f):
    x = np.linspace(-1.0, 1.0, 4)
    r = tg.record(f, x).compile()
    for point in (x, 0.3 - x, x[::-1], np.repeat(x, 2)[::2]):
        check(r, point)

    @numba.njit
    def descent(x):
        for _ in range(20):
            value, slope = r.value_and_grad(x)
            x = x - 0.01 * slope
        return x, value, r(x)

    found = descent(x)
    for _ in range(20):
        value, slope = r.value_and_grad(x)
        x = x - 0.01 * slope
    same(found, (x, value, r(x)), 1e-9)


@pytest.mark.parametrize(("n", "dtype"), [(1, np.float64), (17, np.float32), (5000, np.float64)])
def test_lengths(n, dtype):
    x = np.linspace(-1.0, 1.0, n).astype(dtype)
    r = tg.record(lambda x: np.sum(np.sin(x) * x), x).compile()
    check(r, x)
    check(r, x[::-1])
    check(tg.record(lambda x: (x * 2.0 + 1.0) @ x, x).compile(), x)
    v = tg.record(lambda x: np.exp(x) - 2.0 * x, x).compile()
    same(value_of(v, x), v(x))


def test_nested_arguments():
    p, q = Point(2.0, 3.0), (1.5, (np.array([1.0, 2.0]), np.ones((2, 2))))
    r = tg.record(nested, p, q, 3).compile()
    check(r, p, q, 5)
    same(value_of(tg.value_and_grad(r, (1, 0)), p, q, 4), r.value_and_grad(p, q, 4, argnums=(1, 0)))
    same(value_of(tg.grad(r, 1), p, q, 4), r.grad(p, q, 4, argnums=1))


def test_widths_of_gradients():
    x, y = np.ones(3, np.float32), np.arange(3.0)
    r = tg.record(lambda x, y: np.sum(x * y**2), x, y).compile()
    same(value_of(tg.grad(r, (0, 1)), x, y), r.grad(x, y, argnums=(0, 1)))
    whole = tg.record(lambda x, i, m: np.sum(x * i) * np.sum(m), np.ones(3), np.arange(3), np.ones(3, bool)).compile()
    check(whole, np.arange(3.0), np.array([3, 1, 2]), np.array([True, False, True]))


def test_results():
    x = np.arange(6.0).reshape(2, 3)
    for flag in (True, False):
        r = tg.record(many_results, x, flag).compile()
        same(value_of(r, x + 0.5, flag), r(x + 0.5, flag))
        with pytest.raises(errors.ShapeError, match="recorded with"):
            value_of(r, x, not flag)
    g = tg.value_and_grad(tg.record(lambda x: (np.sum(x**3), (x[0], x[::-1])), x[0]), has_aux=True)
    same(value_of(g, x[1]), tg.value_and_grad(lambda x: (np.sum(x**3), (x[0], x[::-1])), has_aux=True)(x[1]))
    g = tg.grad(tg.record(lambda x: (np.sum(x**3), (x[0], x[::-1])), x[0]), has_aux=True)
    same(value_of(g, x[1]), tg.grad(lambda x: (np.sum(x**3), (x[0], x[::-1])), has_aux=True)(x[1]))


def test_recordings_of_one_kind_share_code():
    before = len(both_of.signatures)
    x = np.ones(7)
    for f in (banana, lambda x: np.sum(x**2), lambda x: np.sum(np.sin(x) * x)):
        r = tg.record(f, x).compile()
        same(both_of(r, 2.0 * x), r.value_and_grad(2.0 * x))
    assert len(both_of.signatures) == before + 1


def test_a_branch_that_was_not_recorded_raises():
    r = tg.record(branching, 0.5).compile()

    @numba.njit
    def tried(x):
        try:
            return r(x)
        except Exception:
            return -1.0

    same(both_of(r, 0.25), (0.0625, 0.5))
    for f in (value_of, slope_of, both_of):
        with pytest.raises(errors.GuardError, match="takes a branch that was not recorded"):
            f(r, 3.0)
    assert [tried(3.0), tried(0.5)] == [-1.0, 0.25]
    # What is recorded by Python is known afterwards, also to what was compiled before.
    assert r(3.0) == 5.0
    r.compile()
    for x in (3.0, 0.25, 0.5, 4.0):
        check(r, x)
    assert tried(3.0) == 5.0


def test_a_branch_that_only_the_gradient_was_replayed_in():
    r = tg.record(branching, 0.5).compile()
    same(slope_of(r, 0.25), 0.5)
    same(r.grad(3.0), 2.0)
    for x in (3.0, 0.25, 4.0):
        same(both_of(r, x), r.value_and_grad(x))


def test_the_gradient_of_every_recorded_branch_is_handed_over():
    r = tg.record(lambda x: x * x if x < 1.0 else 3.0 * x, 0.5)
    r.grad(0.5)
    # The replay of the first branch that a guard stops here leaves its argument in the workspace of that branch.
    r.grad(2.0)
    r.compile()
    for x, slope in ((2.0, 3.0), (0.5, 1.0)):
        same(slope_of(r, x), slope)
    f = tg.cfunc(r, "int (const double *x, double *value, double *gradient)")
    numbers = [np.array([0.25]), np.empty(1), np.empty(1)]
    assert f.ctypes(*[x.ctypes.data_as(f.ctypes.argtypes[0]) for x in numbers]) == 0
    assert [x[0] for x in numbers] == [0.25, 0.0625, 0.5]


def test_indices_out_of_range():
    x = np.arange(4.0)
    r = tg.record(lambda x, i: np.sum(x[i] ** 2), x, np.array([0, 1])).compile()
    check(r, x, np.array([2, 3]))
    with pytest.raises(errors.IndexRangeError, match="out of range"):
        value_of(r, x, np.array([2, 9]))
    check(r, x, np.array([1, 3]))


def test_integers_decide():
    r = tg.record(lambda x, n: x * n + sum(range(n)), 1.5, 3).compile()
    same(value_of(r, 2.0, 3), 9.0)
    with pytest.raises(errors.GuardError):
        value_of(r, 2.0, 4)
    with pytest.raises(errors.IntegerInputError, match="does not hold exactly"):
        value_of(tg.record(lambda x, n: x * n, 1.5, 3).compile(), 2.0, 2**60)


def test_in_parallel():
    x = np.linspace(-1.0, 1.0, 4)
    recordings = [tg.record(f, x).compile() for f in (banana, products)]

    @numba.njit(parallel=True)
    def many(r, xs):
        out = np.empty_like(xs)
        for i in numba.prange(len(xs)):
            out[i] = r.grad(xs[i])
        return out

    xs = np.random.default_rng(1).normal(size=(500, 4))
    for r in recordings:
        np.testing.assert_allclose(many(r, xs), [r.grad(row) for row in xs], rtol=1e-12, atol=1e-12)


def test_threads():
    x = np.linspace(-1.0, 1.0, 4)
    r, found = tg.record(products, x).compile(), {}

    @numba.njit(nogil=True)
    def total(x, n):
        s = np.zeros(4)
        for i in range(n):
            s += r.grad(x / (1.0 + i))
        return s

    expected = total(x, 2000)
    threads = [threading.Thread(target=lambda k: found.update({k: total(x, 2000)}), args=(k,)) for k in range(3 * IDLE)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 3 * IDLE
    for s in found.values():
        np.testing.assert_array_equal(s, expected)


def test_code_outlives_the_recording():
    def made():
        r = tg.record(lambda x: np.sum(x**3), np.ones(3)).compile()
        return numba.njit(lambda x: r.grad(x))

    f = made()
    np.testing.assert_array_equal(f(np.arange(3.0)), [0.0, 3.0, 12.0])
    gc.collect()
    junk = [np.ones(1000) for _ in range(1000)]
    np.testing.assert_array_equal(f(np.arange(3.0)), [0.0, 3.0, 12.0])
    del junk


def test_blocks_are_given_back():
    _nrt_python.memsys_enable_stats()
    x = np.ones(50_000)
    for _ in range(20):
        r = tg.record(lambda x: np.sum(np.sin(x) * x), x).compile()
        value_of(r, x)
        del r
    gc.collect()
    stats = rtsys.get_allocation_stats()
    r = tg.record(lambda x: np.sum(np.sin(x) * x), x).compile()
    value_of(r, x)
    del r
    gc.collect()
    after = rtsys.get_allocation_stats()
    assert after.alloc - stats.alloc == after.free - stats.free > 0


def test_a_recording_can_still_be_pickled():
    r = tg.record(banana, np.ones(3)).compile()
    x = np.arange(3.0)
    value_of(r, x)
    again = pickle.loads(pickle.dumps(r))
    same(both_of(again, x), both_of(r, x))


def test_code_with_addresses_is_not_kept_on_disk(tmp_path):
    (tmp_path / "kept.py").write_text(
        "import numba, numpy as np, tapegrad as tg\n"
        "r = tg.record(lambda x: np.sum(x**3), np.ones(3)).compile()\n"
        "@numba.njit(cache=True)\ndef slope(x):\n    return r.grad(x)\n"
        "@numba.njit(cache=True)\ndef handed(r, x):\n    return r.grad(x)\n"
        "x = np.ones(3)\n"
        "print(slope(x)[0], handed(r, x)[0], len(slope.stats.cache_hits), len(handed.stats.cache_hits))\n"
    )
    for hits in (0, 1):
        done = subprocess.run([sys.executable, "kept.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["3.0", "3.0", "0", str(hits)]
        assert "dynamic globals" in done.stderr


def test_what_changed_is_recorded_again():
    scale = 2.0

    def f(x):
        return scale * x

    r = tg.record(f, 1.0).compile()
    assert value_of(r, 3.0) == 6.0
    scale = 3.0
    with pytest.raises(errors.UnsupportedError, match="record it again"):
        value_of(r, 3.0)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((np.ones(3), 2.0), "recorded with 1 arguments, called with 2"),
        ((np.ones((3, 1)),), "a float64 array of shape .3,., called with an array of float64 with 2 axes"),
        ((np.ones(3, np.float32),), "array of float32"),
        ((np.ones(3, np.int64),), "array of int64"),
        ((2.0,), "called with a float64"),
    ],
)
def test_arguments_that_do_not_fit(args, message):
    r = tg.record(banana, np.ones(3)).compile()
    with pytest.raises(numba.core.errors.TypingError, match=message):
        value_of(r, *args)


def test_shapes_that_do_not_fit():
    r = tg.record(banana, np.ones(3)).compile()
    for f in (value_of, both_of):
        with pytest.raises(errors.ShapeError, match=r"argument 0: recorded with a float64 array of shape \(3,\)"):
            f(r, np.ones(4))


def by_external(x):
    return tg.external(lambda x: x * 2.0, lambda x, y, g: (2.0 * g,))(x)


@pytest.mark.parametrize(
    ("recording", "error", "message"),
    [
        (lambda: tg.record(by_external, 1.0), errors.UnsupportedError, "calls a function of Python"),
        (lambda: tg.record(lambda x: np.linalg.det(x * np.eye(3)), 1.0), errors.UnsupportedError, "calls "),
        (lambda: tg.record(lambda x: x["a"], {"a": 1.0}), errors.UnsupportedError, "argument 0 is a dict"),
        (lambda: tg.record(lambda x: [x, x], 1.0), errors.UnsupportedError, "it returns a list"),
        (lambda: tg.record(lambda x, how: x, 1.0, "linear"), errors.UnsupportedError, "'linear' is a part of"),
        (lambda: tg.record(lambda x: x, 1.0, compile=False), errors.CompileError, "compile=False"),
    ],
)
def test_recordings_that_are_refused(recording, error, message):
    with pytest.raises(error, match=message):
        value_of(recording(), 1.0)


def test_gradients_that_there_are_not():
    r = tg.record(lambda x: 2.0 * x, np.ones(3)).compile()
    same(value_of(r, np.ones(3)), np.full(3, 2.0))
    assert [runs.what for runs in r.compile().stats().runs] == ["value"]
    with pytest.raises(numba.core.errors.TypingError, match="needs a scalar result"):
        slope_of(r, np.ones(3))
    n = tg.record(lambda n: 2.0 * n, 3).compile()
    assert value_of(n, 4) == 8.0
    with pytest.raises(numba.core.errors.TypingError, match="only floats can be differentiated"):
        slope_of(n, 4)


@numba.njit
def cubed(x):
    total = 0.0
    for i in range(len(x)):
        total += x[i] ** 3
    return total


def test_a_recording_of_a_numba_function():
    check(tg.record(cubed, np.ones(3)).compile(), np.arange(3.0))


def test_differentiating_a_caller_is_refused():
    r = tg.record(lambda x: 2.0 * x, 1.0).compile()

    @numba.njit
    def f(x):
        return r(x) ** 2

    assert f(3.0) == 36.0
    with pytest.raises(errors.UnsupportedError, match="calls a recording"):
        tg.grad(f)(3.0)
