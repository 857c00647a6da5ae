"""`checkpointed_loop` in Numba code and from Python: the gradient of the loop written out, with few states kept."""

import collections
import threading

import numba
import numpy as np
import pytest

import tapegrad as tg
from tapegrad import errors
from tapegrad.njit import kept_loops, memory
from tapegrad.njit.derivatives import Run
from tapegrad.njit.runs import function

State = collections.namedtuple("State", "x v count on")


@numba.njit
def force(x, theta):
    return -theta[0] * x - theta[1] * x**3


@numba.njit
def bounce(s, i, force, theta, dt, drive, walls):
    """Branches, whole numbers and truth values in the state, arrays that are changed in place, a function."""
    v = s.v + dt * (force(s.x, theta) + drive[i % len(drive)])
    for j in range(len(s.x)):
        s.x[j] += dt * v[j]
        if s.x[j] > walls[0]:
            s.x[j] = 2.0 * walls[0] - s.x[j]
            v[j] *= -0.9
    count = s.count + (1 if s.x[0] > 0.0 else 0)
    if s.on and count % walls[1] == 0:
        v *= 0.999
    return State(s.x, v, count, not s.on)


@numba.njit
def bounced(x, theta, n, drive):
    s = tg.checkpointed_loop(bounce, State(x, 0.0 * x, 0, True), n, force, theta, 0.01, drive, (1.2, 3))
    return np.sum(s.x**2) + s.v[0] * s.count


@numba.njit
def bounced_plainly(x, theta, n, drive):
    s = State(x.copy(), 0.0 * x, 0, True)
    for i in range(n):
        s = bounce(s, i, force, theta, 0.01, drive, (1.2, 3))
    return np.sum(s.x**2) + s.v[0] * s.count


X, THETA, DRIVE = np.array([0.5, 1.0, -0.3]), np.array([2.0, 0.7]), np.sin(np.arange(50.0))


@numba.njit
def logistic(x, i, rate):
    return rate * x * (1.0 - x)


@numba.njit
def settled(x, rate, n):
    return tg.checkpointed_loop(logistic, x, n, rate)


@numba.njit
def settled_plainly(x, rate, n):
    for i in range(n):
        x = logistic(x, i, rate)
    return x


@pytest.mark.parametrize("n", [0, 1, 2, 17, 3000])
def test_like_the_loop_written_out(n):
    assert bounced(X, THETA, n, DRIVE) == bounced_plainly(X, THETA, n, DRIVE)
    value, found = tg.value_and_grad(bounced, (0, 1, 3))(X, THETA, n, DRIVE)
    expected_value, expected = tg.value_and_grad(bounced_plainly, (0, 1, 3))(X, THETA, n, DRIVE)
    assert value == expected_value
    for g, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(X, [0.5, 1.0, -0.3])


def test_against_differences():
    h = 1e-6
    slope = tg.grad(bounced, 1)(X, THETA, 300, DRIVE)
    for e, g in zip(np.eye(2), slope, strict=True):
        up, down = (bounced(X, THETA + s * h * e, 300, DRIVE) for s in (1.0, -1.0))
        assert abs((up - down) / (2.0 * h) - g) < 1e-6 * abs(g)


def test_other_derivatives():
    args = (0.3, 3.4, 500)
    tangents = (0.7, -0.2, None)
    assert np.isclose(tg.jvp(settled, args, tangents)[1], tg.jvp(settled_plainly, args, tangents)[1])
    value, pullback = tg.vjp(settled, *args)
    grads = tg.grad(settled_plainly, (0, 1))(*args)
    assert value == settled_plainly(*args)
    # The tape is kept, and swept as often as is asked for.
    for w in (1.0, -2.0):
        np.testing.assert_allclose(pullback(w)[:2], [w * g for g in grads])
    np.testing.assert_allclose(tg.jacfwd(settled, (0, 1))(*args), grads)
    np.testing.assert_allclose(tg.jacrev(settled, (0, 1))(*args), grads)
    short = (0.3, 3.4, 20)
    np.testing.assert_allclose(tg.hessian(settled, 1)(*short), tg.hessian(settled_plainly, 1)(*short))
    recording = tg.record(settled, *short)
    assert len(recording) > 20
    np.testing.assert_allclose(recording.grad(0.2, 3.3, 20), tg.grad(settled_plainly)(0.2, 3.3, 20))


