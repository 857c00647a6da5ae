"""Guards: a replay that would branch otherwise than the recording never returns a wrong number."""

import numpy as np
import pytest
from checks import rounding

import tapegrad as tg

BRANCHES = {
    "if": lambda x: x * x if x > 0 else -3.0 * x,
    "elif": lambda x: np.sin(x) if x > 1 else (x**3 if x > -0.5 else np.exp(x)),
    "abs by hand": lambda x: x if x >= 0.0 else -x,
    "while": lambda x: _halve(x),
    "loop over item": lambda x: x * sum(range(int(abs(x.item()) * 4))),
    "data": lambda x: x * float(x.data) + x,
    "max": lambda x: max(x * x, 1.0 - x) * 2.0,
    "sorted": lambda x: sorted([x, x * x, 0.5 * x + 0.1])[1] * 3.0,
    "truth": lambda x: x * 2.0 if np.floor(x) else x * 5.0,
    "where and if": lambda x: np.where(x > 0, x * 2.0, x) if x * x < 1 else x**2,
    "not": lambda x: x if not x > 0.5 else x * x,
    "equal": lambda x: x * 2.0 if np.floor(x) == 1.0 else x * 3.0,
    "chained": lambda x: x * 4.0 if -0.5 < x < 0.5 else x,
    "format": lambda x: x * float(f"{x.item():.1f}"),
    "isnan": lambda x: x if np.isnan(np.sqrt(x)) else np.sqrt(x),
}


def _halve(x):
    while abs(x) > 0.3:
        x = x * 0.5 if x > 0 else x * 0.75
    return x * x


def fresh(f, x):
    v = tg.Value(x)
    out = f(v)
    v.zero_grad()
    out.sum().backward()
    return out.data, v.grad


@pytest.mark.parametrize("name", BRANCHES)
def test_branches_equal_fresh_evaluation(name, rng):
    f = BRANCHES[name]
    replayed = tg.value_and_grad(f)
    for x in rng.uniform(-2.5, 2.5, 200):
        value, g = replayed(x)
        assert (value, g) == pytest.approx(fresh(f, x), rel=rounding(), abs=0.0)


ARRAY_BRANCHES = {
    "any": lambda x: np.sum(x * x) if np.any(x > 1.5) else np.sum(x),
    "argmax": lambda x: x[np.argmax(x)] * 3.0,
    "argsort": lambda x: np.sum(x[np.argsort(x.data)] * np.arange(4.0)),
    "sort": lambda x: np.sum(np.sort(x) * np.arange(4.0)),
    "mask": lambda x: np.sum(x[x > 0] * 2.0),
    "mask of a view": lambda x: np.sum(x[1:][x[1:] > 0] ** 2),
    "count": lambda x: np.sum(x) * np.count_nonzero(x > 0),
    "elements": lambda x: sum(v * v if v > 0 else v for v in x),
    "norm": lambda x: x[0] if np.linalg.norm(x) > 2.5 else np.sum(x * x),
    "tolist": lambda x: np.sum(x * np.array(x.data.tolist())),
    "numpy": lambda x: np.sum(x * x.numpy()[::-1]),
    "array_equal": lambda x: np.sum(x) if np.array_equal(np.sign(x), [1.0, 1.0, -1.0, -1.0]) else np.sum(x * x),
}


@pytest.mark.parametrize("name", ARRAY_BRANCHES)
def test_branches_on_arrays_equal_fresh_evaluation(name, rng):
    f = ARRAY_BRANCHES[name]
    replayed = tg.value_and_grad(f)
    for x in rng.normal(size=(100, 4)):
        value, g = replayed(x)
        expected, slope = fresh(f, x)
        assert value == expected and g.tolist() == slope.tolist()


def test_a_number_read_at_zero_keeps_its_sign():
    g = tg.grad(lambda x: x * np.copysign(1.0, x.item()))
    assert (g(0.0), g(-0.0), g(0.0)) == (1.0, -1.0, 1.0)


def test_the_text_of_a_value_has_no_number_that_could_be_read():
    for text in (str, repr, "{}".format, "{:.3f}".format):
        with pytest.raises(ValueError, match="being recorded"):
            tg.grad(lambda x, text=text: x * float(text(x)))(2.0)
    g = tg.grad(lambda x: x * float(str(x.item())))
    assert (g(2.0), g(3.0)) == (2.0, 3.0)


def test_branches_at_nan():
    g = tg.grad(lambda x: x * 2.0 if x > 0 else x * 3.0)
    assert [g(x) for x in (1.0, np.nan, 1.0, -1.0, np.nan, np.inf)] == [2.0, 3.0, 2.0, 3.0, 3.0, 2.0]
    h = tg.grad(lambda x: x * (1.0 if x.item() != x.item() else 2.0))
    assert [h(x) for x in (np.nan, 1.0, np.nan, 2.0)] == [1.0, 2.0, 1.0, 2.0]


def test_replays_do_not_call_the_function_again():
    calls = []

    def f(x):
        calls.append(1)
        return x * x if x > 0 else x

    g = tg.grad(f)
    assert [g(float(x)) for x in (1, 2, 3)] == [2.0, 4.0, 6.0] and len(calls) == 1
    g(np.ones(1))
    assert len(calls) == 2
