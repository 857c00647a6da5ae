"""Floats of several widths in one function: promoted as NumPy promotes arrays, gradients of each argument's dtype."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import DTypeError, StructureError, UnsupportedError
from tapegrad.nn import MLP, Training
from tapegrad.optim import SGD

X16, X32, X64 = (np.array([0.25, -0.5, 1.5]).astype(d) for d in ("f2", "f4", "f8"))
# Not a number of float32, so that it shows in which dtype was computed.
C64 = np.array([0.1, 0.2, 0.7])
C32 = C64.astype(np.float32)


@pytest.mark.parametrize("x", [X16, X32, X64], ids=str)
@pytest.mark.parametrize("c", [C64, C32, C64.astype(np.float16), C64.astype(">f8")], ids=lambda c: c.dtype.str)
def test_a_constant_array_of_another_dtype(x, c):
    def f(x):
        return np.sum(x * x * c)

    value, g = tg.value_and_grad(f)(x)
    assert g.dtype == x.dtype
    exact = np.result_type(x, c, np.float32)
    expected = np.sum(x.astype(exact) ** 2 * c.astype(exact))
    assert value == pytest.approx(float(expected), rel=4 * float(np.finfo(exact).eps))
    assert np.array_equal(g, (2.0 * x.astype(exact) * c.astype(exact)).astype(x.dtype))


def test_constants_of_float64_make_the_whole_recording_float64():
    r = tg.record(lambda x: np.sum(x * C64), X32)
    other = np.array([3.0, 5.0, 7.0], np.float32)
    assert r(other) == np.sum(other * C64) and r.program.code.dtype == np.float64
    # A number that is no array decides nothing, as Python's floats do not.
    assert tg.record(lambda x: np.sum(x * np.float64(0.1)), X32).program.code.dtype == np.float32


def test_arguments_of_several_dtypes():
    f = tg.value_and_grad(lambda p, y: np.sum(p["a"] * y * p["b"]), argnums=(1, 0))
    a, b, y = X32, X16, C64
    value, (gy, gp) = f({"a": a, "b": b}, y)
    assert value == np.sum(a * y * b.astype(float))
    assert (gp["a"].dtype, gp["b"].dtype, gy.dtype) == (np.float32, np.float16, np.float64)
    assert np.array_equal(gp["a"], (y * b).astype(np.float32)) and np.array_equal(gy, a.astype(float) * b)


def curved(x):
    return np.sum(np.exp(x * C64) + (np.sin(x) if x[0] > 0.5 else x * x))


@pytest.mark.parametrize("mode", [True, False, None])
@pytest.mark.parametrize("x", [X32, X32 + np.float32(1.0)], ids=["one branch", "the other"])
def test_derivatives_of_every_kind_have_the_dtype_of_the_argument(x, mode):
    wide = x.astype(float)
    for of, further in [(tg.grad, ()), (tg.jacobian, ()), (tg.hessian, ())]:
        found, exact = of(curved, compile=mode)(x, *further), of(curved)(wide)
        assert found.dtype == np.float32 and np.allclose(found, exact, rtol=2e-7, atol=1e-7)
    found = tg.hvp(curved, (x,), (C32,), compile=mode)
    assert found.dtype == np.float32 and np.allclose(found, tg.hvp(curved, (wide,), (C32.astype(float),)), rtol=2e-7)
    value, pull = tg.vjp(curved, x)
    assert value == pytest.approx(curved(wide), rel=1e-14) and pull(1.0)[0].dtype == np.float32
    assert tg.make_hvp(curved)(x)(C32).dtype == np.float32


def test_a_branch_met_later_may_need_float64():
    r = tg.record(lambda x: np.sum(x * x) if x[0] < 1.0 else np.sum(x * C64), X32)
    assert r.program.code.dtype == np.float32
    far = X32 + np.float32(2.0)
    assert r(far) == np.sum(far * C64)
    for _ in range(2):
        assert np.array_equal(r.grad(far), C32) and np.array_equal(r.grad(X32), 2 * X32)
    assert r.stats().branches == 2


def test_gradients_inside_of_recordings():
    outer = tg.grad(lambda x: np.sum(tg.grad(curved)(x) ** 2))
    wide = tg.grad(lambda x: np.sum(tg.grad(curved)(x) ** 2))(X64)
    assert outer(X32).dtype == np.float32 and np.allclose(outer(X32), wide, rtol=1e-6)


def test_what_a_function_makes_float64_inside():
    def f(x):
        return np.sum(x.astype(float) * C64) + Value(C64, requires_grad=False)[0]

    value, g = tg.value_and_grad(f)(X32)
    assert value == np.sum(X32 * C64) + 0.1 and np.array_equal(g, C32)


@pytest.mark.parametrize("mode", [True, False])
def test_a_derivative_that_is_a_program_of_its_own_is_float64_too(mode):
    def f(x):
        return np.sum(np.exp(x) * C64)

    value, g = tg.value_and_grad(f, compile=mode)(X32)
    assert value == pytest.approx(f(X32.astype(float)), rel=1e-15) and g.dtype == np.float32


def test_an_error_of_the_first_try_in_float32_is_not_the_user_s():
    def f(x):
        y = x * C64
        if y.dtype == np.float32:
            raise ValueError("computed in float32")
        return np.sum(y)

    assert np.array_equal(tg.grad(f)(X32), C32)


def test_what_stays_an_error():
    with pytest.raises(DTypeError, match=r"whose tape has one dtype.*astype\(np.float32\)"):
        Value(X32) * C64
    with pytest.raises(DTypeError, match="float64 cannot become float32"):
        tg.grad(lambda x: np.sum(x.astype(np.float32)))(X64)
    with pytest.raises(UnsupportedError, match="mask"):
        tg.grad(lambda x: np.sum(x * np.ma.masked_array(X64, [0, 1, 0])))(X64)
    with pytest.raises(ValueError, match="own"):
        tg.grad(lambda x: _raising())(X32)


def _raising():
    raise ValueError("own")


def test_an_eager_value_takes_narrower_arrays():
    x = Value(X64)
    np.sum(x * C32).backward()
    assert np.array_equal(x.grad, C32.astype(float))


def test_training_keeps_its_dtype():
    model = MLP([3, 4, 2], dtype=np.float32)
    x, y = np.ones((8, 3), np.float32), np.zeros(8, int)
    weights = np.linspace(0.1, 1.0, 8)[:, None]

    def loss(output, y):
        return np.sum(output * weights)

    with pytest.raises(DTypeError, match=r"array of float64, its parameters are float32.*astype\(np.float32\)"):
        Training(model, SGD(model, 0.1), loss=loss, batch_size=8).epoch(x, y)


@pytest.mark.parametrize("w", [2.0, np.ones(2), MLP([2, 1])])
def test_an_object_array_without_values_is_no_array_of_numbers(w):
    """Beside a model it was taken for one of Values, and the value came back as one."""
    given = np.array([[1.0, 2.0]], object)
    f = lambda w, x: np.sum(w(x) if isinstance(w, MLP) else w * x)
    for derivative in (tg.value_and_grad, tg.grad, tg.hessian):
        with pytest.raises(DTypeError, match="an argument is an array of object; arrays must be real"):
            derivative(f)(w, given)


def test_a_memoryview_is_no_argument():
    with pytest.raises(StructureError, match="an argument holds a memoryview, which is neither"):
        tg.grad(lambda w, x: w * len(x))(1.0, memoryview(np.ones(3)))
