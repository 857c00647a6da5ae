"""What a user of Numba may do besides: threads, exceptions, early returns, aliasing, mistakes."""

import collections
import math
import pickle
import subprocess
import sys
import threading
import traceback

import numba
import numpy as np
import pytest

import tapegrad as tg
from tapegrad import errors, optimize

Point = collections.namedtuple("Point", "x y")


@numba.njit
def steps(x):
    """A number of steps that depends on x, which may fail."""
    n, y = 0, x
    while y > 1.0:
        y = y * 0.5
        n += 1
    if n > 50:
        raise ValueError("too many")
    return n * y * y


@numba.njit
def nested(p, q):
    a, (b, c) = q
    return p.x * p.y**2 + a * b[0] + np.sum(c) * b[1]


@numba.njit
def factorial(n, x):
    if n == 0:
        return 1.0 + 0.0 * x
    return x * factorial(n - 1, x)


@numba.njit
def work(x, room):
    """Stores what it computes in an array that it is given."""
    for i in range(len(x)):
        room[i] = x[i] * x[i]
    return room[0] + room[1] * room[2]


@numba.njit
def work_twice(x, room, other):
    room[0] = x[0] + other[0]
    return room[0]


@numba.njit
def doubled(x, y):
    for i in range(len(x)):
        x[i] *= 2.0
    return np.sum(x * y)


@numba.njit
def whole(x):
    return int(x[0]) * x[1] + math.floor(x[1]) * x[0]


@numba.njit
def bad(x):
    y = np.linalg.inv(np.outer(x, x))
    return y[0, 0]


@numba.njit
def bytes_of(x):
    return x.view(np.float64)[0]


@numba.njit
def by_index(x):
    return x[x[0]]


@numba.njit(parallel=True)
def parallel(x):
    total = 0.0
    for i in numba.prange(len(x)):
        total += math.exp(x[i])
    return total


def test_any_number_of_steps():
    slope = tg.grad(steps)
    assert [slope(0.5), slope(3.0), slope(40.0)] == [0.0, 2 * 2 * 3.0 / 16, 6 * 2 * 40.0 / 64**2]
    assert tg.value_and_grad(steps)(3.0) == (steps(3.0), 1.5 * 0.5)


def test_exceptions_come_through_and_leave_nothing_behind():
    slope = tg.grad(steps)
    for _ in range(3):
        with pytest.raises(ValueError, match="too many"):
            slope(1e20)
        assert slope(3.0) == 0.75


def test_nested_arguments():
    p, q = Point(2.0, np.array([3.0])[0]), (1.5, (np.array([1.0, 2.0]), np.ones((2, 2))))
    gp, gq = tg.grad(nested, argnums=(0, 1))(p, q)
    assert isinstance(gp, Point) and gp == Point(9.0, 12.0)
    assert gq[0] == 1.0
    np.testing.assert_array_equal(gq[1][0], [1.5, 4.0])
    np.testing.assert_array_equal(gq[1][1], np.full((2, 2), 2.0))


def test_recursion():
    assert tg.grad(factorial, argnums=1)(4, 2.0) == 32.0


def test_arrays_that_results_are_stored_in():
    x, room = np.array([1.0, 2.0, 3.0]), np.zeros(3)
    np.testing.assert_array_equal(tg.grad(work)(x, room), [2.0, 36.0, 24.0])
    np.testing.assert_array_equal(room, x * x)


def test_arguments_that_share_memory():
    x = np.array([1.0, 2.0])
    np.testing.assert_array_equal(tg.grad(doubled)(x.copy(), x), [2.0, 4.0])
    both = np.arange(4.0)
    with pytest.raises(errors.UnsupportedError, match="shares memory"):
        tg.grad(doubled, argnums=1)(both[:2], both[1:3])
    room = np.zeros(4)
    with pytest.raises(errors.UnsupportedError, match="shares memory"):
        tg.grad(work_twice)(np.ones(3), room[:3], room[1:])


@numba.njit
def changed(x, y):
    x[0] = 5.0
    return x[0] * y[0] + y[1]


def test_a_change_that_another_argument_would_show_is_refused():
    x = np.array([1.0, 2.0])
    for numbers in (0, 1, (0, 1)):
        with pytest.raises(errors.UnsupportedError, match="changes an array that it is given"):
            tg.grad(changed, argnums=numbers)(x, x)
    np.testing.assert_array_equal(x, [1.0, 2.0])
    np.testing.assert_array_equal(tg.grad(changed, argnums=1)(x, x.copy()), [5.0, 1.0])
    gx, gy = tg.grad(dots, argnums=(0, 1))(x, x)
    np.testing.assert_array_equal([gx, gy], [x, x])