def taken(monkeypatch):
    """A list that is filled with (whether they are recorded, first, last) of all steps that are taken together."""
    found, take = [], kept_loops.Loop._take

    def spy(loop, tape, state, start, stop):
        found.append((tape is not None, start, stop))
        return take(loop, tape, state, start, stop)

    monkeypatch.setattr(kept_loops.Loop, "_take", spy)
    return found


def test_few_steps_are_on_a_tape_at_a_time(monkeypatch):
    found = taken(monkeypatch)
    n = 200_000
    slope = tg.grad(settled, 1)(0.3, 2.5, n)
    assert np.isclose(slope, 1.0 / 2.5**2)
    recorded = [(a, b) for on_tape, a, b in found if on_tape]
    longest = max(b - a for a, b in recorded)
    assert longest < n / 20
    # All steps are recorded once, the last first; before that they are taken once more to have states.
    assert sorted(recorded[1:]) == recorded[:0:-1] and sum(b - a for a, b in recorded[1:]) == n
    assert sum(b - a for on_tape, a, b in found if not on_tape) < n


def test_the_tape_of_the_function_has_no_steps():
    with memory.taken(True) as tape:
        Run(function(settled), tape, (0.3, 2.5, 100_000), [0, 1])
        assert tape.length == 4 and len(tape.loops) == 1


def test_where_states_do_not_fit_fewer_are_kept(monkeypatch):
    expected = tg.grad(bounced_plainly, 1)(X, THETA, 4000, DRIVE)
    found = taken(monkeypatch)
    before = tg.set_memory_limit(20_000)
    try:
        slope = tg.grad(bounced, 1)(X, THETA, 4000, DRIVE)
    finally:
        tg.set_memory_limit(before)
    np.testing.assert_allclose(slope, expected, rtol=1e-11)
    # The binomial schedule takes steps more than once, to keep the states of few.
    assert sum(b - a for on_tape, a, b in found if not on_tape) > 4000
    assert max(b - a for on_tape, a, b in found if on_tape) < 100


@numba.njit
def idle_first(x, i, rate):
    if i < 10:
        return x
    total = x
    for _ in range(2000):
        total = total + 1e-7 * rate * total
    return total


@numba.njit
def of_uneven_steps(x, rate, n):
    return tg.checkpointed_loop(idle_first, x, n, rate)


def test_stretches_that_do_not_fit_are_halved(monkeypatch):
    tried = taken(monkeypatch)
    # The first step, by which the length of a stretch is chosen, leaves no rows; the later ones leave thousands.
    before = tg.set_memory_limit(4_000_000)
    try:
        # A thread begins with short tapes.
        found = in_thread(lambda: tg.grad(of_uneven_steps, 1)(1.0, 0.5, 100))
    finally:
        tg.set_memory_limit(before)
    assert sum(b - a for on_tape, a, b in tried if on_tape) > 101
    h = 1e-5
    slope = (of_uneven_steps(1.0, 0.5 + h, 100) - of_uneven_steps(1.0, 0.5 - h, 100)) / (2.0 * h)
    assert np.isclose(found, slope, rtol=1e-7)


def in_thread(f):
    found = []
    thread = threading.Thread(target=lambda: found.append(f()))
    thread.start()
    thread.join()
    return found[0]


@numba.njit
def inner(x, i, rate):
    return tg.checkpointed_loop(logistic, x, i % 7, rate) + 0.01 * x


