"""Copies of Values, and their numbers changed in place."""

import copy

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("data", [3.0, [1.0, 2.0], np.float32(2.0)])
def test_a_copy_does_not_follow_the_original(copied, data):
    x = Value(data)
    best, part = copied(x), copied(x.reshape(-1)[:1])
    before = np.array(x.data)
    x.data = x.data + 1.0
    assert np.array_equal(best.data, before) and np.array_equal(x.data, before + 1.0)
    assert part.item() == before.reshape(-1)[0] and best.dtype == x.dtype


def test_a_deep_copy_of_what_was_given_is_a_value_of_its_own():
    x = Value([1.0, 2.0], label="weights")
    best = copy.deepcopy(x)
    assert best.label == "weights" and best.requires_grad
    (best * best).sum().backward()
    assert best.grad.tolist() == [2.0, 4.0] and x.grad.tolist() == [0.0, 0.0]
    best.data = best.data * 2.0
    assert x.tolist() == [1.0, 2.0]
    assert not copy.deepcopy(Value(1.0, requires_grad=False)).requires_grad


def test_a_gradient_flows_through_other_copies():
    x = Value([1.0, 2.0])
    for copied in (copy.copy(x), copy.copy(x)[:1], copy.deepcopy(x[:1]), copy.deepcopy(x * 1.0)):
        x.zero_grad()
        copied.sum().backward()
        assert x.grad.tolist() == [1.0] * copied.size + [0.0] * (2 - copied.size)


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
