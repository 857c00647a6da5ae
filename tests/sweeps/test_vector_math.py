"""Functions of arrays from libmvec: accuracy, special values, and that it does not matter where a number stands."""

import os
import subprocess
import sys

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.compiled import vector
from tapegrad.ops import BY_NAME

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 1e-310, 1e308, -1e308, 0.5, 710.0, -746.0, 1e-20, 3.5]
RANGES = {
    "exp": (-700, 700), "exp2": (-1000, 1000), "expm1": (-40, 700), "log": (1e-300, 1e300), "log2": (1e-10, 1e10),
    "log10": (1e-10, 1e10), "log1p": (-0.99, 1e10), "sin": (-100, 100), "cos": (-100, 100), "tan": (-1.5, 1.5),
    "arcsin": (-1, 1), "arccos": (-1, 1), "arctan": (-50, 50), "sinh": (-700, 700), "cosh": (-700, 700),
    "tanh": (-20, 20), "arcsinh": (-50, 50), "arccosh": (1, 50), "arctanh": (-0.999, 0.999),
}  # fmt: skip
NAMES = list(RANGES)


def points(name, dtype, n=5003):
    low, high = RANGES[name]
    if dtype == np.float32:
        low, high = max(low, -80.0), min(high, 80.0)
    rng = np.random.default_rng(0)
    even = rng.uniform(low, high, n)
    small = rng.uniform(-1.0, 1.0, n) * 10.0 ** rng.uniform(-6, 0, n)
    return np.concatenate([even, small[(small >= low) & (small <= high)]]).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name, dtype):
    f, x = getattr(np, name), points(name, dtype)
    found = tg.record(lambda x: f(x), x)(x)
    wanted = f(x.astype(np.longdouble))
    error = np.abs(found - wanted) / np.spacing(np.abs(wanted).astype(dtype))
    assert found.dtype == dtype and error.max() < 4.5


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_special_values_are_those_of_numpy(name, dtype):
    f, x = getattr(np, name), np.array(SPECIAL * 3).astype(dtype)
    found = tg.record(lambda x: f(x), x)(x)
    np.testing.assert_allclose(found, f(x), rtol=4.5 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny * 4)
    np.testing.assert_array_equal(np.signbit(found)[f(x) == 0], np.signbit(f(x))[f(x) == 0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "name", ["exp", "sin", "tanh", "log1p", "arctan2", "power", "logaddexp", "erf", "softplus", "gelu"])
def test_a_result_does_not_depend_on_where_its_number_stands(name, dtype):
    operation = BY_NAME[name]

    def f(*x):
        return operation(*x)

    x = [np.full(45, 0.3 + 0.4 * k, dtype) for k in range(operation.arity)]
    for stop in (17, 18, 21, 24, 31, 32, 45):
        part = [a[:stop] for a in x]
        value, pullback = tg.vjp(f, *part)
        for found in (value, tg.jvp(f, part, part)[1], *pullback(np.ones(stop, dtype))):
            assert len(set(found.tolist())) == 1


def test_a_function_that_is_not_called_for_zero_adjoints_passes_nothing():
    # The partial derivative of sinh overflows where its adjoint is zero.
    x, weight = np.array([1000.0, 1.0] * 20), np.array([0.0, 1.0] * 20)
    grad = tg.grad(lambda x: np.sum(np.where(weight == 0.0, 0.0, np.sinh(x))))(x)
    np.testing.assert_allclose(grad, np.where(weight == 0.0, 0.0, np.cosh(1.0)), rtol=1e-15)


def run(setting):
    code = (
        "import numpy as np, tapegrad as tg\n"
        "from tapegrad.compiled import vector\n"
        "x = np.linspace(-3.0, 3.0, 40)\n"
        "print(vector.settings(), tg.record(lambda x: np.exp(x), x)(x).tobytes().hex())"
    )
    environment = {**os.environ, "TAPEGRAD_MATH": setting}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_the_switch():
    done = run("libm")
    assert done.returncode == 0 and done.stdout.startswith("libmvec False"), done.stderr
    found = np.frombuffer(bytes.fromhex(done.stdout.split()[-1]))
    np.testing.assert_allclose(found, np.exp(np.linspace(-3.0, 3.0, 40)), rtol=3e-16)
    refused = run("fast")
    assert refused.returncode and "TAPEGRAD_MATH must be 'vector' or 'libm', not 'fast'" in refused.stderr


@pytest.mark.skipif(vector.library() is None, reason="libmvec is not there")
def test_libmvec_is_used_where_it_is_there():
    found = vector.function_of("exp", "double")
    assert found.vector.startswith("_ZGV") and found.lanes >= 2
    assert vector.function_of("erf", "float").name == "erff" == vector.function_of("erff", "float").name
    assert vector.function_of("lgamma", "double") is None
    text = "\n".join([
        "define double @f(double %x) {", "%y = call double @llvm.exp.f64(double %x)", "ret double %y", "}",
        "declare double @llvm.exp.f64(double)"])  # fmt: skip
    functions = {}
    marked = vector._marked(text, functions)
    assert list(functions) == ["exp"] and "vector-function-abi-variant" in marked
    assert vector._replaced(marked, functions).count("@tapegrad_exp_1(") == 2
