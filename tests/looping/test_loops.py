"""Loops that are one instruction: against the same loops step by step, at points that were not recorded; memory; what
is unrolled."""

import functools
import gc
import os
import pickle
import signal
import threading
import tracemalloc

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.adjoint import revolve
from tapegrad.errors import IndexRangeError, OperationError, RecordingWarning, ShapeError, StructureError
from tapegrad.looping import trial
from tapegrad.looping.instruction import Loop, LoopBack
from tapegrad.tape.ambient import unrolling

RNG = np.random.default_rng(0)
N = 12
ROWS, TOKENS = RNG.normal(size=(N, 3)), RNG.integers(0, 7, N)


@pytest.fixture
def short(monkeypatch):
    """Short loops are loops too."""
    monkeypatch.setattr(trial, "LEAST", 2)
    monkeypatch.setattr(trial, "INSTRUCTIONS", 0)


def loops_in(recording):
    return sum(type(call) is Loop for call in recording.program.calls.values())


def stepwise(f):
    def unrolled(*args):
        with unrolling():
            return f(*args)

    return unrolled


def rows(x):
    return ROWS.astype(x.dtype)


# Programs, and how many loops each has on its tape; none where its steps are no one program.


def closure(x):
    w = np.sin(x)
    return np.sum(tg.scan(lambda c, z: (np.tanh(w * c + z), c[0] * z), x, rows(x))[0] ** 2)


def nested_ys(x):
    w = x[:, None] * x
    c, ys = tg.scan(lambda c, z: (np.tanh(w @ c + z), {"a": c[0] * z, "b": np.sum(c)}), x, rows(x))
    return np.sum(ys["a"] ** 2) * ys["b"][3] + np.sum(c * ys["b"][-1])


def transposed_weights(x):
    w = (x[:, None] * np.cos(x)).T
    _, ys = tg.scan(lambda c, z: (np.tanh(w @ c + z), c), x, rows(x))
    return np.sum(ys**2)


def indices(x):
    a = np.sin(np.arange(40.0).astype(x.dtype) * x[0]) + x[1]
    return tg.fori_loop(2, 2 + N, lambda i, s: s * 0.9 + a[i] + a[2 * i + 1] * i + a[-i], x[2])


def indices_of_rows(x):
    a = np.arange(1.0, 21.0).astype(x.dtype)[:, None] * x
    step = lambda i, s: np.sin(s) + a[i] + a[i + 1, 1] + a[:, 2][i] + np.sum(a[:3, 1:][:, i - i])
    return np.sum(tg.fori_loop(1, 1 + N, step, x))


def tokens(x):
    table = np.arange(-3.0, 4.0).astype(x.dtype)[:, None] * x
    return np.sum(tg.scan(lambda c, t: (np.tanh(c + table[t] * 0.3), None), x, TOKENS)[0] ** 2)


def counters(x):
    def step(c, z):
        a, n, met = c
        return (a * np.cos(z) + n, n + 1, np.logical_or(met, a[0] > 0.5)), n * z

    (a, n, met), ys = tg.scan(step, (x, 0, False), rows(x))
    return np.sum(a**2) * n + np.sum(ys) + np.sum(tg.where(met, x, 2 * x))


def plain_at_first(x):
    step = lambda c, z: ((c[1], c[0] + np.sum(x * z), c[2] * x), c[0])
    c, ys = tg.scan(step, (0.0, 1, np.ones(3, x.dtype)), rows(x))
    return c[0] * c[1] + np.sum(ys * ys) + np.sum(c[2])


def scan_in_scan(x):
    column = rows(x)[:, 0]

    def outer(c, z):
        d, ys = tg.scan(lambda e, u: (np.sin(e * u + z) + x * 0.1, np.sum(e * c)), c, column)
        return d * 0.5 + c * 0.1, np.sum(ys)

    c, ys = tg.scan(outer, x, rows(x))
    return np.sum(c * c) + np.sum(ys)


def gradient_of_a_scan_in_scan(x):
    column = rows(x)[:, 0]

    def energy(c, z):
        return np.sum(tg.scan(lambda e, u: (np.sin(e * u) + z * x, None), c, column)[0] ** 2)

    return np.sum(tg.scan(lambda c, z: (c - 0.05 * tg.grad(energy)(c, z), None), x, rows(x))[0] ** 2)


