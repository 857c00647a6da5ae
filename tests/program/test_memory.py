"""Memory of programs over long arrays: what recording takes, and places that are used again."""

import threading
import tracemalloc

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops import RUN, TABLE, Elementwise
from tapegrad.ops.record import OUT
from tapegrad.program import Lean, branches, lean, placing, program
from tapegrad.sweeps import ADJOINTS, VALUES
from tapegrad.sweeps.analysis import GROUP
from tapegrad.sweeps.owners import move_numbers, owners, translate
from tapegrad.tape import LEAF


def loop(x):
    for _ in range(20):
        x = x * 0.9 + 0.1 * x * x
    return np.sum(x)


def nearest(points):
    def distances(centres):
        d = np.sum((points[:, None, :] - centres[None, :, :]) ** 2, axis=-1)
        return np.sum(np.min(d, axis=1))

    return distances


@pytest.fixture
def always(monkeypatch):
    """Make smaller arenas for all programs, and let short arrays take places of others."""
    monkeypatch.setattr(program, "FROM", 0)
    monkeypatch.setattr(placing, "LONG", 2)
    monkeypatch.setattr(placing, "SHARE", 10.0)
    monkeypatch.setattr(placing, "_CHUNK", 1)


# Recording


def test_making_a_program_takes_little_beside_its_arena(monkeypatch):
    """No array made on the way is as long as the arena: marks of one byte a number are the longest."""
    n, taken = 100_000, []
    code_of = branches.code_of

    def measured(*args):
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        made = code_of(*args)
        taken.append((tracemalloc.get_traced_memory()[1] - before, 8 * made.size))
        return made

    monkeypatch.setattr(branches, "code_of", measured)
    tracemalloc.start()
    try:
        recording = tg.record(loop, np.ones(n))
        recording.hvp((np.ones(n),), (np.ones(n),))
    finally:
        tracemalloc.stop()
    (first, of_first), (second, of_second) = taken
    assert of_first > 80 * 8 * n and of_second > 180 * 8 * n
    assert first < 0.2 * of_first and second < 0.5 * of_second


def test_recording_computes_nothing():
    """What a function without guards is recorded at is computed by the first replay."""
    called = []

    def forward(x):
        called.append(x.copy())
        return np.sin(x)

    black_box = tg.external(forward, lambda g, y, x: g * np.cos(x))
    recording = tg.record(lambda x: np.sum(black_box(x * 2.0)), np.ones(3))
    seen = len(called)
    assert recording(np.zeros(3)) == 0.0
    assert len(called) == seen + 1 and not called[-1].any()


def test_a_listing_after_recording_shows_numbers():
    text = str(tg.record(lambda x: x * 3.0 + 1.0, 2.0))
    assert "7" in text.splitlines()[-2]


def test_errors_of_what_is_recorded_come_with_the_first_replay():
    gradient = tg.grad(lambda x, i: np.sum(np.sin(x)[i] * 2.0))
    with pytest.raises(tg.errors.IndexRangeError, match="7"):
        gradient(np.ones(3), np.array([0, 7]))
    recording = tg.record(lambda x, i: np.sum(np.sin(x)[i] * 2.0), np.ones(3), np.array([0, 7]))
    with pytest.raises(tg.errors.IndexRangeError, match="7"):
        recording(np.ones(3), np.array([0, 7]))
    assert recording(np.ones(3), np.array([0, 1])) == pytest.approx(4.0 * np.sin(1.0))


# Places that are used again


def test_a_smaller_arena_for_results():
    n = 50_000
    x = np.linspace(0.1, 0.9, n)
    recording = tg.record(loop, x, compile=False)
    of = recording.program
    found = of.for_results()
    assert isinstance(found, Lean) and of.code.size > 80 * n and found.code.size < 7 * n
    assert recording(x * 0.5) == pytest.approx(loop(x * 0.5), rel=1e-14)
    assert not any(w.used for w in of.workspaces) and len(found.workspaces) == 1


