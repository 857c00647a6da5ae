"""Repeats in straight programs: expanded again they are the program, and little is left to write out."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import ShapeError
from tapegrad.native.repeats import _COLUMN, _ITEM, tell_apart
from tapegrad.native.roll import Repeat, Straight, rolled
from tapegrad.ops import RUN


def expanded(parts, keys, places):
    """Keys and places of all items, from the items that are written out and how places advance; and which these are."""

    def rows(part):
        # For each item that the part stands for: the item that is written out, and its places.
        if isinstance(part, Straight):
            assert part.length > 0
            items = np.arange(part.start, part.start + part.length)
            return items, places[items]
        assert part.count >= 3
        first = [rows(inner) for inner in part.body]
        items, at = np.concatenate([a for a, _ in first]), np.concatenate([b for _, b in first])
        assert len(items) == part.period
        # An item that is written out has one stride for this repeat, whichever inner round it stands for.
        strides = places[items + part.period] - places[items]
        rounds = np.arange(part.count)[:, None, None]
        return np.tile(items, part.count), (at + rounds * strides).reshape(part.count * len(items), places.shape[1])

    if not parts:
        return keys[:0], places[:0]
    all_rows = [rows(part) for part in parts]
    items = np.concatenate([a for a, _ in all_rows])
    return keys[items], np.concatenate([b for _, b in all_rows])


def written(parts):
    return sum(part.length if isinstance(part, Straight) else written(part.body) for part in parts)


def starts_fit(parts, start):
    """That parts follow each other from item `start` on, at every level; returns the item after the last."""
    for part in parts:
        assert part.start == start
        if isinstance(part, Repeat):
            assert starts_fit(part.body, start) == start + part.period
        start += part.length if isinstance(part, Straight) else part.period * part.count
    return start


def check(keys, places, **options):
    """Roll, compare what is expanded again with what was given; returns how many items are written out."""
    before = keys.copy(), places.copy()
    parts = rolled(keys, places, **options)
    assert np.array_equal(keys, before[0]) and np.array_equal(places, before[1])
    assert starts_fit(parts, 0) == len(keys)
    again = expanded(parts, keys, places)
    assert np.array_equal(again[0], keys) and np.array_equal(again[1], places)
    return written(parts)


def nested(rng, shape, columns=3, keys=8):
    """Keys and places of loops: `shape` lists numbers of straight items, and pairs of a count and the shape inside.

    Strides are random, negative and zero ones among them. Returns also the number of items in all the bodies.
    """

    def part(inner, depth):
        if isinstance(inner, int):
            strides = rng.integers(-3, 4, (depth, inner, columns))
            if rng.random() < 0.3:
                strides[:, :, rng.integers(columns)] = 0
            return rng.integers(0, keys, inner), rng.integers(-1000, 100_000, (inner, columns)), strides, inner
        count, inside = inner
        key, place, strides, least = joined(inside, depth + 1)
        advance = np.arange(count)[:, None, None] * strides[depth]
        outer = np.tile(strides[:depth], (1, count, 1))
        return np.tile(key, count), (place + advance).reshape(-1, columns), outer, least

    def joined(shape, depth):
        parts = [part(inner, depth) for inner in shape]
        key, place, strides, least = zip(*parts)
        return np.concatenate(key), np.concatenate(place), np.concatenate(strides, axis=1), sum(least)

    key, place, _, least = joined(shape, 0)
    return key, place, least


def random_shape(rng, room, depth=0):
    shape = []
    for _ in range(rng.integers(1, 4)):
        shape.append(int(rng.integers(1, 12)))
        if depth < 3 and rng.random() < 0.7:
            count = int(rng.integers(2, 12))
            if room // count > 4:
                shape.append((count, random_shape(rng, room // count, depth + 1)))
    return shape


@pytest.mark.parametrize("seed", range(60))
def test_random_loops_are_expanded_to_what_they_were(seed):
    rng = np.random.default_rng(seed)
    shape = random_shape(rng, 4000)
    keys, places, _ = nested(rng, shape, columns=int(rng.integers(1, 5)), keys=int(rng.integers(1, 9)))
    if seed % 2:
        # Irregular items, or all results one after the other.
        at = rng.random(len(keys)) < 0.01
        keys[at] += rng.integers(0, 2, at.sum())
        places[at] += rng.integers(-1, 2, (at.sum(), places.shape[1]))
    if seed % 3:
        places[:, 0] = np.arange(len(keys)) + 100
    check(keys, places, least=int(rng.integers(1, 40)))


@pytest.mark.parametrize("seed", range(20))
def test_chance_repeats_are_expanded_to_what_they_were(seed):
    # Few keys and few places: short repeats of many periods, which overlap.
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 3000))
    keys, places = rng.integers(0, 2, n), rng.integers(0, 2, (n, int(rng.integers(0, 3))))
    if seed % 2:
        places = np.cumsum(places, axis=0)
    check(keys, places, least=int(rng.integers(1, 10)))


@pytest.mark.parametrize("period", [1, 2, 3, 7, 10, 31, 32, 33, 100, 1000, 10_000, 100_000])
@pytest.mark.parametrize("count", [3, 4, 50])
def test_any_period_is_found(rng, period, count):
    if period * count > 1_000_000 or period * (count - 1) < 24:
        pytest.skip("too long, or not worth it")
    keys, places, _ = nested(rng, [20, (count, [period]), 20])
    assert check(keys, places) <= 40 + period
    # Two rounds of it are peeled, one at each end, because they are not quite like the others.
    places[20 : 20 + period : max(1, period // 5), 1] += 1 + np.arange(len(range(0, period, max(1, period // 5)))) ** 2
    assert check(keys, places) <= 40 + 2 * period + 24 + (count == 3) * 2 * period


@pytest.mark.parametrize(
    "shape",
    [
        [(100, [(50, [16]), 12, (40, [12]), 9])],
        [20, (4, [(1000, [10]), 200]), 20],
        [(5, [(300, [20]), 50, (30, [12])])],
        [(4, [(4, [(4, [(4, [(4, [30])])])])])],
        [(4, [3, (4, [3, (4, [3, (4, [3, (4, [30])])])])])],
        [(30, [5, (30, [5, (30, [1])])])],
    ],
)
def test_nested_loops_are_found(rng, shape):
    keys, places, least = nested(rng, shape)
    # Where a loop begins and ends is not certain, since neighbours may fit by chance: each may cost a round more.
    assert check(keys, places) <= 1.5 * least + 24


def test_an_inner_loop_needs_equal_strides(rng):
    # Ten times five items that look alike, but every item has a stride of its own from one outer round to the next.
    strides = rng.permutation(1000)[:50]
    outer = np.arange(40)[:, None]
    places = np.stack([np.arange(2000), (7 * np.arange(50) + outer * strides).ravel()], axis=1)
    keys = np.tile(np.arange(5), 400)
    assert check(keys, places) == 50
    same = np.stack([np.arange(2000), (7 * np.arange(50) + outer * 1000).ravel()], axis=1)
    assert check(keys, same) == 5


def test_what_stands_before_and_after_an_irregular_item_is_rolled(rng):
    keys, places, _ = nested(rng, [(200, [30])])
    places[3000, 1] += 1
    assert check(keys, places) <= 150
    keys[3000] += 1
    assert check(keys, places) <= 150


def test_what_does_not_repeat_is_one_stretch(rng):
    keys, places = rng.integers(0, 50, 10_000), rng.integers(0, 10_000, (10_000, 4))
    assert rolled(keys, places) == (Straight(0, 10_000),)


@pytest.mark.parametrize("n", range(5))
def test_very_short_programs(n):
    assert rolled(np.zeros(n), np.zeros((n, 4))) == ((Straight(0, n),) if n else ())


def test_a_repeat_must_be_worth_it():
    keys, places = np.zeros(20, int), np.zeros((20, 1), int)
    assert rolled(keys, places, least=19) == (Repeat(0, 1, 20, (Straight(0, 1),)),)
    assert rolled(keys, places, least=20) == (Straight(0, 20),)


def test_sums_of_places_that_are_equal_by_chance_do_no_harm():
    # Repeats are looked for in sums of places times fixed numbers. Here one column makes up for what the other does, so
    # that all sums are equal, and places that do not advance evenly seem to.
    wrap = lambda x: (x + 2**63) % 2**64 - 2**63
    first, second = wrap(_COLUMN), wrap(_COLUMN * _ITEM)
    moves = [*range(100), *(100 + np.arange(60) ** 2)]
    places = np.array([[wrap(int(m) * second), wrap(-int(m) * first)] for m in moves])
    keys = np.zeros(160, int)
    sums = {wrap(int(a) * first + int(b) * second) for a, b in places}
    assert len(sums) == 1
    assert 59 <= check(keys, places) <= 61


def test_items_are_told_apart_exactly(rng):
    # Half of a table of names is in use, so that many items meet others whose hashes lead to the same slot.
    keys, start, period = rng.integers(0, 2, 2100), 50, 1000
    first, strides = rng.integers(0, 100, (period, 2)), rng.integers(0, 20, (period, 2))
    places = np.concatenate([np.zeros((start, 2), int), first, first + strides])
    names = np.empty(period, np.int64)
    repeats = np.array([[start, period, 3, 0]])
    tell_apart(keys, places, repeats, names, np.full(1024, -1), np.empty((period, 2), np.int64))
    kinds, number = np.unique(np.column_stack([keys[start : start + period], strides]), axis=0, return_inverse=True)
    assert len(kinds) > 500
    assert np.array_equal(names[:, None] == names, number.ravel()[:, None] == number.ravel())


def test_a_loop_over_places_in_no_order_repeats(rng):
    # The inner loop is no repeat, because its places do not advance evenly; the outer one is, and all keys look alike.
    inner, outer = np.arange(500), np.arange(40)[:, None]
    for stride in (0, 7):
        sources = (rng.permutation(1000)[inner // 5 * 2] + stride * outer).ravel()
        places = np.column_stack([np.arange(20_000), np.where(np.arange(20_000) % 5 == 0, sources, 0)])
        assert check(np.arange(20_000) % 5, places) <= 600


def test_arrays_that_do_not_belong_together_are_refused():
    with pytest.raises(ShapeError, match=r"n keys and n rows of places, got arrays of shape \(3,\) and \(4, 2\)"):
        rolled(np.zeros(3), np.zeros((4, 2)))
    with pytest.raises(ShapeError, match="expected n keys"):
        rolled(np.zeros((3, 2)), np.zeros((3, 2)))


# Gradients of programs that were recorded scalar by scalar.


def gradient(f, x):
    """Keys and places of the scalar instructions of a gradient."""
    steps = tg.record(tg.value_and_grad(f), x).program.code.steps
    steps = steps[steps[:, 0] < RUN].astype(np.int64)
    return steps[:, 0], steps[:, 1:]


def nbody(steps):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    try:
        from bench.programs import nbody, nbody_states
    finally:
        sys.path.pop(0)
    return lambda x: nbody(x, np.sqrt, steps), nbody_states(1)[0]


def rosenbrock(n):
    def f(x):
        x = [x[i] for i in range(n)]
        return sum(100.0 * (b - a * a) ** 2 + (1.0 - a) ** 2 for a, b in itertools.pairwise(x))

    return f, np.linspace(-1, 1, n) ** 3


def least_squares(rows, columns):
    def f(parameters):
        a, w = parameters
        total = 0.0
        for i in range(rows):
            r = -1.0
            for j in range(columns):
                r = r + a[i, j] * w[j]
            total = total + r * r
        return total

    rng = np.random.default_rng(0)
    return f, (rng.normal(size=(rows, columns)), rng.normal(size=columns))


def pendulum(steps):
    def f(state):
        y, v, k = state[0], state[1], state[2]
        slope = lambda y, v: (v, -k * np.sin(y) - 0.1 * v)
        for _ in range(steps):
            a, b = slope(y, v)
            c, d = slope(y + 0.005 * a, v + 0.005 * b)
            y, v = y + 0.01 * c, v + 0.01 * d
        return y * y + v * v

    return f, np.array([1.0, 0.3, 2.0])


def on_a_graph(steps, nodes=30):
    others = np.random.default_rng(0).integers(0, nodes, (nodes, 3)).tolist()

    def f(x):
        x = [x[i] for i in range(nodes)]
        for _ in range(steps):
            x = [0.5 * x[i] + 0.2 * np.sin(x[a] * x[b] - x[c]) for i, (a, b, c) in enumerate(others)]
        return sum(a * a for a in x)

    return f, np.linspace(-1, 1, nodes)


def horner(n):
    def f(c):
        total = 0.0
        for i in range(1, n):
            total = total * c[0] + c[i]
        return total

    return f, np.linspace(0.2, 0.9, n)


def minors(n):
    def determinant(m, rows, column):
        if len(rows) == 1:
            return m[rows[0]][column]
        total = 0.0
        for k, row in enumerate(rows):
            term = m[row][column] * determinant(m, rows[:k] + rows[k + 1 :], column + 1)
            total = total + term if k % 2 == 0 else total - term
        return total

    f = lambda x: determinant([[x[i, j] for j in range(n)] for i in range(n)], list(range(n)), 0)
    return f, np.random.default_rng(0).normal(size=(n, n))


@pytest.mark.parametrize(
    ("made", "at_most"),
    [
        (lambda: nbody(50), 3000),
        (lambda: rosenbrock(300), 150),
        (lambda: least_squares(60, 10), 150),
        (lambda: pendulum(200), 300),
        (lambda: on_a_graph(100), 1300),
        (lambda: horner(300), 40),
        (lambda: minors(5), 10_000),
    ],
    ids=["nbody", "rosenbrock", "least squares", "pendulum", "graph", "horner", "minors"],
)
def test_gradients(made, at_most):
    keys, places = gradient(*made())
    assert check(keys, places) <= at_most


def test_twice_as_many_steps_are_as_much_code():
    few, many = gradient(*nbody(20)), gradient(*nbody(40))
    assert len(many[0]) > 1.9 * len(few[0])
    assert check(*many) == check(*few)