def no_carry(x):
    return np.sum(tg.scan(lambda c, z: (c, np.sum(np.exp(z * x))), None, rows(x))[1] ** 2)


def exchanged(x):
    a, b = tg.fori_loop(0, N, lambda i, s: (s[1], s[0] * x[0] + i), (x[0] * 1.0, x[1]))
    return a * b


def views(x):
    c, ys = tg.scan(lambda c, z: ((c * 0.5 + z[:, None] * x).T, c.T), x[:, None] * x, rows(x))
    return np.sum(c[0]) + np.sum(c[:, 2]) + np.sum(ys[:, 0, 1])


def one_value_twice(x):
    (a, b), ys = tg.scan(lambda c, z: ((c[0] + c[1] * np.sum(z), c[0]), (c[0], c[0])), (x[0], x[0]), rows(x))
    return a * b + np.sum(ys[0] * ys[1])


def rows_on_the_tape(x):
    xs = np.arange(12.0).astype(x.dtype)[:, None] * x
    c, ys = tg.scan(lambda c, z: (np.sin(c * z[::-1]), z * c), x, xs)
    d, zs = tg.scan(lambda c, z: (np.sin(c * z[::-1]), z * c), c, ys[::-1])
    return np.sum(d) + np.sum(zs**2)


def chosen(x):
    step = lambda c, z: (np.where(c > 0.2, np.sqrt(abs(c) + 1e-3) * z, c * c), None)
    return np.sum(tg.scan(step, x, rows(x))[0])


def maxima(x):
    return tg.fori_loop(0, N, lambda i, s: max(s * x[0], x[1], i * 0.01) + min(s, 0.3), x[2])


def a_guard_that_holds(x):
    return tg.fori_loop(0, N, lambda i, s: s * x[0] + (1.0 if i >= 0 else 2.0), x[1])


def bounded(x):
    body = lambda s: {"a": s["a"] * 0.5, "b": s["b"] + np.sqrt(s["a"] - 0.9)}
    return tg.while_loop(lambda s: s["a"] > 1.0, body, {"a": 40.0 + x[0], "b": x[1]}, max_steps=9)["b"] * x[2]


def a_guard_on_the_step(x):
    return tg.fori_loop(0, N, lambda i, s: s * x[0] + (1.0 if i % 2 else 2.0), x[1])


def a_guard_on_a_value(x):
    return tg.fori_loop(0, N, lambda i, s: s * x[0] if s > 0.3 else s + x[1], x[1] * x[1])


def a_plain_table(x):
    table = list(range(100))
    return tg.fori_loop(0, N, lambda i, s: s * x[0] + table[i], x[1])


def counting(x):
    calls = [0]

    def step(i, s):
        calls[0] += 1
        return s * x[0] + calls[0]

    return tg.fori_loop(0, N, step, x[2])


def drawing(x):
    draws = np.random.default_rng(1)
    return tg.fori_loop(0, N, lambda i, s: s * x[0] + draws.normal(), x[2])


def keeping(x):
    kept = []

    def step(i, s):
        kept.append(s)
        return s * x[0]

    return tg.fori_loop(0, N, step, x[2]) + sum(kept)


def calling(x):
    f = tg.checkpoint(lambda c, z: np.sin(c * z))
    return np.sum(tg.scan(lambda c, z: (f(c, z), None), x, rows(x))[0])


def plain_numbers(x):
    n = tg.fori_loop(0, N, lambda i, s: s + i, 0)
    return np.sum(x[: n % 3 + 1] ** 2) * n


