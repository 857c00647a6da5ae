"""Faults that were found by using the library, one test each."""

import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import NonScalarError, StructureError, TapeFullError, UnsupportedError


def test_two_recordings_that_call_each_other_do_not_wait_for_ever():
    def first(x):
        return x * b(0.1) if x > 1 else x

    def second(x):
        return x * a(0.1) if x > 1 else x

    a, b = tg.grad(first), tg.grad(second)
    a(0.5), b(0.5)
    results = []

    def work(g):
        results.append([g(x) for x in [2.0, 0.5] * 20])

    threads = [threading.Thread(target=work, args=(g,), daemon=True) for g in (a, b)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(600)  # so long that it is a deadlock, on any machine
    assert not any(t.is_alive() for t in threads)
    assert results == [[1.0] * 40] * 2


def test_arithmetic_on_truth_values_is_logic_as_in_numpy():
    a = np.array([1.0, -0.5, -2.0])
    for f in (
        lambda x: np.sum(x * ((x > 0) + (x > -1))),
        lambda x: np.sum(x * ((x > 0) * (x > -1))),
        lambda x: np.sum(x[(x > 0) + (x < -1)]),
        lambda x: np.sum(x[1:] * ((x > 0)[1:] + (x > -1)[1:])),
        lambda x: np.sum(x * ~(x > 0)),
        lambda x: np.sum(x * ((x > 0) + np.array([True, False, True]))),
    ):
        assert tg.record(f, a)(a) == f(a)
        assert f(Value(a)).item() == f(a)
    x = Value(a)
    for f in (lambda: (x > 0) - (x < 0), lambda: -(x > 0), lambda: ~x):
        with pytest.raises(UnsupportedError):
            f()


def test_an_absurd_broadcast_is_refused_and_the_tape_goes_on():
    with pytest.raises(TapeFullError, match="8589934592"):
        np.broadcast_to(Value([1.0]), (2**33, 2**33)).sum()
    assert (Value(3.0) * Value(2.0)).item() == 6.0


@pytest.mark.parametrize("f", [lambda x: (x, x, x), lambda x: x * x, lambda x: [x, x], lambda x: ((x, x), x)])
def test_has_aux_wants_a_number_and_something_else(f):
    with pytest.raises((StructureError, NonScalarError)):
        tg.grad(f, has_aux=True)(2.0)


def test_a_tuple_of_one_is_no_number():
    with pytest.raises(NonScalarError, match="tuple"):
        tg.grad(lambda x: (x * x,))(2.0)


@pytest.mark.parametrize("argnums", ["x", 1.0, True, None, ()])
def test_argnums_are_whole_numbers(argnums):
    with pytest.raises(TypeError, match="argnums"):
        tg.grad(lambda x: x, argnums)


def test_argnums_of_numpy_and_none_in_a_structure():
    assert tg.grad(lambda x, y: x * y, np.int64(1))(2.0, 3.0) == 2.0
    assert tg.grad(lambda p: p["a"] ** 2)({"a": 2.0, "b": None}) == {"a": 4.0, "b": None}


def test_a_gradient_of_a_gradient_is_one():
    assert tg.grad(tg.grad(lambda x: x**3))(2.0) == 12.0


def test_a_value_cannot_hide_in_a_set_while_recording():
    with pytest.raises(UnsupportedError, match="hash"):
        tg.grad(lambda x: x if x in {1.0, 2.0} else 2 * x)(1.0)
    v = Value(1.0)
    assert v in {v}


def test_plain_numbers_give_plain_numbers():
    x = np.array([[0.0, 1.0]])
    assert isinstance(tg.softmax(x), np.ndarray)
    assert isinstance(tg.logsumexp([0.0, 1.0]), float)
    assert isinstance(tg.cross_entropy(x, [1]), float)
    assert isinstance(tg.softmax(Value(x)), Value)


def test_results_that_do_not_depend_on_the_inputs_are_copies():
    c = np.ones(2)
    r = tg.record(lambda x: (x * 2.0, c), 1.0)
    r(1.0)[1][0] = 9.0
    assert r(1.0)[1].tolist() == [1.0, 1.0]


def test_what_a_refused_label_would_have_given_is_nan_and_not_what_stood_there():
    labels = Value(np.array([0, 5]), requires_grad=False)
    loss = tg.cross_entropy(Value(np.zeros((2, 3))), labels)
    after = loss * 2.0
    with pytest.raises(tg.errors.LabelError):
        loss.item()
    assert np.isnan(loss.item()) and np.isnan(after.item())
    assert (Value(2.0) * 3.0).item() == 6.0


def test_truth_values_given_as_a_value_are_truth_values():
    mask = Value(np.array([True, False, True]), requires_grad=False)
    x = Value([1.0, 2.0, 3.0])
    assert (mask + mask).tolist() == [1.0, 0.0, 1.0]
    assert x[mask].tolist() == [1.0, 3.0]
