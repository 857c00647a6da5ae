"""`Value`: operators, attributes, gradients, NumPy's protocols, object arrays."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value, nn
from tapegrad.errors import ShapeError, UnsupportedAttributeError

OPERATORS = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "/": lambda x, y: x / y,
    "**": lambda x, y: x**y,
    "%": lambda x, y: x % y,
    "//": lambda x, y: x // y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
}
OTHERS = {
    "float": 2.5,
    "int": 2,
    "bool": True,
    "np.float64": np.float64(1.5),
    "np.float32": np.float32(1.5),
    "np.int64": np.int64(3),
    "0-d array": np.array(2.5),
    "array": np.array([1.0, 2.0, 3.5]),
    "int array": np.array([1, 2, 3]),
    "bool array": np.array([True, True, True]),
    "list": [1.0, 2.0, 3.5],
    "matrix": np.array([[1.0], [2.0]]),
}


@pytest.mark.parametrize("symbol", OPERATORS)
@pytest.mark.parametrize("kind", OTHERS)
def test_operators_with_plain_numbers_and_arrays_on_either_side(symbol, kind):
    f, other = OPERATORS[symbol], OTHERS[kind]
    for data in (1.75, np.array([0.5, 1.25, 3.5])):
        v, plain = Value(data), np.asarray(data)
        with np.errstate(all="ignore"):
            pairs = [
                (f(v, other), f(plain, np.asarray(other))),
                (f(other, v), f(np.asarray(other), plain)),
                (f(v, Value(np.asarray(other, float))), f(plain, np.asarray(other, float))),
            ]
        for got, expected in pairs:
            assert isinstance(got, Value)
            assert got.shape == expected.shape
            np.testing.assert_allclose(got.data, expected, rtol=1e-15)


def test_operators_on_strangers():
    v = Value(1.0)
    assert (v == None) is False and (v != None) is True  # noqa: E711
    assert (v == "one") is False
    for other in ("one", None, object(), {}, 1j):
        with pytest.raises(TypeError):
            v + other
        with pytest.raises(TypeError):
            other * v
    assert v in [v]


def test_unary_operators():
    v, x = Value(-2.5), Value([-2.5, 1.0])
    assert (-v).item() == 2.5 and abs(v).item() == 2.5 and (+v).item() == -2.5
    assert (-x).tolist() == [2.5, -1.0] and abs(x).tolist() == [2.5, 1.0]
    assert (~(x > 0)).tolist() == [1.0, 0.0]
    assert bool(Value(0.5)) and not bool(Value(0.0)) and bool(Value([2.0]))
    assert round(Value(2.375), 2).item() == 2.38 and round(Value(2.6)).item() == 3.0
    with pytest.raises(ShapeError):
        bool(x)


@pytest.mark.parametrize(
    "name",
    [
        "exp",
        "log",
        "sqrt",
        "sin",
        "cos",
        "tan",
        "tanh",
        "sinh",
        "cosh",
        "relu",
        "sigmoid",
        "square",
        "reciprocal",
        "log1p",
        "expm1",
        "arctan",
        "erf",
        "gelu",
    ],
)
def test_methods_that_tutorial_readers_expect(name):
    f = getattr(np, name, None) or getattr(tg, name)
    assert getattr(Value(0.5), name)().item() == pytest.approx(f(0.5), rel=1e-15)
    assert getattr(Value([0.5, 0.25]), name)().tolist() == pytest.approx([f(0.5), f(0.25)], rel=1e-15)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum(), lambda x: x.sum(axis=0), lambda x: x.mean(1), lambda x: x.prod(), lambda x: x.max(axis=1),
        lambda x: x.min(), lambda x: x.var(), lambda x: x.std(axis=0), lambda x: x.cumsum(1), lambda x: x.reshape(3, 2),
        lambda x: x.reshape((6,)), lambda x: x.transpose(), lambda x: x.transpose(1, 0), lambda x: x.T,
        lambda x: x.ravel(),
        lambda x: x.squeeze(), lambda x: x.clip(0, 1), lambda x: x.dot(x.T), lambda x: x.swapaxes(0, 1),
        lambda x: x.trace(),
        lambda x: x.diagonal(), lambda x: x.take([0, 1]), lambda x: x.repeat(2, axis=0), lambda x: x.round(1),
        lambda x: x.copy(),
        lambda x: x.argmax(axis=0), lambda x: x.argmin(), lambda x: x.argsort(), lambda x: x.any(), lambda x: x.all(),
        lambda x: x.flatten(), lambda x: x.astype(float), lambda x: x.tolist(), lambda x: x.size, lambda x: x.shape,
        lambda x: x.ndim, lambda x: x.dtype, lambda x: len(x),
    ],
)  # fmt: skip
def test_methods_that_numpy_users_expect(call, rng):
    a = rng.normal(size=(2, 3))
    got, expected = call(Value(a)), call(a)
    if isinstance(got, Value):
        got = got.data
    if isinstance(expected, tuple | np.dtype):
        assert got == expected
    else:
        np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_attributes():
    x = Value(np.ones((2, 3), np.float32), label="weights", requires_grad=False)
    assert (x.shape, x.ndim, x.size, x.dtype, x.label, x.requires_grad) == ((2, 3), 2, 6, np.float32, "weights", False)
    assert x.grad is None
    assert x.T.shape == (3, 2)
    x.label = "w"
    assert x.label == "w" and "w" in repr(x)
    v = Value(3)
    assert (v.shape, v.ndim, v.size, v.dtype, v.label, v.requires_grad) == ((), 0, 1, np.float64, "", True)
    assert v.data == 3.0 and isinstance(v.data, float) and v.item() == 3.0 and v.grad == 0.0
    assert (x * v.data).requires_grad is False and (v * 2).requires_grad is True
    assert f"{v:.2f}" == "3.00" and "3.0" in str(v)
    assert Value([1, 2], requires_grad=False).dtype == np.float64
    assert Value([1.0, 2.0], dtype=np.float32).dtype == np.float32


def test_a_label_belongs_to_one_value():
    x = Value([1.0, 2.0], label="x")
    x[0].label = "first"
    assert x.label == "x"
    assert x[1].label == ""


def test_data_is_a_copy():
    a = np.array([1.0, 2.0])
    x = Value(a)
    a[0] = 9.0
    assert x.tolist() == [1.0, 2.0]
    d = x.data
    x.data = [5.0, 6.0]
    assert d.tolist() == [1.0, 2.0]
    with pytest.raises((ValueError, TypeError)):
        x.data[0] = 1.0
    with pytest.raises((ValueError, TypeError)):
        x.grad[0] = 1.0
    n = x.numpy()
    n[0] = 0.0
    assert x.tolist() == [5.0, 6.0]


def test_data_assignment():
    p = Value([1.0, -2.0])
    (p * p).sum().backward()
    p.data -= 0.1 * p.grad
    assert p.data == pytest.approx([0.8, -1.6])
    p.data *= 2
    p.data += 1
    p.data /= 2
    p.data **= 2
    assert p.data == pytest.approx([1.69, 1.21])
    s = Value(1.0)
    s.data -= 0.25
    s.data = s.data * 2
    assert s.data == 1.5
    w = Value(np.zeros((2, 3)))
    w[0].data = [1.0, 2.0, 3.0]
    w.T[1].data = 7.0
    w[1, ::-2].data = [4.0, 5.0]
    assert w.tolist() == [[1.0, 7.0, 3.0], [5.0, 7.0, 4.0]]
    w.grad = np.ones((2, 3))
    assert w.T.grad.shape == (3, 2) and w[1].grad.tolist() == [1.0, 1.0, 1.0]
    w.zero_grad()
    assert not w.grad.any()


# Gradients


def test_a_value_used_twice():
    a = Value(3.0)
    b = a + a
    b.backward()
    assert a.grad == 2.0
    c = Value(2.0)
    (c * c * c).backward()
    assert c.grad == 12.0


def test_backward_accumulates_and_zero_grad_forgets():
    a = Value(3.0)
    b = a * a
    b.backward()
    b.backward()
    assert a.grad == 12.0
    a.zero_grad()
    assert a.grad == 0.0
    b.backward()
    assert a.grad == 6.0
    x = Value([1.0, 2.0])
    y = x * x
    for _ in range(3):
        y.backward([1.0, 10.0])
    assert x.grad.tolist() == [6.0, 120.0]


def test_backward_from_a_middle_value_reaches_only_what_it_depends_on():
    a, b = Value(2.0), Value(5.0)
    c = a * a
    d = c * b
    c.backward()
    assert (a.grad, b.grad, d.grad) == (4.0, 0.0, 0.0)


def test_seeds():
    x = Value(np.arange(6.0).reshape(2, 3))
    y = x * x
    seed = np.array([[1.0, 0.0, 2.0], [0.0, -1.0, 0.5]])
    y.backward(seed)
    np.testing.assert_array_equal(x.grad, 2 * x.numpy() * seed)
    x.zero_grad()
    y.T.backward(seed.T)
    np.testing.assert_array_equal(x.grad, 2 * x.numpy() * seed)
    x.zero_grad()
    y[::-1, 1].backward([1.0, 2.0])
    np.testing.assert_array_equal(x.grad, [[0, 4, 0], [0, 8, 0]])
    x.zero_grad()
    np.broadcast_to(x[0], (4, 3)).backward(np.ones((4, 3)))
    np.testing.assert_array_equal(x.grad, [[4, 4, 4], [0, 0, 0]])
    x.zero_grad()
    y.backward(1)
    np.testing.assert_array_equal(x.grad, 2 * x.numpy())
    s = Value(2.0)
    (s * s).backward(3)
    assert s.grad == 12.0


def test_gradients_of_intermediate_values_and_views():
    x = Value([1.0, 2.0, 3.0])
    y = x * 2.0
    (y[1] * y[2]).backward()
    assert y.grad.tolist() == [0.0, 6.0, 4.0]
    assert x[1].grad == 12.0 and x[::-1].grad.tolist() == [8.0, 12.0, 0.0]


def test_backward_from_a_part_after_backward_from_the_whole():
    x = Value([1.0, 2.0, 3.0])
    y = x * x
    y.backward([1.0, 1.0, 1.0])
    for part, expected in ((0, [2.0, 0.0, 0.0]), (1, [0.0, 4.0, 0.0]), (-1, [0.0, 0.0, 6.0])):
        x.zero_grad()
        y[part].backward()
        assert x.grad.tolist() == expected
    z = np.cumsum(y)
    z.backward([1.0, 1.0, 1.0])
    x.zero_grad()
    z[1].backward()
    assert x.grad.tolist() == [2.0, 4.0, 0.0]


def test_setting_requires_grad_says_how_to_freeze():
    layer = nn.Linear(2, 1, rng=0)
    for value in (layer.weight, Value(1.0)):
        with pytest.raises(UnsupportedAttributeError, match="make the optimiser with the other parts"):
            value.requires_grad = False
        assert value.requires_grad


def test_detach_and_requires_grad():
    a = Value(3.0)
    b = a.detach() * a
    b.backward()
    assert a.grad == 3.0 and a.detach().item() == 3.0 and not a.detach().requires_grad
    x, w = Value([1.0, 2.0], requires_grad=False), Value([3.0, 4.0])
    (x * w).sum().backward()
    assert w.grad.tolist() == [1.0, 2.0] and x.grad is None


def test_tutorial_expressions():
    a, b, c, f = Value(2.0), Value(-3.0), Value(10.0), Value(-2.0)
    e = a * b
    d = e + c
    loss = d * f
    loss.backward()
    assert loss.data == -8.0
    assert [v.grad for v in (loss, f, d, e, c, a, b)] == [1.0, 4.0, -2.0, -2.0, -2.0, 6.0, -4.0]

    x1, x2, w1, w2 = Value(2.0), Value(0.0), Value(-3.0), Value(1.0)
    bias = Value(6.8813735870195432)
    o = (x1 * w1 + x2 * w2 + bias).tanh()
    o.backward()
    assert o.data == pytest.approx(0.7071067811865476, rel=1e-14)
    assert [v.grad for v in (x1, w1, x2, w2)] == pytest.approx([-1.5, 1.0, 0.5, 0.0], rel=1e-12)

    x, z = Value(2.0), Value(-1.5)
    y = 3 * x**3 + 4 * x + 1 + x * z
    y.backward()
    assert (y.data, x.grad, z.grad) == (30.0, 38.5, 2.0)
    assert ((Value(3) * 4 + 5) * 2).data == 34.0


def test_micrograd_readme_expression():
    micrograd = pytest.importorskip("micrograd.engine")

    def expression(V):
        a, b = V(-4.0), V(2.0)
        c = a + b
        d = a * b + b**3
        c += c + 1
        c += 1 + c + (-a)
        d += d * 2 + (b + a).relu()
        d += 3 * d + (b - a).relu()
        e = c - d
        f = e**2
        g = f / 2.0
        g += 10.0 / f
        g.backward()
        return g.data, a.grad, b.grad

    assert expression(Value) == pytest.approx(expression(micrograd.Value), rel=1e-14)
