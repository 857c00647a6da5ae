"""What NumPy and Python do with a Value: functions answer, object arrays work, and nothing detaches silently."""

import copy
import math
import pickle

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import CutGradientError, InPlaceError, ShapeError, UnsupportedError


@pytest.mark.parametrize(
    "cut",
    [
        float, complex, math.sin, np.asarray, np.array, lambda v: np.array([v, v]), lambda v: np.float64(v),
        lambda v: range(3)[v], lambda v: Value(v), lambda v: Value([v, 1.0]), pickle.dumps,
        lambda v: np.array([1.0, 2.0])[v],
        lambda v: np.full(3, v), lambda v: np.add(np.zeros(3), v, out=np.zeros(3)), lambda v: np.copyto(np.zeros(1), v),
    ],
)  # fmt: skip
@pytest.mark.parametrize("data", [1.0, [1.0], [1.0, 2.0]], ids=str)
def test_what_would_cut_the_gradient_raises(cut, data):
    v = Value(data)
    with pytest.raises(tg.errors.TapegradError) as info:
        cut(v)
    assert isinstance(info.value, CutGradientError | UnsupportedError)
    (v * 2.0).sum().backward()
    assert np.all(v.grad == 2.0)


@pytest.mark.parametrize("data", [1.0, [1.0, 2.0]], ids=str)
def test_storing_into_a_float_array_raises(data):
    v = Value(data)
    a = np.zeros((2, 2))
    with pytest.raises((CutGradientError, ValueError)) as info:
        a[0] = v
    error = info.value
    assert isinstance(error, CutGradientError) or isinstance(error.__cause__, CutGradientError)
    text = str(error if isinstance(error, CutGradientError) else error.__cause__)
    assert "item()" in text and "detach()" in text and "object" in text
    with pytest.raises(CutGradientError, match="a = a \\+ v"):
        a += v
    assert not a.any()


def test_an_unsupported_function_is_named():
    v = Value([1.0, 2.0])
    for call, name in (
        (lambda: np.histogram(v), "histogram"),
        (lambda: np.spacing(v), "spacing"),
        (lambda: np.linalg.eig(Value(np.eye(2))), "eig"),
        (lambda: np.frompyfunc(lambda x: x, 1, 1)(v), "<lambda>"),
        (lambda: np.sin(v, where=np.array([True, False])), "where=.* np.where"),
        (lambda: np.sum(v, dtype=np.float32), "dtype"),
        (lambda: np.mean(v, out=np.zeros(())), "out=.* use the result"),
    ):
        with pytest.raises(UnsupportedError, match=name):
            call()


def test_numpy_functions_and_scalars():
    v, w = Value(0.5), Value([0.5, 1.5])
    assert isinstance(np.float64(2.0) * v, Value) and (np.float64(2.0) * v).item() == 1.0
    assert np.array([1.0, 2.0]) @ w == 3.5 and (np.eye(2) @ w).tolist() == [0.5, 1.5]
    assert np.where(w > 1, w, 0.0).tolist() == [0.0, 1.5]
    assert np.concatenate([w, [2.0]]).tolist() == [0.5, 1.5, 2.0]
    assert np.shape(w) == (2,) and np.ndim(w) == 1 and np.size(w) == 2
    assert np.zeros_like(w).tolist() == [0.0, 0.0] and np.ones_like(w).dtype == w.dtype
    assert np.allclose(w, [0.5, 1.5]) and np.isfinite(w).all() and not np.isnan(w).any()
    assert np.maximum(w, 1.0).tolist() == [1.0, 1.5]
    assert np.logical_not(w > 1).tolist() == [1.0, 0.0]
    assert max(v, Value(2.0)).item() == 2.0 and sorted([Value(3.0), Value(1.0)])[0].item() == 1.0
    assert sum([v, v, v]).item() == 1.5 and math.isclose(sum(w).item(), 2.0)


def test_a_value_cannot_be_changed_in_place():
    x = Value([1.0, 2.0])
    with pytest.raises(InPlaceError):
        x[0] = 3.0
    y = x
    y += 1.0
    assert x.tolist() == [1.0, 2.0] and y.tolist() == [2.0, 3.0]
    assert copy.copy(x).tolist() == [1.0, 2.0] and copy.deepcopy(x).tolist() == [1.0, 2.0]


# Object arrays


def test_object_arrays_of_scalar_values():
    a, b = Value(1.0), Value(2.0)
    o = np.array([a, b], dtype=object)
    assert o.shape == (2,) and o[0] is a
    (o * o).sum().backward()
    assert (a.grad, b.grad) == (2.0, 4.0)
    c = Value(3.0)
    for product in (o * c, c * o, o * 3.0, np.multiply(o, c), o + c - c + 2 * o):
        assert isinstance(product, np.ndarray) and product.dtype == object
        assert [v.item() for v in product] == [3.0, 6.0]
    assert [v.item() for v in np.sin(o)] == [np.sin(1.0), np.sin(2.0)]
    assert [v.item() for v in np.exp(o) / np.sqrt(o)] == pytest.approx([np.e, np.e**2 / 2**0.5])
    assert np.dot(o, o).item() == 5.0 and (o @ np.array([[1.0, 2.0], [3.0, 4.0]]))[1].item() == 10.0
    assert (o**2)[1].item() == 4.0 and (-o)[0].item() == -1.0
    assert np.mean(np.array([[a, b], [b, b]], dtype=object), axis=0)[0].item() == 1.5
    assert (o > 1.5).tolist() == [False, True]


