"""Python's max, min, sorted, any, all and math on Values: what they return, without branches where none are needed."""

import builtins
import functools
import math
import threading
import warnings

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import CutGradientError, RecordingWarning

POINTS = [
    np.array(p)
    for p in (
        [0.3, -1.5, 2.0], [2.0, 0.3, -1.5], [1.0, 1.0, 1.0], [0.5, 0.5, -0.5], [-0.0, 0.0, 0.25], [3.0, 3.0, -2.0],
        [-1.0, -2.0, -3.0],
    )
]  # fmt: skip
NANS = [np.array(p) for p in ([np.nan, 1.0, 2.0], [1.0, np.nan, 2.0], [2.0, 1.0, np.nan], [np.nan] * 3)]

WITHOUT_BRANCHES = {
    "max of two": lambda x: max(x[0], x[1]), "min of two": lambda x: min(x[0], x[1]),
    "max of numbers": lambda x: max(x[0], 0.0), "max of an int": lambda x: max(0, x[0], 1),
    "min of numbers": lambda x: min(1.0, x[1]) * x[0], "max of three": lambda x: max(x[0], x[1], x[2]),
    "max of a list": lambda x: max([x[0], x[1], x[2]]), "min of an array": lambda x: min(x),
    "max of a generator": lambda x: max(v * v for v in x),
    "default": lambda x: max((v for v in x), default=0.0),
    "no items": lambda x: max([], default=x[0]), "min in min": lambda x: min(max(x[0], x[1]), max(x[1], x[2])),
    "key": lambda x: max(x[0], x[1], x[2], key=abs),
    "key of a list": lambda x: min(list(x), key=lambda v: (v - 1.0) ** 2),
    "reduce": lambda x: functools.reduce(max, x), "map": lambda x: sum(map(min, x, [0.5, 0.5, 0.5])),
    "sorted": lambda x: sum(w * v for w, v in zip((1.0, 2.0, 4.0), sorted(x))),
    "sorted down": lambda x: sum(w * v for w, v in zip((1.0, 2.0, 4.0), sorted([x[0], x[1], x[2]], reverse=True))),
    "sorted with numbers": lambda x: sorted([x[0], 0.5, 2])[1], "abs": lambda x: abs(x[0]) + sum(abs(v) for v in x),
    "median": lambda x: sorted(x)[len(x) // 2], "helper": lambda x: clamp(x[0]) + clamp(x[1]),
    "math": lambda x: math.exp(x[0]) * math.cos(x[1]) + math.tanh(x[2]) + math.atan2(x[0], 2.0) + math.expm1(x[1]),
    "math of squares": lambda x: math.sqrt(x[0] ** 2 + 1.0) + math.log(x[1] ** 2 + 1.0)
    + math.log(x[2] ** 2 + 2.0, 2.0),
    "math again": lambda x: math.hypot(x[0], x[1], 2.0) + math.pow(abs(x[2]) + 1.0, 2.5)
    + math.fabs(x[1]) + math.erf(x[0]),
    "fsum": lambda x: math.fsum(x) + math.prod(x) + math.dist([x[0], x[1]], [2.0, x[2]]) + math.degrees(x[0]),
    "fmod": lambda x: math.fmod(x[0], 0.7) + math.copysign(x[1], -2.0) + math.copysign(2.0, x[1] + 10.0),
    "logs": lambda x: math.log1p(x[0] ** 2) + math.log2(x[0] ** 2 + 1.0) + math.log10(x[0] ** 2 + 1.0)
    + math.cosh(x[1]),
    "arcs": lambda x: math.asin(x[0] / 9.0) + math.acos(x[1] / 9.0) + math.atan(x[2]) + math.asinh(x[0])
    + math.sin(x[1]),
}  # fmt: skip
WITH_BRANCHES = {
    "any": lambda x: x[0] if any(v > 0.4 for v in x) else x[1] * 2.0,
    "all": lambda x: x[0] if all([x[0] > -0.2, x[1] > -0.2]) else x[1] * 2.0,
    "any of numbers": lambda x: x[0] if any(x) else x[1] + 1.0,
    "all of arrays": lambda x: x[0] if all(x > -1.0) else x[1],
    "key of things": lambda x: max(("a", x[0]), ("b", x[1]), ("c", x[2]), key=lambda p: p[1])[1] * 2.0,
    "position": lambda x: float(min(range(3), key=lambda i: x[i])) + x[0],
    "sorted by key": lambda x: sum(w * x[i] for w, i in zip((1.0, 2.0, 4.0), sorted(range(3), key=lambda i: x[i]))),
    "sorted down by key": lambda x: sum(
        w * x[i] for w, i in zip((1.0, 2.0), sorted(range(3), key=lambda i: -x[i], reverse=True))),
    "sorted numbers by key": lambda x: sorted([3, 1, 2], key=lambda i: -i)[0] * x[0],
    "tuples": lambda x: max((v, i) for i, v in enumerate(x))[1] * x[0],
    "isnan": lambda x: x[0] if math.isfinite(x[1]) and not math.isnan(x[1]) and not math.isinf(x[2]) else x[2],
    "floor": lambda x: math.floor(x[0]) * x[1] + math.ceil(x[1]) + math.trunc(x[2]),
    "any true": lambda x: x[0] if any([False, x[0] > 0.0, True]) else x[1],
    "all false": lambda x: x[0] if all([True, x[0] > 0.0, 0]) else x[1],
    "any is exact": lambda x: x[0] * (any(v > 0 for v in x) is True),
}  # fmt: skip


def clamp(v, low=-1.0, high=1.0):
    return max(low, min(v, high))


def on_numbers(f, x):
    with np.errstate(all="ignore"):
        return float(f(list(map(np.float64, x)) if f is not WITH_BRANCHES["all of arrays"] else x))


@pytest.mark.parametrize("name", [*WITHOUT_BRANCHES, *WITH_BRANCHES])
def test_as_python_at_any_point(name):
    f = {**WITHOUT_BRANCHES, **WITH_BRANCHES}[name]
    r = tg.record(f, POINTS[0])
    for x in [*POINTS, *POINTS[::-1]]:
        assert float(r(x)) == pytest.approx(on_numbers(f, x), rel=1e-14, abs=1e-14)
    if name in WITHOUT_BRANCHES:
        assert r.stats().recorded == 1 and r.stats().guards == 0


@pytest.mark.parametrize("name", [
    "max of two", "min of two", "max of numbers", "max of three", "min of an array", "key", "key of a list",
    "max of a generator", "helper", "min in min",
])  # fmt: skip
def test_the_choice_at_nan_is_that_of_python(name):
    f = WITHOUT_BRANCHES[name]
    r = tg.record(f, POINTS[0])
    for x in NANS:
        assert np.array_equal(r(x), on_numbers(f, x), equal_nan=True)


def test_the_gradient_of_a_tie_is_that_of_the_one_that_python_takes():
    # Python keeps the first of equals.
    f = {"max": lambda x: max(x[0], x[1], x[2]), "min": lambda x: min(x), "sorted": lambda x: sorted(x)[0],
         "reverse": lambda x: sorted(x, reverse=True)[0],
         "key": lambda x: max(list(x), key=lambda v: v * 2.0)}  # fmt: skip
    for g in f.values():
        assert tg.grad(g)(np.array([1.0, 1.0, 1.0])).tolist() == [1.0, 0.0, 0.0]
        assert tg.grad(g)(np.array([1.0, 1.0, 1.0]) * 0.0).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", [*WITHOUT_BRANCHES, *WITH_BRANCHES])
def test_gradients_follow_differences(name):
    f = {**WITHOUT_BRANCHES, **WITH_BRANCHES}[name]
    g = tg.grad(f)
    rng = np.random.default_rng(1)
    for _ in range(6):
        x = rng.uniform(-2.0, 2.0, 3)
        for i in range(3):
            step = 1e-6 * (np.arange(3) == i)
            slope = (on_numbers(f, x + step) - on_numbers(f, x - step)) / 2e-6
            assert g(x)[i] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def test_k_means_in_loops_is_recorded_once():
    def cost(centres, points):
        return sum(min(sum((p - q) ** 2 for p, q in zip(x, c, strict=True)) for c in centres) for x in points)

    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 2))
    r = tg.record(lambda c: cost(c, points), rng.normal(size=(4, 2)))
    for _ in range(10):
        centres = rng.normal(size=(4, 2))
        distances = np.sum((points[:, None] - centres) ** 2, axis=2)
        assert r(centres) == pytest.approx(np.sum(np.min(distances, axis=1)), rel=1e-13)
        nearest = np.argmin(distances, axis=1)
        slope = [2.0 * np.sum(centres[k] - points[nearest == k], axis=0) for k in range(4)]
        np.testing.assert_allclose(r.grad(centres), slope, rtol=1e-12, atol=1e-12)
    assert r.stats().recorded == 1 and r.stats().guards == 0