def test_a_smaller_arena_for_gradients():
    """Of four arrays a round, the way back reads two: the factors of the product of arrays."""
    n = 50_000
    x = np.linspace(0.1, 0.9, n)
    recording = tg.record(loop, x, compile=False)
    value, gradient = recording.value_and_grad(x * 0.5)
    of = recording.program
    found = of.for_gradients()
    assert isinstance(found, Lean) and 40 * n < found.code.size < 52 * n < of.code.size
    assert value == pytest.approx(loop(x * 0.5), rel=1e-14)
    np.testing.assert_allclose(gradient, loop_derivatives(x * 0.5)[0], rtol=1e-13)


def test_a_workspace_that_is_there_is_used():
    x = np.linspace(0.1, 0.9, 50_000)
    recording = tg.record(loop, x, compile=False)
    recording.value_and_grad(x)
    assert recording.program.for_results() is recording.program.for_gradients()
    assert recording(x * 0.5) == pytest.approx(loop(x * 0.5), rel=1e-14)
    other = tg.record(loop, x, compile=False)
    other.vjp(x)
    assert other.program.for_results() is other.program.for_gradients() is other.program
    assert other(x * 0.5) == pytest.approx(loop(x * 0.5), rel=1e-14)


def test_a_smaller_arena_for_hessian_products():
    n = 20_000
    x, v = np.linspace(0.1, 0.9, n), np.linspace(-1.0, 1.0, n)
    recording = tg.record(loop, x, compile=False)
    found = recording.hvp((x * 0.9,), (v,))
    (gradient,) = recording._gradients.values()
    of = gradient.program
    assert of.smaller(back=False).code.size < 0.5 * of.code.size
    np.testing.assert_allclose(found, loop_derivatives(x * 0.9)[1] * v, rtol=1e-12)


def test_programs_of_few_numbers_stay_as_they_are():
    recording = tg.record(loop, np.ones(10))
    recording(np.ones(10))
    assert recording.program.for_results() is recording.program and recording.program.smaller(back=False) is None


# All of these keep numbers small and do not magnify differences, so that roundings stay what they are.
UNARY = [np.sin, np.tanh, np.abs, lambda x: np.exp(-x * x), lambda x: 0.3 * x * x, lambda x: 0.5 * x + 1.0, np.negative]
BINARY = [np.add, np.subtract, np.multiply, np.maximum, lambda x, y: np.where(x > y, x, y), np.hypot]
VIEWS = [lambda x: x[::-1], lambda x: x[1:-1], lambda x: x[::2], lambda x: x[:1], lambda x: np.concatenate([x, x[:2]])]
def largest(x):
    """The logarithm of the sum of exponentials of each row, smoothly its largest number; of a Value or an array."""
    if isinstance(x, tg.Value):
        return tg.logsumexp(x, axis=1)
    most = np.max(x, axis=1)
    return most + np.log(np.sum(np.exp(x - most[:, None]), axis=1))


# Of a matrix with 20 columns.
OF_MATRIX = [
    lambda x, w: np.tanh(x @ w),
    lambda x, w: x * np.max(x, axis=0),
    lambda x, w: x - np.sum(x, axis=1, keepdims=True) / 20.0,
    lambda x, w: 0.1 * largest(x)[:, None] + x,
    lambda x, w: x * np.prod(np.cos(x[:, :3]), axis=1)[:, None],
    lambda x, w: x / (1.0 + np.linalg.norm(x, axis=0)),
    lambda x, w: np.concatenate([x[:, 10:], x[:, :10]], axis=1) * w[0],
    lambda x, w: np.einsum("ij,kj->ik", x, np.tanh(w)) / 20.0,
]


