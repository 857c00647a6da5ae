"""What a Value shows and lets happen inside a recorded function."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import CutGradientError, DTypeError


def test_looking_at_a_value_makes_no_branch():
    shown = []

    def f(x, y):
        shown.extend([repr(x), str(y), f"{x}", f"{x:.3f}", f"{y}"])
        return x * np.sum(y)

    recording = tg.record(f, 2.0, np.ones(3))
    assert recording(5.0, 2.0 * np.ones(3)) == 30.0
    stats = recording.stats()
    assert stats.guards == 0 and stats.branches == 1
    assert all("being recorded" in text for text in shown) and "(3,)" in shown[1]
    assert repr(Value([1.0, 2.0], label="x")) == "Value([1., 2.], label='x')"


def test_the_list_of_a_value_keeps_its_gradient():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    gradient = tg.grad(lambda x: sum(v * v for row in x.tolist() for v in row))(x)
    assert gradient.tolist() == (2.0 * x).tolist()
    assert tg.grad(lambda x: x.tolist() * 3.0)(2.0) == 3.0
    assert tg.grad(lambda x, i: sum(x[int(n)] for n in i.tolist()))(np.ones(3), np.array([0, 2])).tolist() == [1, 0, 1]
    assert Value(x).tolist() == x.tolist()


@pytest.mark.parametrize("x", [2.0, np.array([2.0])])
def test_a_value_stored_into_a_float_array_is_refused_in_our_words(x):
    def f(x):
        y = np.zeros(3)
        y[0] = x
        return np.sum(y)

    for g in (tg.grad(f), lambda x: tg.record(f, x), lambda x: tg.jvp(f, (x,), (x,))):
        with pytest.raises(CutGradientError, match=r"tg\.stack"):
            g(x)
    with pytest.raises(CutGradientError, match=r"tg\.stack"):
        tg.grad(f)(Value(x))


def test_an_error_of_the_function_itself_is_not_touched():
    def f(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        tg.grad(f)(1.0)


def test_truth_values_have_no_derivative():
    def below(x):
        return x < 3.0

    for f in (below, lambda x: bool(x < 3.0), lambda x: np.isclose(x, 2.0)):
        with pytest.raises(DTypeError, match="truth value"):
            tg.grad(f)(2.0)
    with pytest.raises(DTypeError, match="truth value"):
        tg.grad(below)(Value(2.0))
    assert tg.grad(lambda x: 1.0 * (x < 3.0))(2.0) == 0.0


def test_a_deep_chain_of_choices_can_be_asked_what_it_is():
    x = Value(1.0)
    y, z = x, x > 0.5
    for i in range(5000):
        y, z = np.maximum(y, y.detach()), np.maximum(z, z.copy())
        if not i % 1000:
            assert y and z
    assert z.tape.kind(z._slot) == "b"
    assert y.tape.kind(y._slot) == ""


def test_an_array_without_axes_is_a_number():
    recording = tg.record(lambda x: x * x, np.array(1.0))
    assert recording(np.array(1.0) * 2) == recording(2.0) == recording(np.array(2.0)) == 4.0
    assert tg.record(lambda x: x * x, 1.0)(np.array(3.0)) == 9.0
    assert recording.grad(np.array(1.0) * 2) == recording.grad(np.array(2.0)) == 4.0
    single = tg.record(lambda x: x * x, np.array(1.5, np.float32))
    assert single(np.array(1.0, np.float32) * 2) == 4.0 and single.code.dtype == np.float32


def test_arrays_that_are_captured_alike_are_counted():
    rows = [np.full(3, float(i)) for i in range(200)]
    text = str(tg.record(lambda w: sum(np.sum(w * row) for row in rows), np.ones(3)).stats())
    assert "an array (3,) 200 times" in text and len(text) < 400


def test_plain_numbers_are_stacked_as_numpy_stacks_them():
    for given in ([1.0, 2.0], [[1.0, 2.0], [3.0, 4.0]], [np.ones(2), np.zeros(2)]):
        found = tg.stack(given)
        assert type(found) is np.ndarray and np.array_equal(found, np.stack(given))
    assert np.array_equal(tg.stack([np.ones(2), np.zeros(2)], 1), np.stack([np.ones(2), np.zeros(2)], 1))
    assert isinstance(tg.stack([1.0, Value(2.0)]), Value)


def test_an_empty_argument_is_checked_as_any_other():
    assert tg.check_grads(lambda x: np.sum(x), (np.zeros(0),)).worst == 0.0
    assert tg.check_grads(lambda x, y: np.sum(x) + y * y, (np.zeros((0, 2)), 1.0)).worst < 1e-6
