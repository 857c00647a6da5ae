"""What NumPy does with an argument, or with truth values and integers, Values do as well, or refuse."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import OperationError, ShapeError, UnsupportedError

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
    same(lambda x: ufunc.reduce(x, initial=1.5), X)
    with pytest.raises(UnsupportedError, match="out=.* use the result"):
        ufunc.reduce(Value(X), out=Value(np.ones(3)))


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
    for order in (2, -2, "nuc", 1, -1, np.inf, -np.inf):
        same(lambda x, order=order: np.linalg.norm(x, order, axis=(0, 1)), X)
    with pytest.raises(OperationError, match="fro"):
        np.linalg.norm(Value([1.0, 2.0]), "fro")
    with pytest.raises(ShapeError, match="not over 3"):
        np.linalg.norm(Value(np.ones((2, 2, 2))), 2)


def test_several_shifts_of_one_axis_add_up():
    same(lambda x: np.roll(x, (1, 2)), np.array([1.0, 2.0]))
    same(lambda x: np.roll(x, (1, 2), (0, 0)), np.array([1.0, 2.0, 3.0, 4.0]))


def test_matrix_products_of_no_elements():
    for left, right in (((2, 3, 0), (0, 4)), ((2, 0, 3), (3, 4)), ((0, 3), (3, 2)), ((2, 3), (3, 0)), ((0,), (0,))):
        same(lambda x, y: x @ y, np.ones(left), np.ones(right))
        assert tg.grad(lambda x, y: np.sum(x @ y))(np.ones(left), np.ones(right)).shape == left


MASK = np.array([0.5, 2.0, 3.0])


@pytest.mark.parametrize(
    "f",
    [
        lambda m: np.concatenate([m, m]),
        lambda m: np.stack([m, m]),
        lambda m: np.hstack([m, m]),
        lambda m: np.repeat(m, 2),
        lambda m: np.take(m, [0, 1]),
        lambda m: np.roll(m, 1),
        lambda m: np.where(m, m, ~m),
        lambda m: np.where([1.0, 0.0, 1.0], m, ~m),
        lambda m: m.copy(),
        lambda m: m.flatten(),
        lambda m: np.tile(m, 2),
        lambda m: np.tile(m, (2, 2)),
        lambda m: m[[0, 1]],
        lambda m: m[np.array([True, False, True])],
        lambda m: m[None].T,
        lambda m: np.ravel(m[None] * m[:, None], "F"),
        lambda m: np.pad(m, 1),
        lambda m: np.diag(m),
        lambda m: np.sort(m),
        lambda m: np.abs(m),
        lambda m: np.max(m, keepdims=True),
        lambda m: np.min(m[None] * m[:, None], axis=1),
        lambda m: np.tril(m[None] * m[:, None]),
        lambda m: np.einsum("i,j->ij", m, m),
        lambda m: np.outer(m, m),
        lambda m: (m[None] * m[:, None]) @ m,
        lambda m: m * True,
        lambda m: np.where(m, m, False),
        lambda m: tg.where(m, True, m),
        lambda m: m * m[1],
    ],
)
def test_truth_values_stay_so_wherever_they_go(f):
    same(lambda x: np.sum(1.0 * (f(x > 1.0) + f(x > 1.0))), MASK)
    same(lambda x: np.sum(x[0] * (f(x > 1.0) * f(x > 2.5))), MASK)


def test_numbers_beside_truth_values_stay_numbers():
    same(lambda x: np.concatenate([x > 1.0, x]) + np.concatenate([x > 1.0, x]), MASK)
    same(lambda x: np.where(x > 1.0, x > 2.0, x) * 3.0, MASK)
    same(lambda x: np.cumsum(x > 1.0) + np.cumsum(x > 1.0), MASK)
    same(lambda x: np.sum(x > 1.0) + np.sum(x > 1.0), MASK)


def test_products_of_truth_values_say_whether_and_not_how_many():
    for f in (
        lambda m: m @ m,
        lambda m: np.dot(m, m),
        lambda m: np.vdot(m, m),
        lambda m: np.inner(m, m),
        lambda m: np.einsum("i,i", m, m),
        lambda m: np.einsum("i,i,i->", m, m, m),
        lambda m: np.einsum("i->", m),
        lambda m: np.tensordot(m, m, 1),
        lambda m: np.ones((2, 3), bool) @ m,
    ):
        same(lambda x, f=f: 1.0 * f(x > 1.0), MASK)
    same(lambda x: (x > 1.0) @ x, MASK)


def test_how_often_a_number_goes_into_another():
    numbers = np.array([1.0, -1.0, 7.5, -7.5, 0.3, 1e300, -0.0, 0.6, 12.0, np.inf, np.nan])
    by = np.array([0.1, -0.1, 2.5, 0.0, np.inf, -np.inf, 1e-10, 3.0])
    with np.errstate(all="ignore"):
        same(lambda x, y: x[:, None] // y, numbers, by)
        same(lambda x, y: np.floor_divide(x[:, None], y), numbers, by)
    same(lambda x: 1.0 // x, np.array([0.1, 3.0]))
    assert (Value(1.0) // 0.1).item() == (1.0 // Value(0.1)).item() == 9.0
    assert tg.grad(lambda x: x // 0.1 + x)(1.0) == 1.0
    small = np.array([1.0, 0.3], np.float32)
    assert tg.record(lambda x: x // np.float32(0.1), small)(small).tolist() == (small // np.float32(0.1)).tolist()


def test_bits_of_integers_are_refused():
    whole = np.array([1, 2, 6])
    for f in (lambda i: i & 1, lambda i: i | 1, lambda i: i ^ 3, lambda i: 1 & i, lambda i: i & i, lambda i: i[0] & 1):
        with pytest.raises(UnsupportedError, match="truth values"):
            f(Value(whole, requires_grad=False))
        with pytest.raises(UnsupportedError, match="truth values"):
            tg.record(lambda x, i, f=f: np.sum(x * f(i)), np.ones(3), whole)
    with pytest.raises(UnsupportedError, match="floats"):
        Value([1.0, 2.0]) & (Value([1.0, 2.0]) > 1.5)
    with pytest.raises(UnsupportedError, match="float64"):
        (Value([1.0, 2.0]) > 1.5) | np.array([1.0, 0.0])


def test_logic_of_truth_values():
    other = np.array([True, False, True])
    for f in (
        lambda x: (x > 1.0) & (x < 3.0),
        lambda x: (x > 2.5) | other,
        lambda x: other ^ (x > 1.0),
        lambda x: (x > 1.0) & True,
        lambda x: (x > 1.0) | (x[0] < 1.0),
        lambda x: (x[0] > 1.0) ^ (x[1] > 1.0),
        lambda x: np.where(x > 1.0, x > 2.0, x < 1.0) & other,
    ):
        same(lambda x, f=f: 1.0 * f(x), MASK)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("kind", [np.matrix, np.ma.array])
def test_matrices_and_masked_arrays_are_refused(kind):
    square = np.ones((2, 2))
    other = kind(square)
    for f in (
        lambda: Value(other),
        lambda: Value(square) * other,
        lambda: Value(square) @ other,
        lambda: np.add(Value(square), other),
        lambda: np.where(Value(square) > 0.0, other, 1.0),
        lambda: tg.grad(lambda x: np.sum(x * other))(square),
        lambda: tg.grad(lambda x: np.sum(x * x))(other),
        lambda: tg.jvp(lambda x: np.sum(x * x), (other,), (square,)),
        lambda: tg.record(lambda x: np.sum(x), square)(other),
    ):
        with pytest.raises(UnsupportedError, match=r"np\.ma"):
            f()


def test_a_mask_is_not_lost_where_numbers_are_assigned_or_index():
    x = np.ones(2)
    with pytest.raises(UnsupportedError, match="mask"):
        Value(x)[np.ma.array([0, 1], mask=[True, False])]
    value = Value(x)
    with pytest.raises(UnsupportedError, match="mask"):
        value.data = np.ma.array([0.0, 1.0], mask=[True, False])


def test_the_order_of_bytes_does_not_matter():
    swapped = MASK.astype(">f8")
    for other in (swapped, swapped.astype(">f4")):
        slope = tg.grad(lambda x: np.sum(x * x))
        assert slope(other).tolist() == slope(other).tolist() == (2.0 * other).tolist()
    assert (Value(MASK) * swapped).tolist() == (MASK * MASK).tolist()
    assert tg.jvp(lambda x: np.sum(x * x), (swapped,), (swapped,))[1] == 2.0 * MASK @ MASK
    assert Value(swapped).tolist() == MASK.tolist()
