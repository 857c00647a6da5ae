"""Functions that branch on their numbers: replays equal fresh evaluation everywhere, and recordings are few."""

import math
import threading
import warnings

import numpy as np
import pytest
from checks import rounding

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import RecordingWarning
from tapegrad.tape.ambient import ambient


def fresh(f, x):
    """Value and gradient of f at x, by calling f on a Value."""
    ambient.tapes.clear()
    v = Value(x)
    out = f(v)
    if not isinstance(out, Value):
        return out, np.zeros(np.shape(x))[()]
    out.backward()
    return out.item(), v.grad


def warned(call):
    """What a call returns, and the RecordingWarnings it gave."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [w for w in caught if issubclass(w.category, RecordingWarning)]


def bubble(x):
    v = list(x)
    for i in range(len(v)):
        for j in range(len(v) - 1 - i):
            if v[j] > v[j + 1]:
                v[j], v[j + 1] = v[j + 1], v[j]
    return sum((i + 1.0) * a * a for i, a in enumerate(v))


def network(x):
    """A sorting network, by conditional expressions."""
    v = list(x)
    for i, j in ((0, 1), (2, 3), (0, 2), (1, 3), (1, 2)):
        v[i], v[j] = (v[i], v[j]) if v[i] <= v[j] else (v[j], v[i])
    return v[0] * v[3] - np.sin(v[1]) * v[2]


def collatz(x):
    n = 0
    while x > 1.0:
        x = x / 2.0 if math.floor(x) % 2 == 0 else 1.5 * x - 1.2
        n += 1
        if n > 3:
            break
    else:
        return x * n
    return x * x


def newton(a):
    x = a * 0.5 + 0.5
    for _ in range(50):
        y = 0.5 * (x + a / x)
        if abs(y - x) < 1e-8:
            break
        x = y
    return y


def early(x):
    for i in range(6):
        x = x * 1.3 - 0.1
        if x > 2:
            return np.sin(x)
        if x < -1:
            return x * i
    return x**2


def caught(x):
    try:
        return 1.0 * x * [1.0, 2.0, 3.0][int(x * 2)]
    except IndexError:
        return x * x


def one(low, high):
    return lambda rng: rng.uniform(low, high)


def four(rng):
    return rng.normal(size=4)


# For each function where to draw its argument, and the most branches that it has.
FUNCTIONS = {
    "bubble sort": (bubble, four, 24),
    "sorting network": (network, four, 24),
    "collatz": (collatz, one(0, 9), 24),
    "newton": (newton, one(0.1, 9), 6),
    "early return": (early, one(-2, 2), 14),
    "exceptions": (caught, one(-2.9, 2.9), 12),
    "int": (lambda x: x * int(x * 3), one(-3, 3), 18),
    "floor, ceil, round": (lambda x: x * (math.floor(x) + math.ceil(2 * x) + round(x)), one(-3, 3), 20),
    "trunc": (lambda x: x * x * math.trunc(x), one(-3, 3), 6),
    "range of int": (lambda x: sum((x[0] * i for i in range(int(abs(x[1]) * 2))), x[2]), four, 9),
    "argmin, argmax": (lambda x: x[np.argmin(x)] * x[np.argmax(x)] ** 2, four, 12),
    "argmax as number": (lambda x: [1.0, 2.0, 3.0, 4.0][int(np.argmax(x[1:]))] * x[0] ** 2, four, 3),
    "argsort": (lambda x: np.sum(x[np.argsort(x)] * np.arange(4.0)), four, 24),
    "sort": (lambda x: np.sum(np.sort(x) ** 2 * np.arange(4.0)), four, 1),
    "sorted": (lambda x: sum(i * v * v for i, v in enumerate(sorted(x))), four, 24),
    "max by key": (lambda x: max(x, key=lambda v: v * v) * 3, four, 24),
    "count_nonzero": (lambda x: np.count_nonzero(x > 0) * x[0] + np.sum(x), four, 16),
    "nonzero": (lambda x: np.sum(x[np.nonzero(x > 0)] ** 2), four, 16),
    "mask and len": (lambda x: np.sum(x[x > 0]) * len(x[x > 0]), four, 16),
    "any, all": (lambda x: np.sum(x**2) if np.any(x > 1) or np.all(x < 0.5) else x[0] * x[1], four, 3),
    "bool": (lambda x: x * 2.0 if bool(np.floor(x)) else x * x, one(-2, 2), 2),
    "isclose": (lambda x: x[0] if np.isclose(x[0], x[1], atol=0.5) else x[1] ** 2, four, 2),
    "nested": (lambda x: (x * x if x < 0.5 else x) if x > 0 else (np.exp(x) if x < -1 else x**3), one(-2, 1), 4),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_thousand_points(name, rng):
    f, draw, most = FUNCTIONS[name]
    r = tg.record(f, draw(rng))
    for _ in range(1000):
        x = draw(rng)
        value, gradient = r.value_and_grad(x)
        expected, slope = fresh(f, x)
        assert value == pytest.approx(expected, rel=rounding(), abs=0.0)
        np.testing.assert_allclose(gradient, slope, rtol=1e-13, atol=1e-14)
    stats = r.stats()
    assert stats.recorded == stats.branches <= most


@pytest.mark.parametrize("name", ["bubble sort", "early return", "nested", "argmin, argmax", "mask and len"])
def test_hessians_follow_branches(name, rng):
    f, draw, _ = FUNCTIONS[name]
    r, products = tg.record(f, draw(rng)), tg.record(f, draw(rng))
    for _ in range(40):
        x = draw(rng)
        expected = tg.record(f, x).hessian(x)
        np.testing.assert_allclose(r.hessian(x), expected, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(r.hessian(x, sparse=True).toarray(), np.atleast_2d(expected), rtol=1e-12, atol=1e-13)
        v = rng.normal(size=np.shape(x))[()]
        np.testing.assert_allclose(products.hvp((x,), (v,)), expected @ v if np.ndim(x) else expected * v, rtol=1e-11)
        np.testing.assert_allclose(r.jvp((x,), (v,))[1], np.sum(r.grad(x) * v), rtol=1e-12, atol=1e-13)


def piecewise(x):
    return x**3 if x < 0.5 else (np.sin(x) if x < 1.5 else x * np.exp(-x))


def derivatives(x):
    if x < 0.5:
        return 3 * x * x, 6 * x, 6.0
    if x < 1.5:
        return math.cos(x), -math.sin(x), -math.cos(x)
    return math.exp(-x) * (1 - x), math.exp(-x) * (x - 2), math.exp(-x) * (3 - x)


def test_nested_gradients_follow_branches(rng):
    def outer(x):
        slope = tg.grad(piecewise)(x)
        return slope * slope if slope > 0.2 else 3.0 * slope

    second, third, around = tg.grad(tg.grad(piecewise)), tg.grad(tg.grad(tg.grad(piecewise))), tg.grad(outer)
    recorded = tg.record(tg.grad(piecewise), 0.0)
    for x in rng.uniform(-1, 3, 1000):
        d1, d2, d3 = derivatives(x)
        expected = [d2, d3, 2 * d1 * d2 if d1 > 0.2 else 3 * d2, d2]
        np.testing.assert_allclose([second(x), third(x), around(x), recorded.grad(x)], expected, rtol=1e-12, atol=1e-14)
    assert recorded.stats().recorded == 3


def test_every_method_follows_branches():
    r = tg.record(piecewise, 0.0)
    for x in (2.0, 0.25, 1.0, -0.75, 2.5):
        d1, d2, _ = derivatives(x)
        found = [r.grad(x), r.vjp(x)[1](1.0)[0], r.jvp((x,), (1.0,))[1], r.linearize(x)[1](1.0), r.jacobian(x),
                 r.jacrev(x), r.jacfwd(x), r.jacobian(x, sparse=True).toarray()[0, 0], r.hessian(x),
                 r.hvp((x,), (1.0,)), r.make_hvp(x)(1.0), r.hessian(x, sparse=True).toarray()[0, 0]]  # fmt: skip
        np.testing.assert_allclose(found, [d1] * 8 + [d2] * 4, rtol=1e-12)


def test_results_of_another_structure():
    r = tg.record(lambda x: (x, {"a": 2.0 * x}) if x > 0 else 3.0 * x, 1.0)
    assert [r(x) for x in (1.0, -1.0, 2.0)] == [(1.0, {"a": 2.0}), -3.0, (2.0, {"a": 4.0})]
    assert (r.jacobian(1.0), r.jacobian(-1.0)) == ((1.0, {"a": 2.0}), 3.0)
    assert r.vjp(1.0)[1]((1.0, {"a": 2.0})) == (5.0,) and r.vjp(-1.0)[1](1.0) == (3.0,)
    masked = tg.record(lambda x: x[x > 0] ** 2, np.ones(3))
    for x in (np.array([1.0, -2.0, 3.0]), np.array([-1.0, -2.0, -3.0]), np.array([1.0, 2.0, 3.0])):
        assert np.array_equal(masked.jacobian(x), np.diag(2 * x)[x > 0])
        assert np.array_equal(masked.jacobian(x, sparse=True).toarray(), np.diag(2 * x)[x > 0])
    both = tg.value_and_grad(lambda x: (x * x, [x]) if x > 0 else (x, {"b": "text"}), has_aux=True)
    assert [both(x) for x in (2.0, -1.0)] == [((4.0, [2.0]), 4.0), ((-1.0, {"b": "text"}), 1.0)]


# At the edges of numbers.

EDGES = (0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -5e-324, 1.0)
CONDITIONS = {
    "greater": lambda x: x > 0, "greater_equal": lambda x: x >= 0, "less": lambda x: x < 0, "equal": lambda x: x == 0,
    "not_equal": lambda x: x != x, "truth": lambda x: not x, "between": lambda x: 0.0 <= x < 1.0,
    "signbit": np.signbit, "isnan": np.isnan, "isfinite": np.isfinite,
    "item": lambda x: math.copysign(1.0, x.item()) < 0,
}  # fmt: skip


@pytest.mark.parametrize("name", CONDITIONS)
def test_guards_at_edges_of_numbers(name):
    condition = CONDITIONS[name]
    g = tg.record(lambda x: x * 2.0 if condition(x) else x * 3.0, 1.0)
    for x in EDGES * 2:
        assert g.grad(x) == (2.0 if condition(np.float64(x)) else 3.0), x
    assert g.stats().recorded <= {"item": len(EDGES), "between": 3}.get(name, 2)


def test_orders_at_edges_of_numbers():
    points = [np.array(x) for x in ([1.0, 2.0, 3.0], [1.0, np.nan, 3.0], [3.0, 3.0, 3.0], [-0.0, 0.0, np.inf])]
    most, order = tg.grad(lambda x: x[np.argmax(x)]), tg.grad(lambda x: np.sum(x[np.argsort(x)] * np.arange(3.0)))
    for x in points * 2:
        assert np.argmax(most(x)) == np.argmax(x)
        assert np.array_equal(order(x)[np.argsort(x, kind="stable")], np.arange(3.0))


def test_what_int_refuses_is_refused_in_replays():
    for read in (int, math.floor, math.ceil):
        g = tg.grad(lambda x, read=read: x * read(x))
        assert g(3.0) == 3.0
        for x, error in ((np.nan, ValueError), (np.inf, OverflowError)):
            with pytest.raises(error):
                g(x)
        assert (g(3.0), g(4.0)) == (3.0, 4.0)


# Too many branches, functions that are not pure, errors, threads.


def test_more_branches_than_are_kept():
    calls = []

    def f(x):
        calls.append(1)
        return x * x.item() + x

    r = tg.record(f, 0.0)
    found, warnings_ = warned(lambda: [r.value_and_grad(float(i)) for i in range(100)])
    assert found == [(i * i + i, i + 1.0) for i in range(100)]
    assert len(warnings_) == 1 and "64" in str(warnings_[0].message) and "f " in str(warnings_[0].message)
    stats = r.stats()
    assert (stats.branches, stats.recorded, len(calls)) == (64, 100, 100)
    # Those that are kept are replayed, the others recorded, without another word.
    found, warnings_ = warned(lambda: [r.value_and_grad(float(i)) for i in (3, 99, 99, 5)])
    assert found == [(i * i + i, i + 1.0) for i in (3, 99, 99, 5)] and not warnings_ and len(calls) == 102


def test_warnings_name_the_function():
    def reads_numbers(x):
        return x * x * x.item()

    h = tg.hessian(reads_numbers)
    found, warnings_ = warned(lambda: [h(float(i)) for i in range(80)])
    assert found == [2.0 * i for i in range(80)]
    assert "reads_numbers" in str(warnings_[0].message)


def test_warnings_point_at_the_call():
    g = tg.grad(lambda x: x * x.item())
    _, warnings_ = warned(lambda: [g(float(i)) for i in range(80)])
    assert warnings_[0].filename == __file__


def test_random_numbers_are_noticed():
    draws = np.random.default_rng(0)

    def f(x):
        y = x * draws.normal()
        return y if x > 0 else -y

    g = tg.grad(f)
    _, warnings_ = warned(lambda: [g(x) for x in (1.0, -1.0, 2.0, -2.0)])
    assert len(warnings_) == 1 and "random" in str(warnings_[0].message) and "f " in str(warnings_[0].message)


def test_state_is_noticed():
    calls = []

    def counter(x):
        calls.append(1)
        y = x * float(len(calls))
        return y if x > 0 else -y

    g = tg.grad(counter)
    g(1.0)
    _, warnings_ = warned(lambda: [g(x) for x in (-1.0, 1.0, -1.0)])
    assert len(warnings_) == 1 and counter.__name__ in str(warnings_[0].message)


def test_guards_that_flip_give_right_gradients_and_end():
    draws = np.random.default_rng(0)
    g = tg.grad(lambda x: 2.0 * x if x > draws.normal() else 3.0 * x)
    found, warnings_ = warned(lambda: [g(x) for x in np.linspace(-2, 2, 100)])
    assert set(found) <= {2.0, 3.0} and len(warnings_) == 1
    alternating = tg.record(lambda x: x * x if x > 0 else -x, 1.0)
    found = [alternating.grad(float(x)) for x in (1, -1) * 100]
    assert found == [2.0, -1.0] * 100 and alternating.stats().recorded == 2


def test_pure_functions_give_no_warnings(rng):
    for name in ("bubble sort", "argsort", "mask and len"):
        f, draw, _ = FUNCTIONS[name]
        g = tg.grad(f)
        assert not warned(lambda g=g, draw=draw: [g(draw(rng)) for _ in range(50)])[1]


def test_errors_of_one_branch():
    def f(x):
        if x > 1:
            raise LookupError("here")
        return x * x

    for ask, expected in ((tg.grad(f), 1.0), (tg.hessian(f), 2.0), (tg.grad(tg.grad(f)), 2.0)):
        assert ask(0.5) == expected
        with pytest.raises(LookupError, match="here"):
            ask(2.0)
        assert ask(0.5) == expected
    v = Value(2.0)
    (v * v).backward()
    assert v.grad == 4.0


def test_threads(rng):
    f, draw, _ = FUNCTIONS["sorting network"]
    points = [draw(rng) for _ in range(60)]
    expected = [fresh(f, x) for x in points]
    r, g, failed = tg.record(f, points[0]), tg.value_and_grad(f), []

    def work(seed):
        try:
            for i in np.random.default_rng(seed).permutation(60):
                value, slope = expected[i]
                for found in (r.value_and_grad(points[i]), g(points[i])):
                    assert found[0] == value and np.allclose(found[1], slope, rtol=1e-13)
                assert np.allclose(r.jacobian(points[i], sparse=True).toarray()[0], slope, rtol=1e-13)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(5)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed


def test_external_calls_in_branches():
    seen = []
    sine = tg.external(lambda x: seen.append(x) or math.sin(x), lambda w, y, x: w * math.cos(x))

    def f(x):
        y = sine(x)
        return sine(y) if y > 0.5 else x * y

    r = tg.record(f, 0.1)
    for x in (0.2, 1.0, 1.4, -0.5, 0.7, 0.3):
        y = math.sin(x)
        slope = math.cos(y) * math.cos(x) if y > 0.5 else y + x * math.cos(x)
        assert r.value_and_grad(x) == pytest.approx((math.sin(y) if y > 0.5 else x * y, slope), rel=1e-14)
    assert r.stats().recorded == 2


def test_empty_selections_on_a_long_lived_tape():
    # The tape of Values forgets what nobody refers to; arrays without elements must survive that.
    x = np.array([-1.0, -2.0])
    for _ in range(4000):
        v = Value(x)
        (np.sum(v[v > 0] ** 2) + np.sum(v)).backward()
        assert v.grad.tolist() == [1.0, 1.0]