def test_item_assignment_in_object_arrays():
    state = np.zeros((2, 2), dtype=object)
    v = Value(2.0)
    state[0, 0] = v
    state[1] = [v * v, 1.0]
    state[0] += 1.0
    total = np.sum(state)
    total.backward()
    assert total.item() == 9.0 and v.grad == 5.0 and state[0, 0].item() == 3.0


def test_object_arrays_meet_array_values():
    a, b = Value(1.0), Value(2.0)
    o, x = np.array([a, b], dtype=object), Value([10.0, 20.0])
    total = np.sum(o * x) + np.sum(x * o)
    total.backward()
    assert total.item() == 100.0 and (a.grad, b.grad) == (20.0, 40.0) and x.grad.tolist() == [2.0, 4.0]
    s = tg.stack(o)
    assert s.tolist() == [1.0, 2.0] and np.concatenate([s, x]).shape == (4,)
    assert np.matmul(np.array([[a, b]], dtype=object), np.array([[b], [a]], dtype=object))[0, 0].item() == 4.0


def test_object_arrays_hold_scalars_only():
    o = np.empty(2, object)
    o[0], o[1] = Value(1.0), Value([1.0, 2.0])
    with pytest.raises(ShapeError, match=r"holds one of shape \(2,\)"):
        Value._of(o, o[0].tape, "a test")


# What Python and NumPy find on the class


def test_methods_that_arrays_have_are_the_class_s_own():
    # With a `__getattr__` every attribute of every Value would be found the slow way.
    assert not hasattr(Value, "__getattr__")
    x = Value([[3.0, 1.0], [2.0, 2.0]])
    for name in ("sum", "mean", "std", "max", "cumsum", "ravel", "trace", "swapaxes", "argsort"):
        assert name in dir(x) and callable(getattr(Value, name))
        args = (0, 1) if name == "swapaxes" else ()
        expected = getattr(x.numpy(), name)(*args)
        found = getattr(x, name)(*args)
        np.testing.assert_array_equal(found.numpy() if isinstance(found, Value) else found, expected)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        getattr(x, "nothing_like_it")  # noqa: B009


def test_operators_and_views_make_values_of_the_class_they_find():
    class Own(Value):
        pass

    a, x = Own(2.0), Own([1.0, 2.0, 3.0])
    o = np.array([a, a], dtype=object)
    for made in (a * a, 2.0 * a, -a, a + Value(1.0), x + a, x * Value(1.0), np.sin(x), x[1], x[1:], x[[0, 2]], x.T,
                 x.reshape(3, 1), x.detach(), x + o[0], Own._of(o, a.tape, "a test")):  # fmt: skip
        assert type(made) is Own
    assert (x + a).tolist() == [3.0, 4.0, 5.0] and (a + Value(1.0)).item() == 3.0


def test_shapes_are_integers_of_python():
    # Layouts are remembered, and integers of NumPy are equal to those of Python.
    x = Value(np.arange(210.0)).reshape(np.int64(30), np.int32(7))
    assert [type(n) for n in x.shape] == [int, int]
    assert [type(n) for n in Value(np.arange(210.0)).reshape(30, 7).shape] == [int, int]


def test_parts_of_a_vector():
    x = Value(np.arange(7.0))
    numbers = x.numpy()
    bounds = [None, -9, -7, -3, -1, 0, 2, 6, 7, 9]
    for start in bounds:
        for stop in bounds:
            for step in (None, 1, 2, -1, -3, 10):
                part = slice(start, stop, step)
                np.testing.assert_array_equal(x[part].numpy(), numbers[part])
    assert [x[i].item() for i in range(-7, 7)] == [numbers[i] for i in range(-7, 7)]
    for i in (7, -8):
        with pytest.raises(IndexError, match="out of range"):
            x[i]
    for wrong in (True, 1.0):
        with pytest.raises(UnsupportedError):
            x[wrong]
    with pytest.raises(TypeError):
        x[1.0:]


def test_a_masked_array_on_the_left_is_refused_by_its_mask():
    held = np.ma.masked_array(np.arange(3.0), [0, 1, 0])
    for operation in (lambda v: held * v, lambda v: held + v, lambda v: held - v, lambda v: held / v):
        with pytest.raises(UnsupportedError, match="mask of an np.ma array"):
            operation(tg.Value(np.ones(3)))
        with pytest.raises(UnsupportedError, match="mask of an np.ma array"):
            tg.grad(lambda x, operation=operation: np.sum(operation(x)))(np.ones(3))