@numba.njit
def loops_in_loops(x, rate, n):
    y = tg.checkpointed_loop(inner, x, n, rate)
    return y + tg.checkpointed_loop(inner, 0.5 * y, n // 2, rate * y)


@numba.njit
def inner_plainly(x, i, rate):
    y = x
    for j in range(i % 7):
        y = logistic(y, j, rate)
    return y + 0.01 * x


@numba.njit
def loops_in_loops_plainly(x, rate, n):
    y = x
    for i in range(n):
        y = inner_plainly(y, i, rate)
    z = 0.5 * y
    for i in range(n // 2):
        z = inner_plainly(z, i, rate * y)
    return y + z


def test_loops_in_loops():
    for n in (3, 40):
        found = tg.value_and_grad(loops_in_loops, (0, 1))(0.3, 3.1, n)
        expected = tg.value_and_grad(loops_in_loops_plainly, (0, 1))(0.3, 3.1, n)
        assert found[0] == expected[0]
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-12)
    assert np.isclose(
        tg.jvp(loops_in_loops, (0.3, 3.1, 9), (1.0, 2.0, None))[1],
        tg.jvp(loops_in_loops_plainly, (0.3, 3.1, 9), (1.0, 2.0, None))[1],
    )


@numba.njit
def swap(s, i, c):
    """Returns two arrays of the state as one another, one of them changed in place."""
    s[1][...] = s[1] * c + s[0][::-1]
    return s[1], s[0]


@numba.njit
def same_twice(s, i, c):
    """Returns one array twice, which the next step changes in place in one place."""
    s[0][0] += c
    return s[0], s[0]


@numba.njit
def swapped(x, c, n):
    a, b = tg.checkpointed_loop(swap, (x, 2.0 * x), n, c)
    a, b = tg.checkpointed_loop(same_twice, (a, b), 3, c)
    return np.sum(a * a) - b[0]


def test_arrays_of_a_state_are_apart():
    x = np.array([0.1, 0.2, 0.4])

    def plainly(x, c, n):
        a, b = x, 2.0 * x
        for _ in range(n):
            a, b = b * c + a[::-1], a
        for _ in range(3):
            first = a + c * np.array([1.0, 0.0, 0.0])
            a, b = first, first
        return np.sum(a * a) - b[0]

    assert np.isclose(swapped(x, 0.5, 9), plainly(x, 0.5, 9))
    for n in (0, 1, 9):
        found, expected = tg.grad(swapped, (0, 1))(x, 0.5, n), tg.grad(plainly, (0, 1))(x, 0.5, n)
        np.testing.assert_allclose(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1])
    np.testing.assert_array_equal(x, [0.1, 0.2, 0.4])


@numba.njit
def mixed(s, i, shift):
    x, k, ready, table = s
    table[i % 4] += np.int8(1)
    return x * (1.0 + shift[k % 3]), np.int32(k + table[0]), not ready, table


@numba.njit
def of_narrow_integers(x, shift, n):
    s = tg.checkpointed_loop(mixed, (x, np.int32(1), False, np.zeros(4, np.int8)), n, shift)
    return s[0] * s[1] if s[2] else s[0]


@numba.njit
def of_narrow_integers_plainly(x, shift, n):
    s = (x, np.int32(1), False, np.zeros(4, np.int8))
    for i in range(n):
        s = mixed(s, i, shift)
    return s[0] * s[1] if s[2] else s[0]


def test_integers_keep_their_types():
    shift = np.array([0.01, -0.02, 0.005])
    for n in (3, 700):
        found = tg.value_and_grad(of_narrow_integers, (0, 1))(1.5, shift, n)
        expected = tg.value_and_grad(of_narrow_integers_plainly, (0, 1))(1.5, shift, n)
        assert np.isclose(found[0], expected[0], rtol=1e-13) and of_narrow_integers(1.5, shift, n) == expected[0]
        np.testing.assert_allclose(found[1][0], expected[1][0])
        np.testing.assert_allclose(found[1][1], expected[1][1])


