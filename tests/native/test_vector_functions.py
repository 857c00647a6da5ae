"""Functions that are written into loops: right to about two units in the last place, everywhere, in vectors of any
length, and on processors that round products before they add."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.compiled import vector
from tapegrad.native import build, vector_functions
from tapegrad.native.width import lanes_of

DTYPES = [np.float64, np.float32]
NAMES = sorted(vector_functions.NAMES)
# The largest error allowed, in units in the last place.
MOST = {"exp": 1.15, "expm1": 1.9, "tanh": 2.5, "log": 0.9, "log1p": 1.45}
TRUE = {name: getattr(np, name) for name in NAMES}


def points(name, dtype, count=20_000):
    """Random points over the whole range of a function, and some that are special."""
    rng, info = np.random.default_rng(len(name)), np.finfo(dtype)
    ends = {"exp": (-746, 710), "expm1": (-50, 710), "tanh": (-25, 25)} if dtype == np.float64 else {
        "exp": (-87, 89), "expm1": (-30, 89), "tanh": (-12, 12)}  # fmt: skip
    low, high = ends.get(name, (0, 10))
    sizes = np.exp(rng.uniform(np.log(float(info.tiny)), np.log(min(float(info.max), 1e300)), count))
    small = np.exp(rng.uniform(-20, 1, count)) * rng.choice([-1, 1], count)
    x = np.concatenate([rng.uniform(low, high, count), sizes, 1.0 + small * 1e-3, small])
    if name == "log":
        x = np.abs(x)
    if name == "log1p":
        x = np.maximum(x, -1.0 + float(info.eps))
    return x.astype(dtype)


def special(dtype):
    info = np.finfo(dtype)
    tiny, most = float(info.tiny), float(info.max)
    return np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, -2.0, tiny, -tiny, most, -most, 2.0 * tiny, 1e-30, -1e-30, 20.0,
         -20.0, 1000.0, -1000.0, 0.5, -0.5], dtype,
    )  # fmt: skip


def units(found, true, dtype):
    """The largest error in units in the last place of what is right, where that is no subnormal float32."""
    with np.errstate(all="ignore"):
        right = true.astype(dtype)
        off = np.abs(found.astype(np.longdouble) - true) / np.spacing(np.abs(right)).astype(np.longdouble)
    counts = np.isfinite(right) & ((dtype == np.float64) | (np.abs(right) >= np.finfo(dtype).tiny))
    assert np.isfinite(found[counts]).all()
    return float(off[counts].max())


def check(name, dtype, call, more=0.0):
    x, ends = points(name, dtype), special(dtype)
    with np.errstate(all="ignore"):
        true = TRUE[name](x.astype(np.longdouble))
        right = TRUE[name](ends.astype(np.longdouble)).astype(dtype)
    if np.finfo(np.longdouble).nmant > 60:
        assert units(call(x), true, dtype) < MOST[name] + more
    found = call(ends)
    for at, a, b in zip(ends, found, right):
        close = abs(a - b) <= 3 * np.spacing(abs(b)) if np.isfinite(b) else a == b
        signs = np.signbit(a) == np.signbit(b)
        assert (np.isnan(a) and np.isnan(b)) or (close and signs), f"{name}({at}) = {a}, not {b}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_in_a_program(name, dtype):
    function = getattr(np, name)

    def call(x):
        # So long that whole vectors, and several, are filled.
        many = np.resize(x, max(len(x), 4096))
        recording = tg.record(function, many, compile=True)
        return recording(many)[: len(x)]

    check(name, dtype, call)


def compiled_alone(name, bits, lanes, fused=True):
    """A function of arrays that is made of a function for vectors alone."""
    own, text, declared = vector_functions.definition(name, bits, lanes)
    kind, size = {64: "double", 32: "float"}[bits], bits // 8
    whole = f"<{lanes} x {kind}>"
    if not fused:
        # As on a processor that cannot do both at once.
        plain = f"llvm.fmuladd.v{lanes}f{bits}"
        text = text.replace(plain, "separate")
        three = ", ".join(f"{whole} %{x}" for x in "abc")
        declared = (f"define internal {whole} @separate({three}) alwaysinline {{\n%p = fmul {whole} %a, %b\n"
                    f"%s = fadd {whole} %p, %c\nret {whole} %s\n}}")  # fmt: skip
    module = f"""{declared}
{text}
define i64 @tapegrad_program(ptr %x, ptr %n) {{
begin:
  %count = ptrtoint ptr %n to i64
  br label %loop
loop:
  %i = phi i64 [0, %begin], [%next, %loop]
  %p = getelementptr {kind}, ptr %x, i64 %i
  %v = load {whole}, ptr %p, align {size}
  %r = call {whole} @{own}({whole} %v)
  store {whole} %r, ptr %p, align {size}
  %next = add i64 %i, {lanes}
  %go = icmp ult i64 %next, %count
  br i1 %go, label %loop, label %end
end:
  ret i64 0
}}"""
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(build.address_of(module, False))

    def call(x):
        found = np.zeros(-(-len(x) // lanes) * lanes, x.dtype)
        found[: len(x)] = x
        run(found.ctypes.data, len(found))
        return found[: len(x)]

    return call


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_vectors_of_any_length_give_the_same(name, dtype):
    bits, x = 8 * np.dtype(dtype).itemsize, np.concatenate([points(name, dtype, 500), special(dtype)])
    first = compiled_alone(name, bits, 2)(x)
    for lanes in (4, 8, 32):
        assert compiled_alone(name, bits, lanes)(x).tobytes() == first.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_without_products_that_are_added_at_once(name, dtype):
    check(name, dtype, compiled_alone(name, 8 * np.dtype(dtype).itemsize, 4, fused=False), more=0.9)


def test_many_functions_are_called_not_written_out():
    x = np.random.default_rng(0).normal(size=2000)

    def often(x):
        for k in range(90):
            x = np.tanh(x + 0.01 * k) if k % 2 else np.exp(-x)
        return x

    compiled = tg.record(often, x, compile=True)
    np.testing.assert_allclose(compiled(x), tg.record(often, x, compile=False)(x), rtol=1e-12)


def test_the_slope_of_tanh_is_never_negative():
    x = np.linspace(-25.0, 25.0, 100_001)
    gradient = tg.record(lambda x: np.sum(np.tanh(x)), x, compile=True).grad(x)
    assert (gradient >= 0.0).all()
    assert gradient[0] == gradient[-1] == 0.0


def test_loops_are_widened_where_functions_are_written_into_them():
    from tapegrad.native.schedule import Schedule

    lanes = vector.register_bits() // 64

    def of(f, n):
        return lanes_of(Schedule(tg.record(f, np.ones(n)).program), np.dtype(np.float64))

    assert of(np.tanh, 10_000) > lanes
    assert of(lambda x: x * x, 10_000) == of(np.tanh, 70) == lanes


def test_functions_of_c_where_the_environment_says_so():
    text = """
import math
import numpy as np
import tapegrad as tg
x = np.linspace(-3.0, 3.0, 2001)
for function, true in ((np.exp, math.exp), (np.tanh, math.tanh)):
    recording = tg.record(function, x, compile=True)
    assert recording(x).tolist() == [true(y) for y in x], function
print("same")
"""
    done = subprocess.run(
        [sys.executable, "-c", text], env=os.environ | {"TAPEGRAD_MATH": "libm"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout == "same\n", done.stderr[-2000:]