PROGRAMS = {
    closure: 1, nested_ys: 1, transposed_weights: 1, indices: 1, indices_of_rows: 1, tokens: 1, counters: 1,
    plain_at_first: 1, scan_in_scan: 1, gradient_of_a_scan_in_scan: 1, no_carry: 1, exchanged: 1, views: 1,
    one_value_twice: 1, rows_on_the_tape: 2, chosen: 1, maxima: 1, a_guard_that_holds: 1, bounded: 1,
    a_guard_on_the_step: 0, a_guard_on_a_value: 0, a_plain_table: 0, counting: 0, drawing: 0, keeping: 0, calling: 0,
    plain_numbers: 0,
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*random numbers")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
def test_loops_are_what_their_steps_are(program, dtype, short, rng):
    x, v = rng.normal(size=(2, 3)).astype(dtype)
    loop, steps = tg.record(program, x), tg.record(stepwise(program), x)
    assert loops_in(loop) == PROGRAMS[program]
    assert not loops_in(steps)
    for _ in range(2):
        x, v = rng.normal(size=(2, 3)).astype(dtype)
        found, expected = ([
            r(x), r.grad(x), r.jvp((x,), (v,))[1], r.hessian(x), r.hvp((x,), (v,)), r.jacfwd(x), r.vjp(x)[1](1.0)[0],
        ] for r in (loop, steps))  # fmt: skip
        for a, b in zip(found, expected, strict=True):
            assert np.shape(a) == np.shape(b)
            if np.isfinite(b).all():
                np.testing.assert_allclose(a, b, rtol=0, atol=(1e-11 if dtype == "float64" else 3e-4) * np.abs(b).max())


@pytest.mark.parametrize("program", [closure, scan_in_scan, gradient_of_a_scan_in_scan, counters, indices],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_third_derivatives_and_values_without_a_recording(program, short, rng):
    x, v = rng.normal(size=(2, 3))
    third = lambda f: tg.grad(lambda x: tg.grad(lambda x: tg.grad(f)(x) @ v)(x) @ v)(x)
    expected = third(stepwise(program))
    np.testing.assert_allclose(third(program), expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())
    found = []
    for f in (program, stepwise(program)):
        for _ in range(30):
            # On the thread's own tape, which forgets what nobody holds.
            value = tg.Value(x)
            result = f(value)
        result.backward()
        found.append((result.data, value.grad))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-12)
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-10)