@numba.njit
def noisy(x, i):
    return x * np.random.rand()  # noqa: NPY002


@numba.njit
def of_random_numbers(x):
    return tg.checkpointed_loop(noisy, x, 5)


@numba.njit
def writes(x, i, room):
    room[0] = room[0] + 1
    return x * room[0]


@numba.njit
def writing(x, room):
    return tg.checkpointed_loop(writes, x, 5, room)


@numba.njit
def writing_recorded(x, room):
    return tg.checkpointed_loop(writes, x, 5, room * x)


@numba.njit
def fails(x, i):
    if i == 5:
        raise KeyError("five")
    return x * 1.1


@numba.njit
def failing(x, n):
    return tg.checkpointed_loop(fails, x, n)


@numba.njit
def longer(x, i):
    return np.zeros(len(x) + 1) * x[0]


@numba.njit
def of_longer(x):
    return np.sum(tg.checkpointed_loop(longer, x, 2))


@numba.njit
def whole_at_first(x):
    return tg.checkpointed_loop(logistic, 1, 3, x)


@numba.njit
def inverse(x, i):
    y = np.linalg.inv(np.outer(x, x) + np.eye(3))
    return y[0]


@numba.njit
def of_an_inverse(x):
    return np.sum(tg.checkpointed_loop(inverse, x, 2))


@numba.njit
def stores(x, i, c):
    """Stores what it computes in an array that np.zeros makes."""
    y = np.zeros(len(x))
    for j in range(len(x)):
        y[j] = x[j - 1] * c + x[j]
    return y


@numba.njit
def storing(x, c):
    return np.sum(tg.checkpointed_loop(stores, x, 6, c) ** 2)


def test_arrays_that_a_step_makes():
    x, h = np.array([0.1, 0.2, 0.3]), 1e-6
    slope = (storing(x, 0.3 + h) - storing(x, 0.3 - h)) / (2.0 * h)
    assert np.isclose(tg.grad(storing, 1)(x, 0.3), slope)


@numba.njit
def of_a_pair(x, i):
    return x, x


@numba.njit
def pairs(x):
    return tg.checkpointed_loop(of_a_pair, x, 3)[0]


def test_what_is_refused():
    with pytest.raises(errors.OperationError, match="other numbers when they were taken again"):
        tg.grad(of_random_numbers)(2.0)
    assert writing(1.0, np.zeros(2, int)) == 120.0
    for f, room in ((writing, np.zeros(2, int)), (writing, np.zeros(2)), (writing_recorded, np.zeros(2))):
        with pytest.raises(errors.OperationError, match="step changes an array"):
            tg.grad(f)(1.0, room)
    for f in (settled, tg.grad(settled)):
        with pytest.raises(ValueError, match="n must not be negative"):
            f(0.5, 2.0, -1)
    with pytest.raises(ValueError, match="changes the shape"):
        tg.grad(of_longer)(np.ones(3))
    with pytest.raises(errors.UnsupportedError, match="start with floats"):
        tg.grad(whole_at_first)(2.0)
    with pytest.raises(errors.UnsupportedError, match=r"test_checkpointed_loop.py:\d+ \(`y = .*`inv\("):
        tg.grad(of_an_inverse)(np.ones(3))
    with pytest.raises(errors.UnsupportedError, match=r"pairs cannot be .*checkpointed_loop\(of_a_pair"):
        tg.grad(pairs)(2.0)


def test_exceptions_come_through_and_leave_nothing_behind():
    slope = tg.grad(failing)
    for _ in range(3):
        with pytest.raises(KeyError, match="five"):
            slope(1.0, 10)
        assert np.isclose(slope(1.0, 5), 1.1**5)


def test_threads():
    expected = [tg.grad(settled, 1)(0.3, 2.5 + 0.01 * k, 3000) for k in range(8)]
    found = {}

    def run(k):
        found[k] = tg.grad(settled, 1)(0.3, 2.5 + 0.01 * k, 3000)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [found[k] for k in range(8)] == expected


