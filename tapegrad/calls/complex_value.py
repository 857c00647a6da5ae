"""Complex numbers as two Values: what Fourier transforms return.

Tapes hold real numbers. A complex array is a pair of Values beside each other, and what is computed with it is recorded
as operations on these two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.errors import CutGradientError, UnsupportedError
from tapegrad.value import Value

# For each NumPy function or ufunc what it is for a complex array; `fourier` adds the transforms.
IMPLEMENTATIONS: dict[Any, Callable[..., Any]] = {}


class ComplexValue:
    """A complex array that remembers how it was computed: two Values, `real` and `imag`, of one shape.

    Fourier transforms of Values return it and take it. There are + - * / and @ with Values and with real and complex
    numbers and arrays, whole powers, `abs`, indexing, the methods conj, sum, mean, reshape, transpose and swapaxes, and
    NumPy's abs, angle, conj, real, imag, exp, square, sum, mean, reshape, transpose, concatenate, stack, roll, and
    np.fft. Everything else raises UnsupportedError: compute with `real` and `imag`. The derivative of abs at 0 is 0, so
    that the second derivative of abs(z) ** 2 is 0 there too, which it should not be: z.real**2 + z.imag**2 is right.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> tg.grad(lambda x: np.sum(np.abs(np.fft.rfft(x)) ** 2))(np.array([1.0, 0.0, 0.0]))
    array([4., 1., 1.])
    """

    __slots__ = ("imag", "real")
    __array_priority__ = 1001.0

    def __init__(self, real: Any, imag: Any) -> None:
        self.real, self.imag = real, imag

    shape = property(lambda self: np.shape(self.real), doc="The length of each axis.")
    ndim = property(lambda self: np.ndim(self.real), doc="The number of axes.")
    size = property(lambda self: math.prod(self.shape), doc="The number of elements.")
    dtype = property(lambda self: np.result_type(self.real.dtype, np.complex64), doc="complex64 or complex128.")
    T = property(lambda self: self.transpose(), doc="The axes reversed.")

    @property
    def data(self) -> Any:
        """The numbers, without a gradient."""
        return _numbers(self.real) + 1j * _numbers(self.imag)

    def __repr__(self) -> str:
        return f"ComplexValue(real={self.real!r}, imag={self.imag!r})"

    def __len__(self) -> int:
        return len(self.real)

    def __getitem__(self, key: Any) -> ComplexValue:
        return ComplexValue(self.real[key], self.imag[key])

    def each(self, f: Callable[[Any], Any]) -> ComplexValue:
        """The same function of both parts."""
        return ComplexValue(f(self.real), f(self.imag))

    # Arithmetic

    def __neg__(self) -> ComplexValue:
        return self.each(lambda x: -x)

    def __pos__(self) -> ComplexValue:
        return self

    def __add__(self, other: Any) -> Any:
        x, y = parts(other)
        return ComplexValue(self.real + x, self.imag + (0.0 * x if y is None else y))

    def __sub__(self, other: Any) -> Any:
        return self + (-other)

    def __rsub__(self, other: Any) -> Any:
        return -self + other

    def __mul__(self, other: Any) -> Any:
        x, y = parts(other)
        if y is None:
            return ComplexValue(self.real * x, self.imag * x)
        return ComplexValue(self.real * x - self.imag * y, self.real * y + self.imag * x)

    __radd__, __rmul__ = __add__, __mul__

    def __truediv__(self, other: Any) -> Any:
        x, y = parts(other)
        return ComplexValue(self.real / x, self.imag / x) if y is None else self * _reciprocal(x, y)

    def __rtruediv__(self, other: Any) -> Any:
        return _reciprocal(self.real, self.imag) * other

    def __pow__(self, exponent: Any) -> Any:
        if not isinstance(exponent, int) or exponent < 1:
            raise UnsupportedError(f"a ComplexValue has powers with whole exponents from 1 on, not {exponent!r}")
        half = self ** (exponent // 2) if exponent > 1 else None
        return self if half is None else half * half * self if exponent % 2 else half * half

    def __matmul__(self, other: Any) -> Any:
        x, y = parts(other)
        if y is None:
            return self.each(lambda part: np.matmul(part, x))
        return ComplexValue(
            np.matmul(self.real, x) - np.matmul(self.imag, y), np.matmul(self.real, y) + np.matmul(self.imag, x)
        )

    def __rmatmul__(self, other: Any) -> Any:
        x, y = parts(other)
        if y is None:
            return self.each(lambda part: np.matmul(x, part))
        return ComplexValue(
            np.matmul(x, self.real) - np.matmul(y, self.imag), np.matmul(x, self.imag) + np.matmul(y, self.real)
        )

    def __abs__(self) -> Any:
        return np.hypot(self.real, self.imag)

    # Methods that arrays have

    def conj(self) -> ComplexValue:
        """The complex conjugate."""
        return ComplexValue(self.real, -self.imag)

    conjugate = conj

    def sum(self, axis: Any = None, keepdims: bool = False) -> ComplexValue:
        """The sum over axes."""
        return self.each(lambda x: np.sum(x, axis, keepdims=keepdims))

    def mean(self, axis: Any = None, keepdims: bool = False) -> ComplexValue:
        """The mean over axes."""
        return self.each(lambda x: np.mean(x, axis, keepdims=keepdims))

    def reshape(self, *shape: Any) -> ComplexValue:
        """Another shape of the same size."""
        return self.each(lambda x: x.reshape(*shape))

    def transpose(self, *axes: Any) -> ComplexValue:
        """The axes in another order, reversed by default."""
        return self.each(lambda x: x.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> ComplexValue:
        """Two axes exchanged."""
        return self.each(lambda x: x.swapaxes(a, b))

    # NumPy

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "__call__" and not kwargs and ufunc in IMPLEMENTATIONS:
            return IMPLEMENTATIONS[ufunc](*inputs)
        raise _unsupported(ufunc.__name__)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func not in IMPLEMENTATIONS:
            raise _unsupported(func.__name__)
        return IMPLEMENTATIONS[func](*args, **kwargs)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise CutGradientError("an array made of a ComplexValue would cut the gradient: write z.data for its numbers")

    def __bool__(self) -> bool:
        raise UnsupportedError("a ComplexValue is neither true nor false: compare parts of it, or np.abs of it")


def _unsupported(name: str) -> UnsupportedError:
    return UnsupportedError(f"np.{name} is not supported on a ComplexValue: compute with its parts, z.real and z.imag")


def _numbers(x: Any) -> Any:
    return x.data if isinstance(x, Value) else x


def _reciprocal(x: Any, y: Any) -> ComplexValue:
    # Divided by the larger part first, nothing overflows that need not.
    size = np.maximum(np.abs(x), np.abs(y))
    size = size.detach() if isinstance(size, Value) else size
    p, q = x / size, y / size
    whole = (p * p + q * q) * size
    return ComplexValue(p / whole, -q / whole)


def parts(x: Any) -> tuple[Any, Any]:
    """Real and imaginary part of anything that stands for numbers; None for an imaginary part that is zero."""
    if isinstance(x, ComplexValue):
        return x.real, x.imag
    if isinstance(x, Value | int | float):
        return x, None
    x = np.asarray(x)
    return (x.real, x.imag) if x.dtype.kind == "c" else (x, None)


def as_complex(x: Any) -> ComplexValue:
    """Anything that stands for numbers, as a ComplexValue."""
    real, imag = parts(x)
    return ComplexValue(real, np.zeros(np.shape(real), real.dtype) if imag is None else imag)


def _operator(name: str) -> Callable[..., Any]:
    def apply(x: Any, y: Any) -> Any:
        return getattr(as_complex(x), name)(y)

    return apply


def _exp(z: ComplexValue) -> ComplexValue:
    size = np.exp(z.real)
    return ComplexValue(size * np.cos(z.imag), size * np.sin(z.imag))


def _angle(z: ComplexValue, deg: bool = False) -> Any:
    return np.arctan2(z.imag, z.real) * (180.0 / np.pi if deg else 1.0)


def _joined(function: Any) -> Callable[..., Any]:
    def apply(arrays: Any, axis: Any = 0) -> ComplexValue:
        given = [as_complex(x) for x in arrays]
        return ComplexValue(function([z.real for z in given], axis), function([z.imag for z in given], axis))

    return apply


IMPLEMENTATIONS.update({
    np.add: _operator("__add__"), np.subtract: _operator("__sub__"), np.multiply: _operator("__mul__"),
    np.divide: _operator("__truediv__"), np.matmul: _operator("__matmul__"), np.negative: lambda z: -z,
    np.absolute: abs, np.conjugate: lambda z: z.conj(), np.square: lambda z: z * z, np.exp: _exp,
    np.power: lambda z, n: z**n, np.angle: _angle, np.real: lambda z: z.real, np.imag: lambda z: z.imag,
    np.sum: lambda z, axis=None, keepdims=False: z.sum(axis, bool(keepdims)),
    np.mean: lambda z, axis=None, keepdims=False: z.mean(axis, bool(keepdims)),
    np.reshape: lambda z, shape: z.reshape(shape), np.transpose: lambda z, axes=None: z.transpose(axes),
    np.concatenate: _joined(np.concatenate), np.stack: _joined(np.stack),
    np.roll: lambda z, shift, axis=None: z.each(lambda x: np.roll(x, shift, axis)),
    np.shape: lambda z: z.shape, np.ndim: lambda z: z.ndim,
})  # fmt: skip


def _put_together(_: Any, both: Any) -> Any:
    real, imag = both
    if isinstance(real, np.ndarray | float) and isinstance(imag, np.ndarray | float):
        # A recording returns numbers.
        return real + 1j * np.asarray(imag)
    return ComplexValue(real, imag)


pytree.register(ComplexValue, lambda z: ((z.real, z.imag), None, ("real", "imag")), _put_together)
