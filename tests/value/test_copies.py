"""Copies of Values, and their numbers changed in place."""

import copy

import numpy as np

import tapegrad as tg
from tapegrad import Value


def test_a_copy_does_not_follow_the_original():
    for copied in (copy.copy, copy.deepcopy):
        for data in (3.0, [1.0, 2.0], np.float32(2.0)):
            x = Value(data, label="weights")
            best = copied(x)
            before = np.array(x.data)
            x.data = x.data + 1.0
            assert np.array_equal(best.data, before) and np.array_equal(x.data, before + 1.0)
            assert best.label == "weights" and best.dtype == x.dtype and best.requires_grad
            np.sum(best * best).backward()
            assert np.array_equal(best.grad, 2.0 * before) and np.all(x.grad == 0.0)
    assert not copy.deepcopy(Value(1.0, requires_grad=False)).requires_grad


def test_copies_in_a_container_are_made_once():
    x = Value(1.0)
    first, second = copy.deepcopy([x, x])
    assert first is second and first is not x


def test_the_copy_of_a_result_is_a_result():
    x = Value([1.0, 2.0])
    kept = copy.deepcopy(x * x)
    kept.sum().backward()
    assert x.grad.tolist() == [2.0, 4.0]
    assert tg.grad(lambda x: np.sum(copy.deepcopy(x) * x))(np.array([1.0, 2.0])).tolist() == [2.0, 4.0]


def test_every_operator_in_place_assigns_data():
    x = Value([5.0, 7.0])
    x.data //= 2.0
    assert x.tolist() == [2.0, 3.0]
    x.data %= 2.0
    assert x.tolist() == [0.0, 1.0]
    x.data = [1.0, 2.0]
    x.data @= np.array([[0.0, 1.0], [1.0, 0.0]])
    assert x.tolist() == [2.0, 1.0]
