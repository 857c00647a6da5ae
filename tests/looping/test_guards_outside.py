"""What steps ask of numbers from around the loop is held by guards: a replay with another number is right."""

import numpy as np
import pytest

import tapegrad as tg

X = np.array([0.0, 1.0, 2.0])
STEPS = 3000
ASKED = {
    "take": lambda x, n: np.take(x, n),
    "index": lambda x, n: x[int(n)],
    "slice": lambda x, n: x[n:].sum(),
    "range": lambda x, n: sum(x[1] + 1.0 for _ in range(n)),
    "roll": lambda x, n: np.roll(x, n)[0],
    "repeat": lambda x, n: np.repeat(x, n).sum(),
    "full": lambda x, n: np.full(3, n)[0] * x[1],
    "diff": lambda x, n: np.diff(np.concatenate([x, 2.0 * x]), n).sum(),
    "a branch": lambda x, n: x[0] + 1.0 if n > 1 else x[1],
    "computed": lambda x, n: x[(n + 1) % 3 : 3].sum(),
}


def loop(asked, steps=STEPS):
    return lambda x, n: tg.fori_loop(0, steps, lambda i, c: c + asked(x, n), 0.0)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("first", [1, np.array(1)], ids=["int", "array"])
def test_an_integer_that_a_step_asks_about(name, first):
    f = loop(ASKED[name])
    r = tg.record(f, np.ones(3), first)
    for n in (2, 1, 2):
        expected = STEPS * float(ASKED[name](X, n))
        assert r(X, n) == pytest.approx(expected, rel=1e-12)
        slope = tg.grad(lambda x, n=n: ASKED[name](x, n))(X)
        assert np.allclose(r.grad(X, n), STEPS * slope, rtol=1e-12)


def test_what_is_asked_after_a_loop_is_held_too():
    def f(x, n):
        return loop(ASKED["take"])(x, n) + np.take(x, n)

    r = tg.record(f, np.ones(3), 1)
    assert r(X, 2) == 2.0 * (STEPS + 1) and r(X, 1) == STEPS + 1


def test_such_a_loop_is_one_instruction():
    assert len(tg.record(loop(ASKED["slice"]), np.ones(3), 1)) < 20


def test_a_number_that_a_step_reads():
    r = tg.record(lambda x: tg.fori_loop(0, STEPS, lambda i, c: c + x[1] * (2.0 if x[0].item() > 1.5 else 1.0), 0.0), X)
    assert r(X) == STEPS and r(X + 2.0) == 2.0 * 3.0 * STEPS and r(X) == STEPS


def test_a_number_that_a_step_reads_of_a_value_without_a_recording():
    x = tg.Value(X)
    y = tg.fori_loop(0, STEPS, lambda i, c: c + x[1] * float(x[2].item()), 0.0)
    y.backward()
    assert y.item() == 2.0 * STEPS and x.grad.tolist() == [0.0, 2.0 * STEPS, 0.0]