@numba.njit
def dots(x, y):
    return np.sum(x * y)


@numba.njit
def even(n, x):
    return 1.0 * x if n == 0 else odd(n - 1, x) * x


@numba.njit
def odd(n, x):
    return 2.0 * x if n == 0 else even(n - 1, x) * x


def test_functions_that_call_each_other():
    assert tg.grad(even, argnums=1)(4, 1.5) == pytest.approx(5.0 * 1.5**4)
    assert tg.grad(even, argnums=1)(3, 1.5) == pytest.approx(2.0 * 4.0 * 1.5**3)


@numba.njit
def beyond(x, i):
    total = x[0] * x[1]
    y = x.copy()
    y[i] = total
    return y[i] * x[i]


def test_indices_out_of_range_are_refused():
    x = np.array([2.0, 3.0])
    np.testing.assert_array_equal(tg.grad(beyond)(x, 1), [9.0, 12.0])
    np.testing.assert_array_equal(tg.grad(beyond)(x, -1), [9.0, 12.0])
    for i in (2, -3, 10**9):
        with pytest.raises(IndexError):
            tg.grad(beyond)(x, i)


@numba.njit
def chatty(n, x):
    print("at", n)
    return x if n == 0 else x * chatty(n - 1, x)


def test_functions_may_print(capfd):
    assert tg.grad(chatty, argnums=1)(2, 2.0) == 12.0
    assert capfd.readouterr().out.split("\n")[:3] == ["at 2", "at 1", "at 0"]


@numba.njit
def one_number(x, y):
    """Much of one number, then of two: 1e-200 is no slope to multiply with."""
    a = math.sqrt(2.0 * x + 1.0) * 3.0
    b = a * x - a / (x + 1.0)
    c = (b * 1e-200) * 1e200 + b * y
    return max(c, x) * min(b, 1e6) + 0.0 * math.sqrt(y - y)


def test_what_is_computed_of_one_number_takes_no_rows():
    from tapegrad.njit import memory
    from tapegrad.njit.derivatives import Run
    from tapegrad.njit.runs import function

    x, y, h = 1.3, 0.7, 1e-6
    gx, gy = tg.grad(one_number, argnums=(0, 1))(x, y)
    assert gx == pytest.approx((one_number(x + h, y) - one_number(x - h, y)) / (2.0 * h), rel=1e-8)
    assert gy == pytest.approx((one_number(x, y + h) - one_number(x, y - h)) / (2.0 * h), rel=1e-8)
    # Row 0, the number, and the result.
    with memory.taken(True) as tape:
        assert Run(function(chain), tape, (x,), [0]).length == 3
    _, slope = tg.jvp(one_number, (x, y), (2.0, 1.0))
    assert slope == pytest.approx(2.0 * gx + gy)
    # A slope of infinity meets a zero, which passes nothing on.
    assert tg.grad(zero_times_root)(0.0) == 0.0
    assert tg.grad(root)(0.0) == np.inf


@numba.njit
def chain(x):
    y = 2.0 * x
    for _ in range(10):
        y = math.sin(y) * y + math.exp(-x) / y
    return y


@numba.njit
def zero_times_root(x):
    return 0.0 * math.sqrt(x)


@numba.njit
def root(x):
    return 3.0 * math.sqrt(2.0 * x)


def test_integers_made_of_numbers():
    np.testing.assert_array_equal(tg.grad(whole)(np.array([2.5, 3.5])), [3.0, 2.0])
    recording = tg.record(whole, np.array([2.5, 3.5]))
    np.testing.assert_array_equal(recording.grad(np.array([4.5, 1.5])), [1.0, 4.0])


def test_loops_in_parallel_are_loops():
    x = np.array([0.1, 0.2, 0.3])
    np.testing.assert_allclose(tg.grad(parallel)(x), np.exp(x))


def test_threads():
    slope, found = tg.grad(steps), {}

    def run(k):
        found[k] = [slope(float(v)) for v in range(2 + k, 60 + k)]

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {k: [slope(float(v)) for v in range(2 + k, 60 + k)] for k in range(4)}


