"""Integers among the arguments of recorded functions: what a replay finds at other integers is what Python finds."""

import collections
import collections.abc
import copy
import enum
import fractions
import functools
import itertools
import math
import numbers
import operator
import warnings

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import CutGradientError, IntegerInputError, RecordingWarning

NUMBERS = [3, 0, -4, 1, 7, -1, 2, 3, 12, 2**20, -(2**30), 2**40 + 1]
SMALL = [3, 0, -4, 1, 7, -1, 2, 5, -2]


class Mode(enum.IntEnum):
    UP = 1
    DOWN = 2


def outcome(f, *args):
    """What a function returns, or which exception it raises."""
    try:
        return f(*args)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return type(error)


def same(ours, theirs):
    if isinstance(theirs, tuple | list):
        assert type(ours) is type(theirs) and len(ours) == len(theirs)
        for x, y in zip(ours, theirs, strict=True):
            same(x, y)
    elif isinstance(theirs, np.ndarray):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)
    elif isinstance(theirs, type):
        # Where NumPy raises an AxisError, which is an IndexError and a ValueError, we raise a ShapeError.
        assert isinstance(ours, type) and any(issubclass(ours, kind) for kind in theirs.__mro__[:-2])
    elif isinstance(theirs, bool | np.bool_):
        # A truth value that is returned is the number 1 or 0, as that of a comparison of floats.
        assert ours == theirs
    elif isinstance(theirs, int | np.integer):
        assert type(ours) is int and ours == theirs
    elif isinstance(theirs, float):
        assert isinstance(ours, float)
        assert ours == pytest.approx(theirs, rel=1e-14) or (math.isnan(ours) and math.isnan(theirs))
    else:
        assert ours == theirs


def replayed_as_python(f, cases, most=None):
    """Record f at the first case; its replays at all must be what f itself does. Returns how often it was recorded."""
    recording = None
    for args in (*cases, *cases[::-1]):
        expected = outcome(f, *args)
        if recording is None:
            if isinstance(expected, type):
                continue
            recording = tg.record(f, *args)
        same(outcome(recording, *args), expected)
    if most is not None:
        assert recording.stats().recorded <= most
    return recording