def test_against_jax(short, rng):
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)

    def program(scan, xp, w, x):
        def step(carry, row):
            h, c = carry
            h = xp.tanh(w @ h + row)
            return (h, c * xp.sum(h)), xp.sin(h * c)

        (h, c), ys = scan(step, (x, 1.0), ROWS)
        return xp.sum(ys**2) + c * xp.sum(h)

    recording = tg.record(lambda w, x: program(tg.scan, np, w, x), np.eye(3), np.ones(3))
    theirs = lambda w, x: program(jax.lax.scan, jax.numpy, w, x)
    assert loops_in(recording) == 1
    for _ in range(2):
        w, x = 0.5 * rng.normal(size=(3, 3)), rng.normal(size=3)
        for a, b in zip(recording.grad(w, x, argnums=(0, 1)), jax.grad(theirs, (0, 1))(w, x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        second = jax.hessian(theirs, 1)(w, x)
        np.testing.assert_allclose(recording.hessian(w, x, argnums=1), second, rtol=1e-9, atol=1e-11)


def logistic(n, limit=None):
    return lambda r, x: tg.fori_loop(0, n, lambda i, x: r * x * (1.0 - x), x, memory_limit=limit)


def test_a_million_steps_are_one_instruction():
    recording = tg.record(logistic(1_000_000), 2.9, 0.3)
    assert len(recording.code.rows) == 3 and loops_in(recording) == 1
    value, gradient = recording.value_and_grad(2.5, 0.4, argnums=(0, 1))
    assert value == pytest.approx(1 - 1 / 2.5, rel=1e-12)
    assert gradient[0] == pytest.approx(1 / 2.5**2, rel=1e-9) and abs(gradient[1]) < 1e-300


def peak_of(call):
    call()
    gc.collect()
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_gradient_keeps_states_alone_or_as_many_as_fit():
    n, size = 2_000, 500

    def chain(limit):
        def step(x, _):
            for _ in range(6):
                x = np.sin(x) * 0.9 + 0.1
            return x, None

        return tg.record(lambda x: np.sum(tg.scan(step, x, None, n, memory_limit=limit)[0]), np.zeros(size))

    x = np.linspace(0.0, 1.0, size)
    states = 8 * n * size
    every, few = chain(None), chain(states // 40)
    assert states <= peak_of(lambda: every.grad(x)) < 1.3 * states
    assert peak_of(lambda: few.grad(x)) < states / 10
    assert peak_of(lambda: every(x)) < states / 10
    assert np.array_equal(every.grad(x), few.grad(x))


@pytest.mark.parametrize("limit", [48, 72, 120, 240, 1_000, 5_000, 10**9])
def test_limits_change_nothing(limit, rng):
    table = rng.normal(size=(777, 3))

    def program(x, limit=None):
        c, ys = tg.scan(lambda c, z: (np.tanh(c * z) + 0.1 * x, c[0]), x, table, memory_limit=limit)
        return np.sum(c**2) + np.sum(ys**2)

    x, v = rng.normal(size=(2, 3))
    limited, free = tg.record(lambda x: program(x, limit), x), tg.record(lambda x: program(x, 10**9), x)
    x = rng.normal(size=3)
    assert np.array_equal(limited.grad(x), free.grad(x))
    assert np.array_equal(limited.hvp((x,), (v,)), free.hvp((x,), (v,)))
    np.testing.assert_allclose(limited.grad(x), tg.grad(stepwise(program))(x), rtol=1e-10)


@functools.cache
def fewest(n, s):
    """By trying all: the fewest steps to be carried out again."""
    if n == 1 or s == 1:
        return n * (n - 1) // 2
    return min(m + fewest(n - m, s - 1) + fewest(m, s) for m in range(1, n))


@pytest.mark.parametrize("states", range(1, 7))
def test_the_schedule_is_the_best_there_is(states):
    for n in range(1, 30):
        found = list(revolve.schedule(n, states))
        assert [step for what, step, _ in found if what == "back"] == list(range(n))[::-1]
        assert max(place for what, place, _ in found if what == "keep") < states
        assert sum(b - a for what, a, b in found if what == "go") == revolve.cost(n, states) == fewest(n, states)


def test_patterns_and_certificates_are_those_of_the_steps(short, rng):
    far = lambda x: tg.scan(lambda c, z: (np.tanh(c * z) + np.sin(x), None), x, ROWS)[0]
    x = rng.normal(size=3)
    recording = tg.record(far, np.ones(3))
    assert loops_in(recording) == 1
    sparse = recording.jacobian(x, sparse=True)
    assert sparse.nnz == 3
    np.testing.assert_allclose(sparse.toarray(), recording.jacobian(x), rtol=1e-12)
    assert recording.sparsity().pattern.nnz == 3
    scalar = tg.record(lambda x: np.sum(far(x) ** 2), np.ones(3))
    hessian = scalar.hessian(x, sparse=True)
    assert hessian.nnz == 3
    np.testing.assert_allclose(hessian.toarray(), scalar.hessian(x), rtol=1e-10)
    kinks = tg.record(lambda x: np.sum(tg.scan(lambda c, z: (abs(c) * 0.9 + 0.1, None), x, ROWS)[0]), np.ones(3))
    assert not kinks.certificate(np.array([0.0, 1.0, 2.0])).differentiable
    assert kinks.certificate(np.array([0.25, 1.0, 2.0])).nearest.distance == 0.25


@pytest.mark.parametrize("compile", [True, False])
def test_compiled_or_not(compile, short, rng):
    x = rng.normal(size=3)
    f = lambda x: closure(x) * 1.0
    found = tg.grad(f, compile=compile)
    np.testing.assert_allclose(found(x), tg.grad(stepwise(closure))(x), rtol=1e-10)
    recording = tg.record(f, x, compile=compile)
    recording.grad(x)
    (loop,) = (call for call in recording.program.calls.values() if type(call) is Loop)
    assert (loop.body.program.native is not None) == compile
    assert [runs.how for runs in recording.stats().runs][-1] == ("compiled" if compile else "interpreted")


def test_listing_says_what_it_is():
    recording = tg.record(lambda x: tg.fori_loop(0, 100_000, lambda i, s: s * x, x), 1.0)
    assert "loop of 100,000 steps" in str(tg.inspect.listing(recording))


def of_module(x):
    return np.sum(tg.scan(lambda c, z: (np.tanh(c * z) + x, None), x, ROWS)[0])


def test_threads_and_pickles(short, rng):
    x = rng.normal(size=3)
    recording = tg.record(of_module, x)
    again = pickle.loads(pickle.dumps(recording))
    assert loops_in(again) == 1 and np.array_equal(again.hessian(x), recording.hessian(x))
    expected, found = [recording.grad(x + k) for k in range(4)], {}

    def work(k):
        found[k] = [recording.grad(x + k) for _ in range(10)]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(g, expected[k]) for k in range(4) for g in found[k])


def test_another_length_is_recorded_anew():
    slope = tg.grad(lambda x, zs: tg.scan(lambda c, z: (c * z, None), x, zs)[0])
    for n in (5_000, 6_000, 5_000, 0):
        assert slope(2.0, np.full(n, 1.0 + 1e-4)) == pytest.approx((1.0 + 1e-4) ** n, rel=1e-9)


def test_functions_are_called_twice_where_steps_are_one_program():
    calls = []
    recorded = tg.record(lambda x: tg.fori_loop(0, 5_000, lambda i, s: np.sin(called(calls, s)) * x, x), 1.0)
    assert loops_in(recorded) == 0 and len(calls) == 5_000
    count = Counter()
    recorded = tg.record(lambda x: tg.fori_loop(0, 5_000, lambda i, s: np.sin(count(s)) * x, x), 1.0)
    assert loops_in(recorded) == 1 and count.calls == 2


def called(calls, s):
    calls.append(1)
    return s


class Counter:
    """Called by a step, and not looked into."""

    __slots__ = ("calls",)

    def __init__(self):
        self.calls = 0

    def __call__(self, s):
        self.calls += 1
        return s


def test_an_index_out_of_range_while_stepping(short):
    table = np.arange(5)
    f = lambda x, at: tg.scan(lambda c, i: (c + x[i], None), 0.0, at)[0]
    recording = tg.record(f, np.ones(5), table)
    assert loops_in(recording) == 1
    assert recording.grad(np.arange(5.0), np.array([0, 0, 1, 4, 4])).tolist() == [2.0, 1.0, 0.0, 0.0, 2.0]
    with pytest.raises(IndexRangeError):
        recording(np.ones(5), table + 1)


def test_a_loop_can_be_interrupted():
    recording = tg.record(lambda x: tg.fori_loop(0, 10**9, lambda i, s: np.sin(s) * x, x), 0.9)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        recording(0.8)
    timer.join()
    assert tg.grad(logistic(5_000))(2.5, 0.3) == pytest.approx(1 / 2.5**2)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1 MB"])
def test_limits_that_are_none(limit):
    for loop in (
        lambda: tg.scan(lambda c, x: (c, None), 1.0, None, 3, memory_limit=limit),
        lambda: tg.fori_loop(0, 3, lambda i, c: c, 1.0, memory_limit=limit),
        lambda: tg.while_loop(lambda c: c < 0, lambda c: c, 1.0, memory_limit=limit),
    ):
        with pytest.raises(OperationError, match="memory_limit must be a positive whole number"):
            loop()


def test_a_limit_too_small_or_in_vain():
    with pytest.raises(OperationError, match="two states of 24 bytes each, it is 47 bytes"):
        tg.grad(lambda x: np.sum(tg.scan(lambda c, _: (c * x, None), x, None, 9, memory_limit=47)[0]))(np.ones(3))
    with pytest.warns(RecordingWarning, match="memory_limit"):
        f = lambda x: tg.fori_loop(0, 9, lambda i, c: c * x if c > 0.0 else c, x, memory_limit=64)
        assert tg.grad(f)(1.0) == 10.0


@pytest.mark.parametrize(
    ("error", "loop"),
    [
        (ShapeError, lambda x: tg.fori_loop(0, 9_000, lambda i, s: s * np.ones(2), x)),
        (StructureError, lambda x: tg.fori_loop(0, 9_000, lambda i, s: (s, s), x)),
        (StructureError, lambda x: tg.scan(lambda c, _: c, x, None, 9_000)),
        (ZeroDivisionError, lambda x: tg.scan(lambda c, _: (c, 1 // 0), x, None, 9_000)),
    ],
)
def test_errors_are_those_of_the_steps(error, loop):
    with pytest.raises(error):
        tg.grad(loop)(1.0)


def test_gradients_of_what_is_wanted_alone(short):
    recording = tg.record(lambda x, y: tg.fori_loop(0, N, lambda i, s: np.sin(s) * y, x), 0.5, 0.9)
    recording.compile()
    written = recording.derived.programs(("value_and_grad", 0, False))[-1]
    (back,) = (call for call in written.calls.values() if type(call) is LoopBack)
    assert back.wanted.count(True) == 1