def test_memory_is_limited():
    before = tg.set_memory_limit(100_000)
    try:
        with pytest.raises(MemoryError, match="set_memory_limit"):
            tg.grad(many)(0.999, 100_000)
    finally:
        tg.set_memory_limit(before)
    assert tg.grad(many)(1.0, 100_000) == 100_000.0


@numba.njit
def many(x, n):
    y = 1.0
    for _ in range(n):
        y = y * x
    return y


@numba.njit
def unknown_name(x):
    return nowhere(x)  # noqa: F821


def test_what_numba_says_is_kept_and_does_not_flood():
    for f, said in ((bad, "No implementation of function"), (unknown_name, "NameError: name 'nowhere'")):
        with pytest.raises(errors.UnsupportedError) as caught:
            tg.grad(f)(np.ones(3))
        error = caught.value
        assert str(error).count("\n") == 0 and said in str(error.numba)
        shown = "".join(traceback.format_exception(error))
        # Nothing is shown of where in Numba it failed.
        assert "numba/core" not in shown and "Failed in nopython" not in shown
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert "NameError: name 'nowhere' is not defined" in str(error)


def test_what_cannot_be_differentiated_says_where_and_what():
    with pytest.raises(errors.UnsupportedError, match=r"bad cannot be.* at test_behaviour.py:\d+ \(`y = "):
        tg.grad(bad)(np.ones(3))
    with pytest.raises(errors.UnsupportedError, match=r"by_index.*`return x\[x\[0\]\]`.*cannot be an index"):
        tg.grad(by_index)(np.ones(3))
    with pytest.raises(errors.UnsupportedError, match="bytes of differentiated"):
        tg.grad(bytes_of)(np.ones(3))
    with pytest.raises(errors.IntegerInputError, match="argument 0 holds an integer"):
        tg.grad(steps)(3)
    with pytest.raises(errors.NonScalarError):
        tg.grad(same)(np.ones(3))
    with pytest.raises(errors.StructureError, match="not a list"):
        tg.grad(same)([1.0, 2.0])


@numba.njit
def same(x):
    return x * 1.0


def test_directions_and_matrices():
    x = np.array([1.0, 2.0, 3.0])
    assert tg.jvp(work, (x, np.zeros(3)), (np.ones(3), None))[1] == 2.0 + 36.0 + 24.0
    value, pullback = tg.vjp(same, x)
    np.testing.assert_array_equal(value, x)
    np.testing.assert_array_equal(pullback(x)[0], x)
    np.testing.assert_array_equal(tg.jacobian(same)(x), np.eye(3))
    np.testing.assert_array_equal(tg.linearize(same, x)[1](x), x)
    np.testing.assert_array_equal(tg.elementwise_grad(same)(x), np.ones(3))
    assert tg.grad(same_sum)(np.ones(2, np.float32)).dtype == np.float32
    np.testing.assert_array_equal(tg.hessian(same_sum)(x), 2.0 * np.eye(3))
    assert tg.hessian(same_sum, sparse=True)(x).nnz == 3


@numba.njit
def same_sum(x):
    return np.sum(x * x)


def test_it_is_part_of_other_recordings():
    x = np.array([1.0, 2.0, 3.0])
    outer = tg.grad(lambda x: np.sum(tg.grad(same_sum)(x) ** 3))
    np.testing.assert_allclose(outer(x), 24.0 * x**2)
    loss = tg.recorded(same_sum)
    assert loss(x) == 14.0
    np.testing.assert_array_equal(loss.grad(x), 2.0 * x)


def test_solvers_and_checks_take_them():
    result = optimize.minimize(rosenbrock, np.zeros(4), method="BFGS")
    np.testing.assert_allclose(result.x, np.ones(4), atol=1e-4)
    assert tg.check_grads(rosenbrock, (np.array([0.3, 0.1, 0.7]),)).worst < 1e-6


@numba.njit
def rosenbrock(x):
    total = 0.0
    for i in range(len(x) - 1):
        total += 100.0 * (x[i + 1] - x[i] ** 2) ** 2 + (1.0 - x[i]) ** 2
    return total


def test_numba_is_not_imported_for_others():
    code = (
        "import sys, tapegrad as tg; tg.grad(lambda x: x * x)(3.0); tg.grad(lambda x: x * x)(3.0);"
        "assert not any(m.startswith('tapegrad.njit.t') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
