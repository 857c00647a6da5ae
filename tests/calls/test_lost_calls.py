"""A Python function that a sweep calls and that is interrupted before its first line: never a number without it."""

import sys

import numpy as np
import pytest

import tapegrad as tg

X = np.array([0.1, 0.2])
ONES = np.ones(2)


class Late(Exception):
    """What interrupts."""


sine = tg.external(np.sin, lambda w, y, x: w * np.cos(x), lambda t, y, x: t[0] * np.cos(x))
inner = tg.checkpoint(lambda x: np.sin(x) * x)


def loss(x):
    return np.sum(sine(x) * x)


def eager():
    v = tg.Value(X)
    loss(v).backward()
    return v.grad


one, many = tg.record(loss, X), tg.record(lambda x: sine(x) * x, X)
MODES = {
    "value": lambda: one(X),
    "gradient": lambda: one.grad(X),
    "eager value": lambda: loss(tg.Value(X)).item(),
    "eager gradient": eager,
    "jvp": lambda: one.jvp((X,), (ONES,))[1],
    "vjp": lambda: one.vjp(X)[1](1.0)[0],
    "linearize": lambda: one.linearize(X)[1](ONES),
    "jacrev": lambda: many.jacrev(X),
    "jacfwd": lambda: many.jacfwd(X),
    "sparse": lambda: many.jacobian(X, sparse=True).toarray(),
    "checkpoint": lambda: tg.hvp(lambda x: np.sum(inner(x)), (X,), (ONES,)),
    "inverse": lambda: tg.grad(lambda a: np.sum(np.linalg.inv(a)))(2.0 * np.eye(2)),
}


def interrupted(ask, number, hook):
    """What `ask` raises where the callback that is entered as number `number` is interrupted; None if there is none."""
    entered = 0

    def trace(frame, event, arg):
        nonlocal entered
        if event == "call" and frame.f_code.co_name == "called":
            entered += 1
            if entered == number:
                raise Late

    before, listening = sys.gettrace(), sys.unraisablehook
    sys.unraisablehook = hook or listening
    sys.settrace(trace)
    try:
        ask()
    except Exception as error:
        return type(error)
    finally:
        sys.settrace(before)
        sys.unraisablehook = listening
    assert entered < number, "it went on as if nothing had happened"
    return None


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("heard", [True, False], ids=["heard", "the hook hears nothing"])
def test_an_interrupted_call_raises_and_leaves_nothing_behind(name, heard):
    ask = MODES[name]
    expected = ask()
    found = [interrupted(ask, number, None if heard else lambda _: None) for number in range(1, 8)]
    raised = [error for error in found if error is not None]
    assert raised
    assert set(raised) <= ({Late} if heard else {Late, RuntimeError})
    np.testing.assert_array_equal(ask(), expected)


def test_an_interrupt_after_the_work_is_done_is_raised_too():
    seen = []

    def trace(frame, event, arg):
        if frame.f_code.co_name == "called":
            if event == "return":
                seen.append(1)
                raise Late
            return trace

    one.grad(X)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(Late):
            one.grad(X)
    finally:
        sys.settrace(before)
    assert seen