def program_of(seed, n):
    """A random function of two vectors of n numbers, which returns some of the arrays that it makes."""
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, 1 << 30, (14, 4))
    index, weights = rng.integers(0, n, n), 0.2 * rng.normal(size=(20, 20))

    def f(x, y):
        made = [x, y]
        for kind, which, i, j in choices:
            a, b = made[i % len(made)], made[j % len(made)]
            if kind % 3 == 0 and a.shape == (n,):
                made.append(OF_MATRIX[which % len(OF_MATRIX)](a.reshape(-1, 20), weights.astype(a.dtype)).reshape(n))
            elif kind % 5 == 0:
                made.append(VIEWS[which % len(VIEWS)](a) if a.shape[0] > 4 else np.sin(a))
            elif kind % 5 == 1 and a.shape == b.shape:
                made.append(np.tanh(BINARY[which % len(BINARY)](a, b)))
            elif kind % 5 == 2 and a.shape == (n,):
                made.append([np.cumsum(a) / n, a[index], 0.5 * np.outer(a[:3], a)[2], np.sort(a)][which % 4])
            elif kind % 5 == 3:
                made.append(a * np.mean(b) if which % 2 else 0.5 * np.cos(a) + 0.5 * np.max(b))
            else:
                made.append(np.sin(UNARY[which % len(UNARY)](a)))
        return made[-1], made[-3], np.mean(made[-2]) * np.mean(made[len(made) // 2])

    return f


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("seed", range(40))
def test_random_programs_with_and_without_places_used_again(seed, dtype, always, monkeypatch):
    # The way back adds up in the order of groups: with groups alike not a bit may differ.
    monkeypatch.setattr(lean, "_GROUP_BACK", GROUP)
    monkeypatch.setattr(lean, "_GROUP", GROUP if seed % 4 else 1)
    # Runs of more than a block go in groups; those of up to 16 would be scalar instructions.
    n = 20 if seed % 2 else 1100
    f, rng = program_of(seed, n), np.random.default_rng(seed)
    points = [tuple(rng.normal(size=(2, n)).astype(dtype)) for _ in range(4)]
    rtol = 1e-12 if dtype == np.float64 else 1e-4
    recording, scalar = tg.record(f, *points[0]), lambda x, y: sum(np.sum(np.sin(z)) for z in f(x, y))
    along = points[3]
    gradient, both = tg.value_and_grad(scalar, (0, 1)), lambda *p: (scalar(*p), p)
    found = [(recording(*p), recording.jvp(p, along), tg.hvp(scalar, p, along)) for p in points[1:]]
    slopes = [gradient(*p) + tg.grad(both, 1, has_aux=True)(*p)[:1] for p in points]
    assert recording.program.for_results().code.size <= recording.program.code.size
    monkeypatch.setattr(program, "FROM", 1 << 60)
    kept = tg.record(f, *points[0])
    expected = [(kept(*p), kept.jvp(p, along), tg.hvp(scalar, p, along)) for p in points[1:]]
    assert kept.program.for_results() is kept.program
    gradient = tg.value_and_grad(scalar, (0, 1))
    for (value, both, second), (other, others) in zip(slopes, [gradient(*p) for p in points], strict=True):
        assert value == other
        for got, same in zip((*both, second), (*others, others[1]), strict=True):
            np.testing.assert_array_equal(got, same)
    for p, (value, pushed, product), (other, others, products) in zip(points[1:], found, expected, strict=True):
        for got, same, number in zip(value, other, f(*p), strict=True):
            np.testing.assert_array_equal(got, same)
            np.testing.assert_allclose(got, number, rtol=rtol, atol=rtol)
        for got, same in zip((*pushed[0], *pushed[1], *product), (*others[0], *others[1], *products), strict=True):
            np.testing.assert_array_equal(got, same)


def poisoned(recording, *args):
    """The gradient of a recording, all numbers but those that the way back is said to read having become NaN."""
    of = recording.program
    workspace = of.take()
    workspace.fill(args)
    seed = of.seed(False)
    assert of.sweep(workspace, VALUES, seed, None) < 0
    found = owners(of.code.rows[:, OUT])
    read = set(placing.read_back(of, found).tolist())
    for row, (op, out, _, n, _) in enumerate(of.code.rows.tolist()):
        if row not in read:
            workspace.values[out : out + (n if op >= RUN or op == LEAF else 1)] = np.nan
    assert of.sweep(workspace, ADJOINTS, seed, None) < 0
    return [g.copy() for g in workspace.gradients]


ELEMENTWISE = [row for row in TABLE if isinstance(row, Elementwise) and row.name not in ("leaf", "expect")]


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
def test_the_way_back_of_an_operation_reads_what_it_is_said_to_read(row):
    """As runs and as scalars."""
    rng = np.random.default_rng(row.opcode)
    args = [rng.uniform(low, high, 20) for low, high in row.samples]
    for f in (lambda *x: np.sum(np.sin(row(*x))), lambda *x: np.sum(np.sin(row(*[y[3] for y in x])))):
        recording = tg.record(f, *args, compile=False)
        if recording.program.scalar is None:
            continue
        expected = recording.grad(*args, argnums=tuple(range(len(args))))
        for got, same in zip(poisoned(recording, *args), expected, strict=True):
            np.testing.assert_array_equal(got, same)


@pytest.mark.parametrize("seed", range(40))
def test_the_way_back_of_programs_reads_what_it_is_said_to_read(seed):
    f, rng = program_of(seed, 40), np.random.default_rng(seed)
    args = rng.normal(size=(2, 40))
    recording = tg.record(lambda x, y: sum(np.sum(np.sin(z)) for z in f(x, y)), *args, compile=False)
    expected = recording.grad(*args, argnums=(0, 1))
    for got, same in zip(poisoned(recording, *args), expected, strict=True):
        np.testing.assert_array_equal(got, same)
    # Second derivatives have operations that no program calls by name.
    hessian = tg.record(lambda x, y: np.sum(np.sin(tg.grad(recording.f)(x, y))), *args, compile=False)
    expected = hessian.grad(*args, argnums=(0, 1))
    for got, same in zip(poisoned(hessian, *args), expected, strict=True):
        np.testing.assert_array_equal(got, same)


def test_k_means_in_a_smaller_arena(always):
    rng = np.random.default_rng(0)
    points, centres, v = rng.normal(size=(60, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    f = nearest(points)
    recording = tg.record(f, centres)
    other = centres + 0.1 * v
    assert recording(other) == pytest.approx(f(other), rel=1e-13)
    # Where no point changes its centre, the Hessian is twice the number of points of each centre.
    closest = np.argmin(np.sum((points[:, None, :] - other[None]) ** 2, axis=-1), axis=1)
    expected = 2.0 * np.bincount(closest, minlength=5)[:, None] * v
    np.testing.assert_allclose(recording.hvp((other,), (v,)), expected, rtol=1e-12)


def test_guards_and_branches_in_a_smaller_arena(always):
    def f(x):
        y = np.sin(x) * 2.0
        z = np.cos(y) + y
        return np.sum(z * z) if np.sum(y) > 0.0 else np.sum(z) - 1.0

    recording = tg.record(f, np.ones(30))
    for x in (np.ones(30), -np.ones(30), np.linspace(0.0, 1.0, 30), np.linspace(-1.0, 0.1, 30)):
        assert recording(x) == pytest.approx(f(x), rel=1e-13)
        value, slope = recording.jvp((x,), (np.ones(30),))
        assert value == pytest.approx(f(x), rel=1e-13)
        assert slope == pytest.approx((f(x + 1e-6) - f(x - 1e-6)) / 2e-6, rel=1e-7)
        assert np.sum(recording.grad(x)) == pytest.approx(slope, rel=1e-12)
    assert recording.stats().branches == 2


def test_an_index_out_of_range_is_named_though_its_place_was_used_again(always):
    def f(x, i):
        j = np.concatenate([i, i])
        y = x[j] * 2.0
        for _ in range(4):
            y = np.sin(y) * 3.0
        return np.sum(y)

    i = np.arange(8)
    recording = tg.record(f, np.ones(8), i)
    assert recording(np.ones(8), i) == pytest.approx(f(np.ones(8), i))
    i[5] = 77
    tangents = np.ones(8), None
    calls = (
        lambda: recording(np.ones(8), i), lambda: recording.jvp((np.ones(8), i), tangents),
        lambda: recording.grad(np.ones(8), i), lambda: tg.grad(f)(np.ones(8), i),
    )  # fmt: skip
    for call in calls:
        with pytest.raises(tg.errors.IndexRangeError, match="77"):
            call()
    i[5] = 0
    assert recording(np.ones(8), i) == pytest.approx(f(np.ones(8), i))


def test_errors_of_python_functions_in_a_smaller_arena(always):
    def forward(x):
        if x[0] > 5.0:
            raise RuntimeError("too large")
        return x * 2.0

    black_box = tg.external(forward, lambda g, y, x: g * 2.0)
    recording = tg.record(lambda x: np.sum(np.sin(black_box(np.exp(x) * 1.0) * 3.0)), np.zeros(6))
    with pytest.raises(RuntimeError, match="too large"):
        recording(np.full(6, 2.0))
    assert recording(np.zeros(6)) == pytest.approx(6.0 * np.sin(6.0))


def test_an_input_that_is_returned(always):
    recording = tg.record(lambda x: (x, np.sin(np.sin(x) * 2.0) * x), np.ones(5))
    x, v = np.linspace(0.0, 1.0, 5), np.linspace(2.0, 1.0, 5)
    (same, _), (along, slope) = recording.jvp((x,), (v,))
    np.testing.assert_array_equal(same, x)
    np.testing.assert_array_equal(along, v)
    inner = 2.0 * np.sin(x)
    np.testing.assert_allclose(slope, (np.sin(inner) + x * np.cos(inner) * 2.0 * np.cos(x)) * v, rtol=1e-14)


def test_several_threads_in_smaller_arenas(always):
    recording = tg.record(loop, np.full(2000, 0.5))
    points = [np.random.default_rng(k).uniform(0.1, 0.9, 2000) for k in range(4)]
    wrong = []

    def work(x):
        expected, (gradient, product) = loop(x), loop_derivatives(x)
        for _ in range(20):
            if abs(recording(x) - expected) > 1e-9:
                wrong.append("value")
            if not np.allclose(recording.grad(x), gradient, rtol=1e-10):
                wrong.append("gradient")
            if not np.allclose(recording.hvp((x,), (np.ones(2000),)), product, rtol=1e-10):
                wrong.append("product")

    threads = [threading.Thread(target=work, args=(x,)) for x in points]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def loop_derivatives(x):
    """The gradient of `loop` and the diagonal of its Hessian, by the chain rule."""
    first, second = np.ones_like(x), np.zeros_like(x)
    for _ in range(20):
        slope = 0.9 + 0.2 * x
        second, first = second * slope + 0.2 * first * first, first * slope
        x = x * 0.9 + 0.1 * x * x
    return first, second


# Intervals of the arena


@pytest.mark.parametrize("sizes", [[1] * 50, [3, 0, 0, 1, 1000, 1, 0, 7], [100_000, 1, 1, 1, 50_000, 2], [0, 0, 5]])
def test_owners_of_places(sizes):
    """Compiled code finds the same intervals as a search does, for scalars, long arrays, and arrays of no elements."""
    starts = np.cumsum(sizes) - sizes + 2
    found = owners(starts)
    places = np.unique(np.concatenate([starts, starts + np.maximum(sizes, 1) - 1, np.arange(2, 40)]))
    to = np.arange(len(sizes)) * 1_000_000
    expected = to[np.searchsorted(starts, places, "right") - 1] + places - starts[found.of(places)]
    translated = places.copy()
    translate(translated, *found, to)
    np.testing.assert_array_equal(translated, expected)
    assert found.of(np.array([0]))[0] == -1
    assert len(found.blocks) <= 4 * len(sizes) + 2 or found.shift == 0


def test_numbers_of_intervals_move():
    old, new = np.arange(10.0), np.full(12, -1.0)
    starts, counts, to = np.array([1, 6, 8]), np.array([3, 1, 4]), np.array([0, 5, 7])
    move_numbers(old.view(np.uint8), new.view(np.uint8), starts, counts, to, 8)
    np.testing.assert_array_equal(new, [1.0, 2.0, 3.0, -1.0, -1.0, 6.0, -1.0, 8.0, 9.0, -1.0, -1.0, -1.0])