def test_one_guard_for_all_truths():
    r = tg.record(lambda x: np.sum(x) if any(v > 1.0 for v in x) and all(v > -9.0 for v in x) else x[0], np.zeros(50))
    assert r.stats().guards == 1 and r.stats().branches == 1
    assert r(np.full(50, 2.0)) == 100.0 and r.stats().guards == 2 and r.stats().branches == 2


def test_originals_come_back():
    wanted = ("max", "min", "any", "all", "sqrt", "sorted")
    names = {(m, n): getattr(m, n) for m in (builtins, math) for n in wanted if hasattr(m, n)}

    def check():
        assert all(getattr(m, n) is f for (m, n), f in names.items())

    seen = []

    def fails(x):
        seen.append(max is names[builtins, "max"])
        raise KeyError("on purpose")

    with pytest.raises(KeyError):
        tg.record(fails, 1.0)
    check()
    assert seen == [False]
    step = tg.checkpoint(lambda x: max(x, 1.0) * 2.0)
    assert tg.grad(lambda x: max(step(x), x))(3.0) == 2.0
    check()


def test_other_threads_and_plain_numbers_notice_nothing():
    inside, done, found = threading.Event(), threading.Event(), []

    def other():
        inside.wait(10.0)
        found.append((max(1, 2), max([1, 5, 3], key=lambda v: -v), sorted("bca"), any([0, 1]), math.sqrt(4.0)))
        with pytest.raises(ValueError):
            max([])
        with pytest.raises(TypeError):
            max(1, 2, nonsense=3)
        found.append(max(tg.Value(2.0), tg.Value(3.0)).item())
        done.set()

    def f(x):
        inside.set()
        assert done.wait(10.0)
        assert max(1, 2) == 2 and min(3, 2, 1) == 1 and max("abc") == "c" and min({3: 0, 1: 0}) == 1
        assert sorted((3, 1, 2), reverse=True) == [3, 2, 1] and sorted("ba", key=ord) == ["a", "b"]
        assert any(()) is False and all(()) is True and math.sqrt(4.0) == 2.0 and math.prod([2, 3], start=2) == 12
        assert max(np.array([1.0, 3.0])) == 3.0 and math.hypot(3.0, 4.0) == 5.0 and math.fsum([0.1] * 10) == 1.0
        assert max([], default=None) is None and max([1], default=7) == 1 and math.dist([0.0], [2.0]) == 2.0
        for wrong in (
            lambda: max(), lambda: max([]), lambda: max(1), lambda: math.sqrt("a"), lambda: sorted(1), lambda: any(1),
            lambda: min([], key=abs), lambda: max(range(0), key=abs), lambda: max(1, 2, default=3),
        ):  # fmt: skip
            with pytest.raises((TypeError, ValueError)):
                wrong()
        with pytest.raises(ValueError):
            math.sqrt(-1.0)
        return x * x

    thread = threading.Thread(target=other)
    thread.start()
    assert tg.grad(f)(3.0) == 6.0
    thread.join()
    assert found == [(2, 1, ["a", "b", "c"], True, 2.0), 3.0]


