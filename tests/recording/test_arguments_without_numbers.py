"""Arguments that hold no floats: an empty dict, list or tuple, None."""

import numpy as np
import pytest

import tapegrad as tg

NOTHING = ({}, [], (), None)


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_gradient_with_respect_to_nothing_leaves_the_recording_alone(nothing):
    recording = tg.record(lambda p, x: (x * 3.0) * 2.0, nothing, 1.0)
    assert recording(nothing, 2.0) == 12.0
    assert recording.value_and_grad(nothing, 2.0) == (12.0, nothing)
    assert recording(nothing, 2.0) == 12.0
    assert recording(nothing, 5.0) == 30.0


@pytest.mark.parametrize("nothing", NOTHING, ids=repr)
def test_hessian_with_respect_to_nothing_is_nothing(nothing):
    recording = tg.record(lambda p, x: np.sum(x * 3.0 * x), nothing, np.ones(2))
    assert recording.hessian(nothing, np.ones(2)) == nothing
    assert tg.hessian(lambda p, x: np.sum(x * 3.0 * x))(nothing, np.ones(2)) == nothing


def test_an_argument_named_twice_is_refused_or_answered_twice():
    recording = tg.record(lambda a, b: a * b, 2.0, 3.0)
    assert len(recording.grad(2.0, 3.0, argnums=(0, 0))) == 2