ARITHMETIC = {
    "add": (lambda n: n + 1, 2), "radd": (lambda n: 10 - n, 2), "scale": (lambda n: n * 2, 2),
    "floor": (lambda n: n // 2, 2), "floor negative": (lambda n: n // -3, 2), "rest": (lambda n: n % 3, 2),
    "rest negative": (lambda n: n % -5, 2), "minus": (lambda n: -n, 2), "size": (lambda n: abs(n), 2),
    "divmod": (lambda n: divmod(n, 7), 2), "square": (lambda n: n**2, 4), "cube": (lambda n: n**3, 5),
    "power 0": (lambda n: n**0, 1), "power 1": (lambda n: n**1, 1), "half": (lambda n: n / 2, 1),
    "by float": (lambda n: n * 0.5 + n / 4.0 - 1.5, 1), "bool": (lambda n: n + True, 2),
    "plus": (lambda n: +n, 1), "not": (lambda n: ~n, 2), "shift": (lambda n: (n << 3, n >> 2), 3),
    "mask": (lambda n: n & 7, 2), "max": (lambda n: max(n, 2), 1), "min": (lambda n: min(2, n, 5), 1),
    "floors": (lambda n: (math.floor(n), math.ceil(n), math.trunc(n), round(n)), 1),
    "numpy": (lambda n: np.add(n, 1) * np.multiply(n % 1000, 2), 6), "maximum": (lambda n: np.maximum(n, 2), 1),
    "np.abs": (lambda n: np.abs(n), 1), "nothing": (lambda n: n, 1),
    "chain": (lambda n: ((n + 3) * 2 - n) // 3 % 5, 2), "sum": (lambda n: sum([n, n, 1]), 2),
    "in a list": (lambda n: [n, (n + 1, 2)], 2), "float power": (lambda n: n**2.0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_is_of_the_program(name):
    f, most = ARITHMETIC[name]
    replayed_as_python(f, [(n,) for n in NUMBERS], most)


DECIDING = {
    "range": lambda x, n: sum(x * i for i in range(n)),
    "if": lambda x, n: x if n > 2 else -x,
    "truth": lambda x, n: x if n else -x,
    "chained": lambda x, n: x if 0 <= n < 3 else 2.0 * x,
    "float threshold": lambda x, n: (n > 2.5) + (n < 2.5) + (n == 2.0) + (n != 2.5) + (n >= 1.999999999999) * x,
    "nowhere": lambda x, n: x * ((n < math.inf) + (n > -math.inf) + (n == math.nan) + (n < 10**30) + (n == 10**400)),
    "list": lambda x, n: [1.0, 2.0, 3.0][n] * x,
    "dict": lambda x, n: {3: 1.0, 0: 2.0, 7: 3.0}.get(n, 5.0) * x,
    "set": lambda x, n: x if n in {1, 2, 3} else -x,
    "tuple": lambda x, n: x if n in (1, 2, 3) else -x,
    "text": lambda x, n: x * len(f"{n}")
    + x * sum(map(len, str(n).split("-"))) + x * len(str(n)) + x * len(repr(n)) + x * len(f"{n:04d}"),
    "int": lambda x, n: x * int(n) + x * float(n) + operator.index(n),
    "isinstance": lambda x, n: x * 2.0 if isinstance(n, int) and isinstance(n, numbers.Integral) else x,
    "match": lambda x, n: {True: 1.0, False: 2.0}[n == 3] * x,
    "comb": lambda x, n: math.comb(n, 2) * x,
    "factorial": lambda x, n: math.factorial(n) * x,
    "gcd": lambda x, n: math.gcd(n, 6) * x,
    "repeat": lambda x, n: len([0] * n) * x + len("ab" * n),
    "bit length": lambda x, n: n.bit_length() * x + n.numerator,
    "or": lambda x, n: (n | 4) * x + (n ^ 1) + (6 & n) + (1 << n),
    "shift by": lambda x, n: (100 >> n) * x,
    "zeros": lambda x, n: np.sum(np.zeros(n) + x),
    "arange": lambda x, n: np.sum(np.arange(n) * x),
    "linspace": lambda x, n: np.sum(np.linspace(0.0, 1.0, n) * x),
    "eye": lambda x, n: np.sum(np.eye(n) * x),
    "fraction": lambda x, n: float(fractions.Fraction(1, n)) * x,
    "while": lambda x, n: [x := x * 0.5 for _ in itertools.takewhile(lambda i: i < n, itertools.count())] and x,
    "counter": lambda x, n: collections.Counter([1, n, 3])[3] * x,
    "cache": lambda x, n: functools.lru_cache(lambda k: k * 2)(n) * x,
    "copies": lambda x, n: copy.copy(n) * x + copy.deepcopy([n])[0],
    "not equal to text": lambda x, n: x if n == "3" or n is None or n == [3] else -x,
    "divide": lambda x, n: 1 / n * x + 7 // n + 7 % n,
    "divide a float": lambda x, n: 1.0 / n * x + 7.5 // n,
    "power of two": lambda x, n: 2**n * x,
    "power of itself": lambda x, n: n**n * x,
    "negative power": lambda x, n: n**-2 * x,
    "root": lambda x, n: n**0.5 * x if n >= 0 else x,
    "between": lambda x, n: x * sorted([n, 2, 5])[1],
    "any": lambda x, n: x if any(i == n for i in range(3)) else -x,
    "bytes": lambda x, n: len(bytes(abs(n))) * x,
    "enumerate": lambda x, n: sum(i * x for i, _ in enumerate("abc", n)),
    "slice of a list": lambda x, n: sum([x, 2.0 * x, 3.0 * x][:n]),
    "numpy scalar": lambda x, n: np.int64(3) * n * x + np.float64(0.5) * n,
    "random": lambda x, n: np.random.default_rng(int(abs(n))).normal() * x,
    "compare Values": lambda x, n: x * (x > n) + (n <= x),
    "where": lambda x, n: tg.where(np.less(n, 3), x, 2.0 * x),
    "mean": lambda x, n: sum(x for _ in range(3)) / n if n else x,
}  # fmt: skip


@pytest.mark.parametrize("name", DECIDING)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_an_integer_decides(name):
    replayed_as_python(DECIDING[name], [(x, n) for n in SMALL for x in (1.5, 2.5)])


X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.5]])

ON_ARRAYS = {
    "row": lambda x, n: np.sum(x[n] ** 2), "element": lambda x, n: x[n, 1] * x[0, n], "both": lambda x, n: x[n, n],
    "column": lambda x, n: np.sum(x[:, n] * x[1]), "part": lambda x, n: np.sum(x[1:, n] * 2.0),
    "new axis": lambda x, n: np.sum(x[None, n, :] * x), "dots": lambda x, n: np.sum(x[..., n]),
    "computed": lambda x, n: np.sum(x[(n + 1) % 3]), "negative": lambda x, n: np.sum(x[-n]),
    "slice": lambda x, n: np.sum(x[n:]), "slices": lambda x, n: np.sum(x[:n, n:]), "step": lambda x, n: np.sum(x[::n]),
    "axis": lambda x, n: np.sum(np.sum(x, axis=n) ** 2), "method": lambda x, n: np.max(x.sum(axis=n)),
    "reshape": lambda x, n: np.sum(x[0].reshape(n, -1)[0] ** 2), "roll": lambda x, n: np.sum(np.roll(x, n) * x),
    "repeat": lambda x, n: np.sum(np.repeat(x, n) ** 2), "take": lambda x, n: np.sum(np.take(x, n, axis=1)),
    "captured": lambda x, n: np.sum(X[n] * x),
    "captured column": lambda x, n: np.sum(X[:, n] * x),
    "indices": lambda x, n: np.sum(x[np.arange(2) + n]),
    "plain indices": lambda x, n: np.sum(X[np.arange(2) + n] * x[:2]),
    "mask": lambda x, n: np.sum(np.where(np.arange(3) < n, x, 0.0)),
    "plain mask": lambda x, n: np.sum(X[np.arange(3) < n]) * x,
    "powers": lambda x, n: np.sum(x**n), "of powers": lambda x, n: np.sum(n**x) if n > 0 else np.sum(x),
    "times": lambda x, n: np.sum(n * x - x / 7 * n),
    "divided": lambda x, n: np.sum(x // n) + np.sum(x % n) if n else x,
    "scaled": lambda x, n: np.sum(np.arange(3) * n * x + np.ones(3) ** n),
    "clip": lambda x, n: np.sum(np.clip(x, 2, n)),
    "stack": lambda x, n: np.sum(np.stack([x[0, 0], n, 2.0])), "round": lambda x, n: np.sum(np.round(x / 3.0, n)),
    "full": lambda x, n: np.sum(np.full(3, n) * x), "full_like": lambda x, n: np.sum(np.full_like(X, n) * x),
    "array": lambda x, n: np.sum(np.array([n, 1, 2]) * x), "shape": lambda x, n: np.sum(np.ones((n, 3)) @ x),
    "functions": lambda x, n: np.sqrt(abs(n)) * np.exp(n / 10) * np.sum(x) + np.sin(n) + math.sin(n) + math.sqrt(n * n),
    "range over": lambda x, n: sum(x[i, i] for i in range(n)), "expand": lambda x, n: np.expand_dims(x, n),
    "broadcast": lambda x, n: np.sum(np.broadcast_to(x[0], (n, 3))), "tile": lambda x, n: np.sum(np.tile(x, n)),
    "moveaxis": lambda x, n: np.moveaxis(x, n, 0)[0], "cumsum": lambda x, n: np.cumsum(x, axis=n)[1],
    "power of matrix": lambda x, n: functools.reduce(lambda a, b: a @ b, [x / 10.0] * n)[0, 0] if n > 0 else x,
    "softmax": lambda x, n: tg.logsumexp(x, axis=n), "sort": lambda x, n: np.sort(x, axis=n)[0],
    "fori with steps": lambda x, n: tg.fori_loop(0, n, lambda i, s: s * 1.5 + i, x, max_steps=6),
    "fori": lambda x, n: tg.fori_loop(0, n, lambda i, s: s * 1.5 + i, x),
    "scan": lambda x, n: tg.scan(lambda c, y: (c + n * y, c), 0.0, x[0])[0],
    "scan length": lambda x, n: tg.scan(lambda c, _: (c * 2.0, c), x[0, 0], length=n)[0] if n >= 0 else x,
    "cond": lambda x, n: tg.cond(n > 1, lambda x: x * 2.0, lambda x: x, x),
    "cond of a Value": lambda x, n: tg.cond(np.sum(x) > n, lambda x: x * n, lambda x: x, x),
}  # fmt: skip


@pytest.mark.parametrize("name", ON_ARRAYS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_with_arrays(name):
    f = ON_ARRAYS[name]
    replayed_as_python(f, [(X, n) for n in (1, 0, 2, -1, 3, -3, 5)])


def test_an_index_is_no_branch():
    r = replayed_as_python(ON_ARRAYS["row"], [(X, n) for n in (0, 1, 2, -1, -3)], most=1)
    assert np.array_equal(r.grad(X, 2), np.array([[0.0] * 3, [0.0] * 3, 2.0 * X[2]]))


POWERS = [(x, n) for x in (2.0, -1.5, 0.0) for n in (3, 2, 1, 0, 4)] + [(x, n) for x in (2.0, -1.5) for n in (-1, -3)]


def test_powers_have_the_right_derivatives():
    f = lambda x, n: x**n
    r = tg.record(f, 0.5, 2)
    second = tg.grad(tg.grad(f))
    for x, n in POWERS:
        with np.errstate(all="ignore"):
            assert r(x, n) == pytest.approx(x**n, rel=1e-15)
            assert r.grad(x, n) == pytest.approx(n * x ** (n - 1) if n else 0.0, rel=1e-15)
            curvature = n * (n - 1) * x ** (n - 2) if n * (n - 1) else 0.0
            assert r.hessian(x, n) == pytest.approx(curvature, rel=1e-14)
            assert second(x, n) == pytest.approx(curvature, rel=1e-14)
    assert r.stats().recorded == 1
    vector = tg.record(lambda x, n: np.sum(x**n), np.ones(3), 3)
    x = np.array([-2.0, 0.0, 1.5])
    for n in range(5):
        np.testing.assert_allclose(vector.grad(x, n), np.array([n * v ** (n - 1) if n else 0.0 for v in x]))
        np.testing.assert_allclose(
            np.diag(vector.hessian(x, n)), [n * (n - 1) * v ** (n - 2) if n * (n - 1) else 0.0 for v in x]
        )


@pytest.mark.parametrize("beta", [0.9, 0.999, -0.5, 2.5])
def test_a_bias_correction_replays(beta):
    r = tg.record(lambda x, t: x / (1.0 - beta**t), 1.0, 1)
    for t in (1, 2, 3, 10, 500):
        value, slope = r.value_and_grad(3.0, t)
        assert value == pytest.approx(3.0 / (1.0 - beta**t), rel=1e-13)
        assert slope == pytest.approx(1.0 / (1.0 - beta**t), rel=1e-13)
    assert r.stats().recorded == 1 and r.stats().guards == 0


def test_sizes_that_floats_do_not_hold():
    # Exact, whatever the size: what is too large for the tape is computed by Python.
    f = lambda n: (n * n, n * n + 1, 3**n if n < 200 else 0, n - 1, n * 1000003)
    r = replayed_as_python(f, [(n,) for n in (3, 100, 2**26, 2**27 - 1, 94906267, 2**30 + 1, 2**52 + 1, -(2**51))])
    for n in (2**53, 2**60 + 1, 10**30):
        with pytest.raises(tg.errors.ShapeError, match="integer"):
            r(n)
    g = tg.grad(lambda x, n: x * (n % 1000))
    assert [g(1.0, n) for n in (2**53 + 1, 2**53 - 1, 2**53, 10**30 + 7)] == [993.0, 991.0, 992.0, 7.0]
    small = lambda x, n: (x[0], n + 1, n * n, n * 3 % 7)
    x = np.ones(1, np.float32)
    for n in (5, 4095, 5793, 2**23 + 1, 2**24 - 1, 2**24 + 1, 2**30):
        assert tg.vjp(small, x, n)[0][1:] == (n + 1, n * n, n * 3 % 7)
    known = tg.record(small, x, 3)
    for n in (5, 4095, 5793, 2**23 + 1, 2**24 - 1, 3):
        assert known(x, n)[1:] == (n + 1, n * n, n * 3 % 7)


def test_derivatives_with_respect_to_integers_are_refused():
    f = lambda x, n: x**n
    with pytest.raises(IntegerInputError, match="argument 1.*only floats"):
        tg.grad(f, argnums=1)(2.0, 3)
    with pytest.raises(IntegerInputError, match="argument 1.*only floats"):
        tg.jacobian(f, argnums=(0, 1))(2.0, 3)
    with pytest.raises(IntegerInputError, match="integers"):
        tg.jvp(f, (2.0, 3), (1.0, 1.0))
    with pytest.raises(IntegerInputError, match="argument 1 holds an integer"):
        tg.grad(lambda x: tg.grad(f, argnums=1)(x, 3))(2.0)
    with pytest.raises(IntegerInputError, match="integers"):
        tg.grad(lambda x, n: tg.grad(f, argnums=1)(x, n))(2.0, 3)


def test_every_derivative_takes_integers():
    f = lambda x, n: np.sum(x**n) * n
    x = np.array([1.5, -2.0])
    r = tg.record(f, x, 3)
    for n in (3, 2, 4):
        gradient = n * n * x ** (n - 1)
        curvature = np.diag(n * n * (n - 1) * x ** (n - 2))
        v = np.array([1.0, 10.0])
        calls = lambda name: functools.partial(getattr(tg, name), f)
        makes = lambda name: getattr(tg, name)(f)
        recorded = functools.partial(getattr, r)
        for call, made in ((recorded, recorded), (calls, makes)):
            np.testing.assert_allclose(made("grad")(x, n), gradient)
            np.testing.assert_allclose(made("jacfwd")(x, n), gradient)
            np.testing.assert_allclose(made("hessian")(x, n), curvature)
            np.testing.assert_allclose(call("jvp")((x, n), (v, None))[1], gradient @ v)
            np.testing.assert_allclose(call("jvp")((x, n), (v, 0))[1], gradient @ v)
            np.testing.assert_allclose(call("hvp")((x, n), (v, None))[0], curvature @ v)
            np.testing.assert_allclose(made("make_hvp")(x, n)(v), curvature @ v)
            value, pullback = call("vjp")(x, n)
            assert value == pytest.approx(n * np.sum(x**n)) and pullback(1.0)[1] is None
            np.testing.assert_allclose(pullback(1.0)[0], gradient)
            np.testing.assert_allclose(call("linearize")(x, n)[1](v, None), gradient @ v)
            np.testing.assert_allclose(made("elementwise_grad")(x, n), gradient)
    assert r.stats().recorded == 1


def test_nesting_keywords_and_aux():
    f = lambda p, scale=1, *, n: (np.sum(p["w"][: p["k"]]) * n**scale, {"n": n + 1, "k": p["k"]})
    g = tg.value_and_grad(lambda p, n: f(p, 2, n=n), has_aux=True)
    keyed = tg.grad(lambda p, scale=1, n=1: f(p, scale, n=n)[0])
    for k, n in itertools.product((1, 3, 2), (2, 5)):
        p = {"w": np.arange(3.0), "k": k}
        with pytest.raises(IntegerInputError):
            g(p, n)
    h = tg.value_and_grad(lambda w, p, n: f({"w": w, **p}, 2, n=n), has_aux=True)
    for k, n in itertools.product((1, 3, 2), (2, 5)):
        (value, aux), slope = h(np.arange(3.0), {"k": k}, n)
        assert value == sum(range(k)) * n**2 and aux == {"n": n + 1, "k": k} and type(aux["n"]) is type(aux["k"]) is int
        assert slope.tolist() == [n**2.0 * (i < k) for i in range(3)]
    with pytest.raises(IntegerInputError):
        keyed({"w": np.ones(3), "k": 2}, n=3)
    keyed = tg.grad(lambda x, scale=1, n=1: x**n * scale)
    assert [keyed(2.0, n=n, scale=s) for n, s in ((2, 3), (3, 3), (3, 1))] == [12.0, 36.0, 12.0]


def test_derivatives_inside_recorded_functions():
    inner = lambda x, n: x**n
    both = lambda x, n: tg.grad(inner)(x, n) + tg.jvp(inner, (x, n), (1.0, None))[1] + tg.hessian(inner)(x, n)
    f = tg.record(both, 2.0, 3)
    for n in (3, 2, 5):
        assert f(2.0, n) == 2 * n * 2.0 ** (n - 1) + n * (n - 1) * 2.0 ** (n - 2)
    assert f.stats().recorded == 1


def test_sparse_patterns_follow_integers():
    f = lambda x, n: x * x[n]
    r = tg.record(f, np.ones(4), 1)
    x = np.array([1.0, 2.0, 3.0, 4.0])
    for n in (1, 0, 3, -1, 1):
        np.testing.assert_allclose(r.jacobian(x, n, sparse=True).toarray(), r.jacobian(x, n))
    h = tg.record(lambda x, n: np.sum(x**2) * x[n], np.ones(4), 1)
    for n in (1, 0, 3, -1):
        np.testing.assert_allclose(h.hessian(x, n, sparse=True).toarray(), h.hessian(x, n))
    # An integer that indexes nothing is no part of the key: each iteration number would be a pattern.
    counted = tg.record(lambda x, t, n: x[::-1] ** 2 * x[n // 2] / (t + 1), np.ones(4), 1, 2)
    for t, n in ((1, 2), (2, 2), (3, 7), (4, 0), (5, 2)):
        np.testing.assert_allclose(counted.jacobian(x, t, n, sparse=True).toarray(), counted.jacobian(x, t, n))
    assert len(counted._matrices._compressed) == 3


def test_functions_that_are_called_take_plain_numbers():
    step = tg.checkpoint(lambda x, n: np.sin(x[:n]) * n)
    r = tg.record(lambda x, n: np.sum(step(x, n)), np.ones(4), 2)
    for n in (2, 4, 1, 2):
        np.testing.assert_allclose(r.grad(np.ones(4), n), np.cos(1.0) * n * (np.arange(4) < n))
    seen = []
    black = tg.external(lambda x, n: seen.append(n) or x * n, lambda w, z, x, n: (w * n, None))
    g = tg.grad(lambda x, n: black(x, n) * n)
    assert [g(1.0, n) for n in (2, 3, 2)] == [4.0, 9.0, 4.0] and all(type(n) is int for n in seen)

    @functools.partial(tg.custom_vjp, nondiff_argnums=(1,))
    def power(x, n):
        return x**n

    power.defvjp(lambda x, n: (x**n, x), lambda n, x, w: (w * n * x ** (n - 1),))
    g = tg.grad(lambda x, n: power(x, n))
    assert [g(2.0, n) for n in (2, 3, 2)] == [4.0, 12.0, 4.0]


def test_numpy_integers_and_booleans():
    r = tg.record(lambda x, n: x * (n + 1), 2.0, 3)
    for n in (np.int64(4), np.int32(5), np.uint8(6), np.array(7)):
        assert r(2.0, n) == 2.0 * (int(n) + 1)
    assert r.stats().recorded == 1
    mode = tg.grad(lambda x, mode: x if mode is Mode.UP else -x)
    assert mode(1.0, Mode.UP) == 1.0 and mode(1.0, Mode.DOWN) == -1.0 and mode(1.0, 1) == -1.0
    flag = tg.grad(lambda x, yes: x if yes is True else -x)
    assert flag(1.0, True) == 1.0 and flag(1.0, False) == -1.0 and flag(1.0, 1) == -1.0


def test_what_a_function_sees():
    def f(x, n):
        assert isinstance(n, int) and isinstance(n, numbers.Integral) and not isinstance(n, bool | float)
        assert isinstance(n + 1, int) and not isinstance(n / 2, int) and isinstance(n < 9, bool)
        assert np.shape(n) == () and np.ndim(n) == 0 and np.size(n) == 1 and np.isscalar(n)
        assert not any(hasattr(n, name) for name in ("__len__", "__iter__", "__getitem__"))
        assert not isinstance(n, collections.abc.Iterable | collections.abc.Sized) and not np.iterable(n)
        for wrong in (len, iter, lambda n: n[0]):
            with pytest.raises(TypeError):
                wrong(n)
        assert type(n)(5) == 5 and callable(n.bit_length) and not hasattr(n, "no_such_thing")
        return x * n

    r = tg.record(f, 1.0, 3)
    assert r(2.0, 4) == 8.0
    kept = []
    tg.record(lambda x, n: kept.append((x, n)) or x * n, 1.0, 3)
    with pytest.raises(tg.errors.StaleValueError):
        _ = kept[0][1] + 1
    with pytest.raises(tg.errors.StaleValueError):
        int(kept[0][1])


def test_an_index_out_of_range_is_an_index_error():
    def safe(x, n):
        try:
            return x[n]
        except IndexError:
            return -x[0]

    r = tg.record(safe, np.array([1.0, 2.0, 3.0]), 1)
    assert [r(np.array([1.0, 2.0, 3.0]), n) for n in (1, 2, 3, -3, -4, 0)] == [2.0, 3.0, -1.0, 1.0, -1.0, 1.0]
    with pytest.raises(IndexError):
        tg.record(lambda x, n: x[n], np.ones(3), 1)(np.ones(3), 3)


def test_the_branch_of_an_integer_is_found_without_a_sweep():
    r = tg.record(lambda x, n: sum(x**i for i in range(n)), 2.0, 1, compile=False)
    wanted = {n: sum(2.0**i for i in range(n)) for n in range(1, 90)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        for n in [*wanted, *reversed(wanted)]:
            assert r(2.0, n) == wanted[n]
    assert r.stats().recorded == 89
    program, sweeps = r.program, []
    for n in (5, 80, 33):
        for kept in r._branches.programs:
            kept.sweep = lambda *args, own=kept: sweeps.append(own) or type(program).sweep(own, *args)
        assert r(2.0, n) == wanted[n]
    assert len(sweeps) == 3


def test_floats_that_cannot_index_still_say_so():
    with pytest.raises(CutGradientError, match=r"int\(v\)"):
        tg.record(lambda x, n: [1, 2, 3][x * n], 1.0, 2)
    with pytest.raises(IntegerInputError, match="floats cannot index"):
        tg.record(lambda x, n: x[n / 2], np.ones(3), 2)


def test_a_recording_that_is_written_on_another_tape():
    def long(x, n):
        for _ in range(300):
            x = np.sin(x) + n
        return x, n + 1

    tg.record(long, 1.0, 3)
    inner = tg.recorded(long)
    assert inner(1.0, 3) == long(1.0, 3)

    def outer(x, n):
        y, m = inner(x, n)
        assert isinstance(m, int)
        return y * m * len(range(m))

    r = tg.record(outer, 1.0, 3)
    for n in (3, 2, 5, 3):
        assert r(1.0, n) == pytest.approx(outer_on_numbers(long, 1.0, n), rel=1e-13)
        assert type(inner(1.0, n)[1]) is int


def outer_on_numbers(f, x, n):
    y, m = f(x, n)
    return y * m * len(range(m))


OPERATIONS = [
    operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.truediv, max, min,
    lambda a, b: a if a > b else b, lambda a, b: a**2 - b, lambda a, b: abs(a) + b, lambda a, b: -a * b,
    lambda a, b: a << 2 if isinstance(a, int) else a * b, lambda a, b: [a, b, 1][int(a) % 3],
    lambda a, b: sum(range(int(a) % 5)) * b, lambda a, b: (a == b) * 2.0 + a, lambda a, b: divmod(a, b)[1] if b else a,
    lambda a, b: a * 1.0, lambda a, b: a >> 1 if isinstance(a, int) else a,
    lambda a, b: round(a) + 1 if isinstance(a, int) else b, lambda a, b: 0.5**a if isinstance(a, int) and a > -9 else a,
    lambda a, b: float(len(str(a))) if isinstance(a, int) else a,
]  # fmt: skip


def random_program(rng):
    """A function (x, n, m) of some random operations, each on two of the numbers found so far."""
    steps = [(OPERATIONS[rng.integers(len(OPERATIONS))], *rng.integers(0, 5 + i, 2)) for i in range(rng.integers(2, 9))]

    def program(x, n, m):
        known = [x, n, m, 3, -2]
        for operation, i, j in steps:
            known.append(operation(known[i], known[j]))
        return tuple(known[5:])

    return program


@pytest.mark.parametrize("seed", range(300))
@pytest.mark.filterwarnings("ignore")
def test_random_programs(seed):
    rng = np.random.default_rng(seed)
    f = random_program(rng)
    points = [(1.5, 3, 2), (1.5, 4, 2), (-2.5, -3, 7), (0.5, 0, 1), (0.5, 1, 0), (3.25, 10**6, -5), (1.5, 2**40, 3)]
    r = None
    for args in [*points, *points]:
        try:
            # Values divide by zero and overflow as NumPy's floats do.
            expected = f(np.float64(args[0]), *args[1:])
        except ArithmeticError as error:
            expected = type(error)
        if r is None:
            if isinstance(expected, type):
                return
            r = tg.record(f, *args)
        ours = outcome(r, *args)
        if isinstance(expected, type):
            # A Python float that is divided by zero raises. What is computed from integers is a Value, and gives NaN.
            assert ours is expected or not all(math.isfinite(float(x)) for x in ours)
            continue
        for x, y in zip(ours, expected, strict=True):
            if isinstance(y, int) and not isinstance(y, bool):
                assert type(x) is int and x == y
            else:
                assert float(x) == pytest.approx(float(y), rel=1e-12, abs=1e-300) or (x != x and y != y)


def test_more_ufuncs_of_whole_numbers_are_whole():
    def f(x, n):
        quotient, rest = np.divmod(n, 3)
        assert n.imag == 0 and n.real == n and n.conjugate() == n
        return x[quotient] + x[np.fmin(n, 2)] * x[np.conjugate(rest)] + np.divmod(7, n)[1] + np.gcd(n, 4)

    x = np.array([1.5, -2.0, 0.25, 3.0])
    recording = tg.record(f, x, 5)
    for n in (5, 2, 7, 1, 9):
        assert recording(x, n) == f(x, n)
