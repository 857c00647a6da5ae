"""NumPy's discrete Fourier transforms on Values and ComplexValues.

Each is one instruction, linear in real and imaginary parts; the gradient is the transposed transform. That of `fft` is
`ifft` with the other normalisation. `rfft` keeps half of a symmetric spectrum, so its transposed is `irfft`, which
counts the inner frequencies twice, of a spectrum that is halved there; and the other way round.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.calls.arrays import ArrayFunction, Shape, arrays_of, family, require
from tapegrad.calls.complex_value import IMPLEMENTATIONS as OF_COMPLEX
from tapegrad.calls.complex_value import ComplexValue, as_complex
from tapegrad.errors import IntegerInputError, OperationError, ShapeError, UnsupportedError
from tapegrad.functions.registry import implements
from tapegrad.layout import normalize_axis

_OTHER = {"backward": "forward", "forward": "backward", "ortho": "ortho"}


def _both(z: Any) -> tuple[Any, Any]:
    return z.real, z.imag


def _zeros_for_none(ts: Any, like: Any) -> Any:
    return [np.zeros(x.shape, x.dtype) if t is None else t for t, x in zip(ts, like, strict=True)]


@family("fft")
def _fft(inverse: bool, axes: tuple[int, ...], norm: Any) -> ArrayFunction:
    """The transform of (real, imaginary) along axes."""
    transform = np.fft.ifftn if inverse else np.fft.fftn

    def transposed(w: Any, z: Any, x: Any, y: Any) -> Any:
        return _fft(not inverse, axes, _OTHER[norm])(*w)

    def pushed(ts: Any, z: Any, x: Any, y: Any) -> Any:
        return _fft(inverse, axes, norm)(*_zeros_for_none(ts, (x, y)))

    return ArrayFunction(
        ("fft", inverse, axes, norm), lambda x, y: _both(transform(x + 1j * y, axes=axes, norm=norm)),
        lambda x, y: [x, x], transposed, pushed,
    )  # fmt: skip


def _weights(n: int, axis: int, ndim: int, inner: float, dtype: Any) -> Any:
    """One for the frequencies of a real transform of n numbers that stand alone, `inner` for those in pairs."""
    weights = np.full(n // 2 + 1, inner, dtype)
    weights[0] = 1.0
    if n % 2 == 0:
        weights[-1] = 1.0
    return weights.reshape([-1 if i == axis else 1 for i in range(ndim)])


@family("rfft")
def _rfft(n: int, axes: tuple[int, ...], norm: Any) -> ArrayFunction:
    """The transform of real numbers, n along the last of the axes."""

    def transposed(w: Any, z: Any, x: Any) -> Any:
        c = _weights(n, axes[-1], x.ndim, 0.5, x.dtype)
        return (_irfft(n, axes, _OTHER[norm])(w[0] * c, w[1] * c),)

    def shapes(x: Shape) -> list[Shape]:
        return [tuple(n // 2 + 1 if i == axes[-1] else k for i, k in enumerate(x))] * 2

    return ArrayFunction(
        ("rfft", n, axes, norm), lambda x: _both(np.fft.rfftn(x, axes=axes, norm=norm)), shapes, transposed,
        lambda ts, z, x: _rfft(n, axes, norm)(ts[0]),
    )  # fmt: skip


@family("irfft")
def _irfft(n: int, axes: tuple[int, ...], norm: Any) -> ArrayFunction:
    """The real numbers, n along the last of the axes, of half a spectrum."""

    def value(x: Any, y: Any) -> Any:
        sizes = [*(x.shape[i] for i in axes[:-1]), n]
        return np.fft.irfftn(x + 1j * y, sizes, axes=axes, norm=norm)

    def transposed(w: Any, z: Any, x: Any, y: Any) -> Any:
        c = _weights(n, axes[-1], x.ndim, 2.0, x.dtype)
        return tuple(part * c for part in _rfft(n, axes, _OTHER[norm])(w))

    def pushed(ts: Any, z: Any, x: Any, y: Any) -> Any:
        return _irfft(n, axes, norm)(*_zeros_for_none(ts, (x, y)))

    def shapes(x: Shape, y: Shape) -> Shape:
        return tuple(n if i == axes[-1] else k for i, k in enumerate(x))

    return ArrayFunction(("irfft", n, axes, norm), value, shapes, transposed, pushed)


# NumPy's arguments


def _normalisation(what: str, norm: Any) -> str:
    if norm is not None and norm not in _OTHER:
        raise OperationError(f'{what}: norm is "backward", "ortho" or "forward", not {norm!r}')
    return norm or "backward"


def _places(what: str, ndim: int, s: Any, axes: Any) -> tuple[tuple[int, ...], list[int | None]]:
    """The axes, and the length wanted along each, None for what it is."""
    if axes is None:
        axes = range(ndim) if s is None else range(ndim - len(s), ndim)
    found = tuple(normalize_axis(i, ndim, what) for i in axes)
    if len(set(found)) != len(found):
        raise UnsupportedError(f"{what} on a Value takes each axis once, not axes={tuple(axes)}")
    lengths: list[int | None] = [None] * len(found) if s is None else [_length(what, k) for k in s]
    if len(lengths) != len(found):
        raise ShapeError(f"{what}: {len(lengths)} lengths for {len(found)} axes")
    return found, lengths


def _length(what: str, k: Any) -> int | None:
    if k is None or k == -1:
        return None
    try:
        return operator.index(k)
    except TypeError:
        raise IntegerInputError(f"{what}: a length is a whole number, not {k!r}") from None


def _single(what: str, n: Any) -> tuple[Any, ...] | None:
    """The length of a transform over one axis, of which -1 is none."""
    require(n is None or n != -1, f"{what}: a transform has one number or more, not -1")
    return None if n is None else (n,)


def _fitted(what: str, x: Any, axes: Sequence[int], lengths: Sequence[int | None]) -> Any:
    """Cut, or filled up with zeros, to lengths along axes."""
    for axis, n in zip(axes, lengths, strict=True):
        have = x.shape[axis]
        n = have if n is None else n
        require(n > 0, f"{what}: a transform needs one number or more along axis {axis}, not {n} (shape {x.shape})")
        if n < have:
            x = x[(slice(None),) * axis + (slice(0, n),)]
        elif n > have:
            x = np.concatenate([x, np.zeros((*x.shape[:axis], n - have, *x.shape[axis + 1 :]), x.dtype)], axis)
    return x


def _of(what: str, a: Any) -> Any:
    return a if isinstance(a, ComplexValue) else arrays_of(what, a)[0]


def _given(what: str, out: Any) -> None:
    if out is not None:
        raise UnsupportedError(f"{what} with out= is not supported on a Value")


def _complex(what: str, inverse: bool, a: Any, s: Any, axes: Any, norm: Any, out: Any) -> ComplexValue:
    _given(what, out)
    z = as_complex(_of(what, a))
    found, lengths = _places(what, z.ndim, s, axes)
    function = _fft(inverse, found, _normalisation(what, norm))
    return ComplexValue(*function(_fitted(what, z.real, found, lengths), _fitted(what, z.imag, found, lengths)))


def _real(what: str, a: Any, s: Any, axes: Any, norm: Any, out: Any) -> ComplexValue:
    _given(what, out)
    x = _of(what, a)
    if isinstance(x, ComplexValue) or x.dtype.kind == "c":
        raise OperationError(f"{what} takes real numbers; use its complex sibling, or z.real")
    found, lengths = _places(what, x.ndim, s, axes)
    x = _fitted(what, x, found, lengths)
    return ComplexValue(*_rfft(x.shape[found[-1]], found, _normalisation(what, norm))(x))


def _to_real(what: str, a: Any, s: Any, axes: Any, norm: Any, out: Any) -> Any:
    _given(what, out)
    z = as_complex(_of(what, a))
    found, lengths = _places(what, z.ndim, s, axes)
    last = lengths[-1]
    n = 2 * (z.shape[found[-1]] - 1) if last is None else last
    require(n > 0, f"{what}: a transform has one number or more, not {n} (shape {z.shape})")
    x, y = (_fitted(what, part, found, [*lengths[:-1], n // 2 + 1]) for part in (z.real, z.imag))
    return _irfft(n, found, _normalisation(what, norm))(x, y)


def _family(of: Callable[..., Any], name: str) -> None:
    """Register the transforms over one axis, two and several."""

    def one(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
        return of(f"np.fft.{name}", a, _single(f"np.fft.{name}", n), (axis,), norm, out)

    def two(a: Any, s: Any = None, axes: Any = (-2, -1), norm: Any = None, out: Any = None) -> Any:
        return of(f"np.fft.{name}2", a, s, axes, norm, out)

    def several(a: Any, s: Any = None, axes: Any = None, norm: Any = None, out: Any = None) -> Any:
        return of(f"np.fft.{name}n", a, s, axes, norm, out)

    for ending, function in (("", one), ("2", two), ("n", several)):
        _register(getattr(np.fft, name + ending), function)


def _register(numpy_function: Any, function: Callable[..., Any]) -> None:
    function.__doc__ = f"np.fft.{numpy_function.__name__} of Values."
    OF_COMPLEX[numpy_function] = implements(numpy_function)(function)


_family(lambda what, *args: _complex(what, False, *args), "fft")
_family(lambda what, *args: _complex(what, True, *args), "ifft")
_family(_real, "rfft")
_family(_to_real, "irfft")


def _hfft(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
    other, z = _OTHER[_normalisation("np.fft.hfft", norm)], as_complex(_of("np.fft.hfft", a))
    return _to_real("np.fft.hfft", z.conj(), _single("np.fft.hfft", n), (axis,), other, out)


def _ihfft(a: Any, n: Any = None, axis: int = -1, norm: Any = None, out: Any = None) -> Any:
    other = _OTHER[_normalisation("np.fft.ihfft", norm)]
    return _real("np.fft.ihfft", a, _single("np.fft.ihfft", n), (axis,), other, out).conj()


def _shift(back: bool) -> Callable[..., Any]:
    def shifted(x: Any, axes: Any = None) -> Any:
        axes = tuple(range(x.ndim)) if axes is None else (axes,) if isinstance(axes, int) else tuple(axes)
        by = [-(x.shape[i] // 2) if back else x.shape[i] // 2 for i in axes]
        for shift, axis in zip(by, axes, strict=True):
            x = np.roll(x, shift, axis)
        return x

    return shifted


_register(np.fft.hfft, _hfft)
_register(np.fft.ihfft, _ihfft)
_register(np.fft.fftshift, _shift(False))
_register(np.fft.ifftshift, _shift(True))