# From Python


def test_in_python():
    def step(state, i, rate, shift):
        x, y = state
        return rate * x * (1.0 - x) + 0.001 * shift, y + x * i

    def f(x, rate, shift, n):
        x, y = tg.checkpointed_loop(step, (x, 0.0 * x), n, rate, shift)
        return np.sum(x) + 1e-4 * np.sum(y)

    def plainly(x, rate, shift, n):
        state = x, 0.0 * x
        for i in range(n):
            state = step(state, i, rate, shift)
        return np.sum(state[0]) + 1e-4 * np.sum(state[1])

    x, shift = np.array([0.2, 0.6]), np.array([1.0, -1.0])
    for n in (0, 3, 400):
        assert np.isclose(f(x, 3.2, shift, n), plainly(x, 3.2, shift, n))
        for g, e in zip(tg.grad(f, (0, 1, 2))(x, 3.2, shift, n), tg.grad(plainly, (0, 1, 2))(x, 3.2, shift, n),
                        strict=True):  # fmt: skip
            np.testing.assert_allclose(g, e, rtol=1e-10)
    recording = tg.record(lambda x: f(x, 3.2, shift, 10_000), x)
    assert len(recording) < 100 and "states kept" in str(tg.record(tg.grad(lambda x: f(x, 3.2, shift, 10_000)), x))
    assert tg.checkpointed_loop(lambda x, i: x + i, 1, 4) == 7
    limited = tg.grad(lambda r: tg.checkpointed_loop(lambda x, i: r * x * (1.0 - x), 0.3, 5000, memory_limit=400))
    assert np.isclose(limited(2.5), 1.0 / 2.5**2)


def test_bad_input_in_python():
    step = lambda x, i: x * 1.1
    for n, message in ((-1, "must not be negative"), (2.0, "whole number"), (True, "whole number")):
        with pytest.raises(errors.OperationError, match=message):
            tg.checkpointed_loop(step, 1.0, n)
    with pytest.raises(errors.OperationError, match="memory_limit"):
        tg.checkpointed_loop(logistic, 0.3, 10, 2.5, memory_limit=1000)
    with pytest.raises(errors.ShapeError, match="^checkpointed_loop: the state and the state that step returned|"
                       "^checkpointed_loop: the state has shape .*, the state that step returned"):  # fmt: skip
        tg.checkpointed_loop(lambda x, i: np.zeros(i), np.ones(2), 5)
    with pytest.raises(errors.OperationError, match="^checkpointed_loop: memory_limit must be"):
        tg.checkpointed_loop(step, 1.0, 5, memory_limit=-1)
    # Steps that read numbers are kept, all of them. The warning does not speak of a limit that nobody gave.
    reading = lambda x, i: 0.9 * x if x > 0.1 else 1.1 * x
    with pytest.warns(errors.RecordingWarning, match="^the steps of checkpointed_loop are no program"):
        tg.grad(lambda x: tg.checkpointed_loop(reading, x, 20))(1.0)


def test_a_step_of_numba_in_python():
    def f(x, rate):
        return np.sin(tg.checkpointed_loop(logistic, x * x, 1000, rate)) * rate

    def plainly(x, rate):
        return np.sin(settled_plainly(x * x, rate, 1000)) * rate

    assert np.isclose(f(0.6, 2.7), plainly(0.6, 2.7))
    h = 1e-6
    assert np.isclose(tg.grad(f, 1)(0.6, 2.7), (plainly(0.6, 2.7 + h) - plainly(0.6, 2.7 - h)) / (2.0 * h))
    # Only an argument of the steps is differentiated.
    assert np.isclose(tg.grad(lambda rate: tg.checkpointed_loop(logistic, 0.1, 5000, rate))(2.5), 1.0 / 2.5**2)