def test_any_stops_where_python_does():
    def f(x):
        # The third element does not exist; Python never asks for it where an earlier one is true.
        return x[0] if any(x[i] > 0.0 for i in range(3)) else x[1]

    assert tg.grad(f)(np.array([1.0, -1.0])).tolist() == [1.0, 0.0]
    with pytest.raises(IndexError):
        tg.grad(f)(np.array([-1.0, -1.0]))
    endless = lambda x: x if any(x > 0.0 for _ in iter(int, 1)) else -x
    assert tg.grad(endless)(2.0) == 1.0


def test_names_that_were_imported_say_what_to_write():
    from math import sqrt

    with pytest.raises(CutGradientError, match=r"np\.sqrt"):
        tg.grad(lambda x: sqrt(x))(2.0)


def test_functions_that_numba_compiles_meanwhile():
    numba = pytest.importorskip("numba")

    @numba.njit
    def kernel(a, b):
        return max(a, b) + min(a, b) + math.sqrt(a)

    assert tg.grad(lambda x: x * kernel(4.0, 3.0))(1.0) == 9.0
    assert kernel(1, 2) == 4.0


def test_operations_compiled_meanwhile_are_those_compiled_before():
    from tapegrad.compiled.source import fingerprint
    from tapegrad.ops import arithmetic, selection

    rules = [arithmetic.power.value, selection.maximum.value, arithmetic.absolute.value]
    names = lambda a, b: max(abs(a), min(a, b), sorted([a])[0])
    before, inside = fingerprint([*rules, names]), []
    tg.record(lambda x: inside.append(fingerprint([*rules, names])) or x, 1.0)
    assert inside == [before]


def warned(f, points):
    g = tg.grad(f)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", RecordingWarning)
        for x in points:
            g(*x)
    return [str(w.message) for w in found if w.category is RecordingWarning]


def line_of(f, offset):
    return f"{__file__}:{f.__code__.co_firstlineno + offset}"


def test_the_message_names_the_line_where_branches_part():
    def compares(x):
        total = 0.0
        for v in x:
            if v > 0.5:
                total = total + v
        return total

    def reads(x):
        return x * x.item()

    def counts(x, n):
        return x * sum(range(n))

    def searches(x):
        best = np.argmax(x)
        return x[best]

    def truncates(x):
        return x * int(x)

    rng = np.random.default_rng(0)
    (text,) = warned(compares, [(rng.uniform(size=12),) for _ in range(100)])
    assert f"{line_of(compares, 3)}, where the truth of a comparison" in text and "np.where" in text
    assert "64 branches" in text and "item()" not in text
    (text,) = warned(reads, [(x,) for x in rng.uniform(size=100)])
    assert line_of(reads, 1) in text and "a number is read" in text and "compute with Values" in text
    (text,) = warned(counts, [(1.0, n) for n in range(300)])
    assert line_of(counts, 1) in text and "number of an integer argument" in text
    (text,) = warned(searches, [(rng.uniform(size=200),) for _ in range(100)])
    assert line_of(searches, 1) in text and "np.argmax" in text
    (text,) = warned(truncates, [(x,) for x in rng.uniform(0.0, 1000.0, size=100)])
    assert line_of(truncates, 1) in text and "np.floor" in text
