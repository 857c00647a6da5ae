"""What NumPy does with an argument, or with truth values and integers, Values do as well, or refuse."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import ShapeError, UnsupportedError

X = np.array([[3.0, 1.0, 2.0], [5.0, 4.0, 6.0]])


def same(f, *arrays):
    """f gives the same on Values, eager and recorded, as on NumPy's arrays."""
    expected = f(*arrays)
    eager = f(*[Value(a, requires_grad=a.dtype.kind == "f") for a in arrays])
    for found in (eager.data if isinstance(eager, Value) else eager, tg.record(f, *arrays)(*arrays)):
        assert np.shape(found) == np.shape(expected)
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol=1e-14)


@pytest.mark.parametrize("keepdims", [1, 0, 2, True, False])
def test_any_truth_value_keeps_the_axes_that_were_reduced(keepdims):
    for f in (np.sum, np.mean, np.prod, np.max, np.min, np.std, np.var, np.ptp, np.average, np.linalg.norm):
        same(lambda x, f=f: f(x, axis=1, keepdims=keepdims), X)
    for f in (np.argmax, np.argmin):
        same(lambda x, f=f: f(x, axis=1, keepdims=keepdims), X)
    for f in (np.all, np.any, np.count_nonzero):
        same(lambda x, f=f: f(x > 2.0, axis=1, keepdims=keepdims), X)


@pytest.mark.parametrize("ufunc", [np.add, np.multiply, np.maximum, np.minimum])
def test_the_reduce_of_a_ufunc_goes_along_the_first_axis(ufunc):
    same(lambda x: ufunc.reduce(x), X)
    same(lambda x: ufunc.reduce(x, 1), X)
    same(lambda x: ufunc.reduce(x, None), X)
    same(lambda x: ufunc.reduce(x, axis=(0, 1), keepdims=True), X)
    with pytest.raises(UnsupportedError, match="initial"):
        ufunc.reduce(Value(X), initial=1.0)


def test_the_reduce_of_logic_goes_along_the_first_axis():
    same(lambda x: np.logical_and.reduce(x > 2.0), X)
    same(lambda x: np.logical_or.reduce(x > 4.0, axis=1), X)


def test_elements_are_read_in_the_order_that_is_asked_for():
    weights = np.arange(6.0)
    for f in (
        lambda x: np.ravel(x, "F"),
        lambda x: x.ravel("F"),
        lambda x: x.flatten("F"),
        lambda x: np.reshape(x, (3, 2), order="F"),
        lambda x: np.reshape(x, (-1, 2), order="F"),
        lambda x: x.reshape((3, 2), order="F"),
        lambda x: x.reshape(3, 2, order="F"),
        lambda x: x.T.reshape(6, order="F"),
    ):
        same(f, X)
        gradient = tg.grad(lambda x, f=f: np.sum(f(x).reshape(-1) * weights))(X)
        places = f(np.arange(6).reshape(2, 3)).reshape(-1)
        assert gradient.reshape(-1)[places].tolist() == weights.tolist()
    for order in ("A", "K", "x"):
        with pytest.raises(UnsupportedError, match=order):
            Value(X).ravel(order)


def test_a_norm_over_two_axes_is_not_taken_for_another():
    same(lambda x: np.linalg.norm(x), X)
    same(lambda x: np.linalg.norm(x, "fro"), X)
    same(lambda x: np.linalg.norm(x, "fro", axis=(0, 1)), X)
    same(lambda x: np.linalg.norm(x, 2, axis=1), X)
    same(lambda x: np.linalg.norm(x, np.inf, axis=(0,)), X)
    for order in (2, -2, "nuc", 1):
        with pytest.raises(UnsupportedError, match="over 2 axes"):
            np.linalg.norm(Value(X), order, axis=(0, 1))
    with pytest.raises(UnsupportedError, match="fro"):
        np.linalg.norm(Value([1.0, 2.0]), "fro")
    with pytest.raises(ShapeError, match="not over 3"):
        np.linalg.norm(Value(np.ones((2, 2, 2))), 2)


def test_several_shifts_of_one_axis_add_up():
    same(lambda x: np.roll(x, (1, 2)), np.array([1.0, 2.0]))
    same(lambda x: np.roll(x, (1, 2), (0, 0)), np.array([1.0, 2.0, 3.0, 4.0]))


def test_matrix_products_of_no_elements():
    for left, right in (((2, 3, 0), (0, 4)), ((2, 0, 3), (3, 4)), ((0, 3), (3, 2)), ((2, 3), (3, 0)), ((0,), (0,))):
        same(lambda x, y: x @ y, np.ones(left), np.ones(right))
        assert tg.grad(lambda x: np.sum(x @ np.ones(right)))(np.ones(left)).shape == left
