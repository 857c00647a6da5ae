"""Elementwise functions that are put together from operations of the table, and what is trivial for real numbers."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from tapegrad.errors import ShapeError
from tapegrad.functions.choosing import isfinite, isnan, signbit, where
from tapegrad.functions.joining import values
from tapegrad.functions.registry import if_there, implements, only_default, refuse, to_value
from tapegrad.ops.transcendental import LN2
from tapegrad.value import Value, number_of

refuse(
    "it is about how floats lie beside each other, and has no derivative; compute it of v.data",
    np.nextafter, np.spacing,
)  # fmt: skip
refuse(
    "numbers on a tape have no bits; multiply or divide by 2.0**n, or take the int of a number first, by int(v)",
    np.left_shift, np.right_shift, np.bitwise_count, np.packbits, np.unpackbits,
)  # fmt: skip
refuse("it is for integers; take them first, by int(v) or v.astype(int)", np.gcd, np.lcm)
refuse("a Value holds real numbers, and no dates", np.isnat)

implements(np.around)(lambda a, decimals=0, out=None: np.round(a, decimals, out))
implements(*if_there("fix"))(lambda x, out=None: np.trunc(x) if out is None else only_default("fix", out=out))
implements(np.divmod)(lambda x, y: (np.floor_divide(x, y), np.remainder(x, y)))
implements(np.conjugate, np.real, np.real_if_close)(lambda x, tol=None: to_value(x, "real"))
implements(np.imag)(lambda x: x.imag)
implements(np.isreal)(lambda x: np.ones(x.shape, bool)[()])
implements(np.iscomplex)(lambda x: np.zeros(x.shape, bool)[()])
implements(np.isrealobj)(lambda x: True)
implements(np.iscomplexobj)(lambda x: False)
implements(*if_there("astype"))(lambda x, dtype, /, *, copy=True, device=None: x.astype(dtype))


@implements(np.copy)
def copy(a: Any, order: str = "K", subok: bool = False) -> Value:
    """A copy."""
    return cast(Value, a.copy())


@implements(np.angle)
def angle(z: Any, deg: bool = False) -> Value:
    """The angle of a real number: 0, or pi (180 degrees) where it is negative; zero derivative."""
    return where(isnan(z), np.nan, where(signbit(z), 180.0 if deg else math.pi, 0.0))


@implements(np.isposinf)
def isposinf(x: Any, out: Any = None) -> Value:
    """Where x is infinite and positive."""
    only_default("isposinf", out=out)
    return cast(Value, x == np.inf)


@implements(np.isneginf)
def isneginf(x: Any, out: Any = None) -> Value:
    """Where x is infinite and negative."""
    only_default("isneginf", out=out)
    return cast(Value, x == -np.inf)


@implements(np.copysign)
def copysign(x: Any, y: Any) -> Value:
    """|x| with the sign of y."""
    x, y = values("copysign", x, y)
    return cast(Value, np.abs(x) * where(signbit(y), -1.0, 1.0))


@implements(np.heaviside)
def heaviside(x1: Any, x2: Any) -> Value:
    """0 where x1 < 0, 1 where x1 > 0, x2 where x1 = 0; zero derivative with respect to x1."""
    x, at_zero = values("heaviside", x1, x2)
    step = where(x == 0.0, at_zero, where(x > 0.0, 1.0, 0.0))
    return where(x != x, np.nan, step)


@implements(np.logaddexp2)
def logaddexp2(x1: Any, x2: Any) -> Value:
    """log2(2^x + 2^y)."""
    x, y = values("logaddexp2", x1, x2)
    return cast(Value, np.logaddexp(x * LN2, y * LN2) / LN2)


@implements(np.fmax)
def fmax(x1: Any, x2: Any) -> Value:
    """The larger of two, or the one that is not NaN; a tie is shared equally."""
    x, y = values("fmax", x1, x2)
    return where(x != x, y, where(y != y, x, np.maximum(x, y)))


@implements(np.fmin)
def fmin(x1: Any, x2: Any) -> Value:
    """The smaller of two, or the one that is not NaN; a tie is shared equally."""
    x, y = values("fmin", x1, x2)
    return where(x != x, y, where(y != y, x, np.minimum(x, y)))


@implements(np.fmod)
def fmod(x1: Any, x2: Any) -> Value:
    """x - y trunc(x / y): the remainder with the sign of x."""
    x, y = values("fmod", x1, x2)
    rest = np.remainder(np.abs(x), np.abs(y))
    return where(x < 0.0, -rest, rest)


@implements(np.modf)
def modf(x: Any) -> tuple[Value, Value]:
    """The part behind the point, and the whole part, both with the sign of x."""
    whole = np.trunc(x)
    return where(np.abs(x) == np.inf, 0.0 * np.sign(whole), x - whole), whole


@implements(np.frexp)
def frexp(x: Any) -> tuple[Value, Any]:
    """m and e with x = m 2^e and 0.5 <= |m| < 1. Exponents are plain integers, to which guards hold replays."""
    usual = np.logical_and(isfinite(x), x != 0.0)
    size = where(usual, np.abs(x), 1.0)
    e = np.floor(np.log2(size)) + 1.0
    # The logarithm of what is nearly a power of two may be rounded to that of the power.
    m = _scaled(size, -e)
    e = e + where(m >= 1.0, 1.0, where(m < 0.5, -1.0, 0.0))
    whole = where(usual, e, 0.0).astype(np.int32)
    return _scaled(x, -whole), whole


@implements(np.ldexp)
def ldexp(x1: Any, x2: Any) -> Value:
    """x 2^n, for an integer n."""
    return _scaled(x1, number_of(x2))


def _scaled(x: Any, n: Any) -> Any:
    # In two steps: either power is a float where the result is one.
    half = np.trunc(n / 2)
    powers = np.exp2(half), np.exp2(n - half)
    if isinstance(x, Value) and not isinstance(n, Value):
        powers = powers[0].astype(x.dtype), powers[1].astype(x.dtype)
    return x * powers[0] * powers[1]


@implements(np.vecdot)
def vecdot(x1: Any, x2: Any, *, axis: int = -1) -> Value:
    """The inner products of vectors that lie along an axis."""
    x, y = (np.moveaxis(z, axis, -1) for z in values("vecdot", x1, x2))
    if x.shape[-1] != y.shape[-1]:
        raise ShapeError(f"vecdot: vectors of {x.shape[-1]} and {y.shape[-1]} numbers do not fit")
    return cast(Value, np.sum(x * y, -1))


@implements(*if_there("matvec"))
def matvec(x1: Any, x2: Any) -> Value:
    """Matrices times vectors."""
    return cast(Value, np.matmul(x1, np.expand_dims(x2, -1))[..., 0])


@implements(*if_there("vecmat"))
def vecmat(x1: Any, x2: Any) -> Value:
    """Vectors times matrices."""
    return cast(Value, np.matmul(np.expand_dims(x1, -2), x2)[..., 0, :])


@implements(np.sinc)
def sinc(x: Any) -> Value:
    """sin(pi x) / (pi x), and 1 at 0; its derivatives are accurate near 0 too."""
    y = np.pi * x
    near = np.abs(y) < 1.0
    square = where(near, y, 0.0) ** 2
    series = 0.0 * square
    for k in range(9, -1, -1):
        series = series * square + (-1.0) ** k / math.factorial(2 * k + 1)
    far = where(near, 1.0, y)
    return where(near, series, np.sin(far) / far)


@implements(np.i0)
def i0(x: Any) -> Value:
    """The modified Bessel function of order 0, as the mean of cosh(x cos t) over a circle.

    The mean over 256 points is exact to rounding, for all x whose result is a float.
    """
    points = np.cos((np.arange(64) + 0.5) * (np.pi / 128.0)).astype(x.dtype)
    return cast(Value, np.mean(np.cosh(np.expand_dims(x, -1) * points), -1))


@implements(np.nan_to_num)
def nan_to_num(x: Any, copy: bool = True, nan: Any = 0.0, posinf: Any = None, neginf: Any = None) -> Value:
    """NaN and infinities replaced by numbers, the largest floats by default; no gradient flows there."""
    limits = np.finfo(x.dtype)
    x = where(isnan(x), nan, x)
    x = where(x == np.inf, float(limits.max) if posinf is None else posinf, x)
    return where(x == -np.inf, float(limits.min) if neginf is None else neginf, x)
