"""`scipy.signal` with derivatives: convolutions and correlations.

>>> import numpy as np
>>> import tapegrad as tg
>>> from tapegrad.scipy import signal
>>> tg.grad(lambda a, b: np.sum(signal.convolve(a, b)), argnums=1)(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0]))
array([6., 6.])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import signal as _signal

from tapegrad.adjoint.evaluation import holds_values
from tapegrad.calls import external
from tapegrad.errors import OperationError, ShapeError
from tapegrad.value import Value

__all__ = ["convolve", "convolve2d", "correlate", "correlate2d", "fftconvolve", "oaconvolve"]

_MODES = ("full", "same", "valid")


def _flipped(x: Any) -> Any:
    return x[(slice(None, None, -1),) * np.ndim(x)]


class _Convolution:
    """The full convolution, and its valid part for a second operand that fits into the first, by one method of SciPy's.

    Each is linear in either operand, and their transposes are one another.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        self.full = external(self._full, self._full_vjp, self._full_jvp, numpy_rules=True)
        self.valid = external(self._valid, self._valid_vjp, self._valid_jvp, numpy_rules=True)

    def _full(self, a: Any, b: Any) -> Any:
        return _signal.convolve(a, b, "full", self._method)

    def _valid(self, a: Any, b: Any) -> Any:
        return _signal.convolve(a, b, "valid", self._method)

    def _full_vjp(self, w: Any, z: Any, a: Any, b: Any) -> Any:
        return self.valid(w, _flipped(b)), self.valid(w, _flipped(a))

    def _full_jvp(self, t: Any, z: Any, a: Any, b: Any) -> Any:
        return _sum(self.full, t, a, b)

    def _valid_vjp(self, w: Any, z: Any, a: Any, b: Any) -> Any:
        # The second operand moves along the first, so what reaches it is a valid part again, in the other order.
        return self.full(w, _flipped(b)), self.valid(_flipped(a), w)

    def _valid_jvp(self, t: Any, z: Any, a: Any, b: Any) -> Any:
        return _sum(self.valid, t, a, b)


def _sum(product: Any, t: Any, a: Any, b: Any) -> Any:
    terms = [product(t[0], b)] if t[0] is not None else []
    terms += [product(a, t[1])] if t[1] is not None else []
    return terms[0] + terms[1] if len(terms) == 2 else terms[0]


_BY_METHOD = {method: _Convolution(method) for method in ("direct", "fft")}


def convolve(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """The convolution of two arrays of as many axes, z_k = sum over j of a_j b_k-j.

    Args:
        in1, in2: arrays of real numbers.
        mode: "full", all of it; "same", the middle, of in1's shape; "valid", where the smaller array lies
            within the other.
        method: "direct", "fft", or "auto", whichever SciPy expects to be faster.

    The result and its derivatives, of any order, are computed by SciPy. Raises OperationError, ShapeError.

    >>> convolve([1.0, 2.0, 3.0], [0.0, 1.0, 0.5]).tolist()
    [0.0, 1.0, 2.5, 4.0, 1.5]
    """
    if not holds_values((in1, in2)):
        return _signal.convolve(in1, in2, mode, method)
    a, b = (x if isinstance(x, Value) else np.asarray(x) for x in (in1, in2))
    if mode not in _MODES:
        raise OperationError(f"convolve: mode must be 'full', 'same' or 'valid', not {mode!r}")
    if method not in ("auto", *_BY_METHOD):
        raise OperationError(f"convolve: method must be 'auto', 'direct' or 'fft', not {method!r}")
    if np.ndim(a) != np.ndim(b) or not np.ndim(a) or not np.size(a) or not np.size(b):
        raise ShapeError(
            f"convolve takes two arrays of as many axes, one or more, with elements, not of shapes {np.shape(a)} and "
            f"{np.shape(b)}"
        )
    sizes = list(zip(np.shape(a), np.shape(b), strict=True))
    if mode == "valid" and not all(n >= m for n, m in sizes):
        if not all(n <= m for n, m in sizes):
            raise ShapeError(
                f"convolve with mode='valid': one array must fit into the other, and shapes are {np.shape(a)} and "
                f"{np.shape(b)}"
            )
        a, b = b, a
    if method == "auto":
        method = _signal.choose_conv_method(np.ones(np.shape(a)), np.ones(np.shape(b)), mode)
    by = _BY_METHOD[method]
    if mode == "valid":
        return by.valid(a, b)
    full = by.full(a, b)
    if mode == "full":
        return full
    return full[tuple(slice((m - 1) // 2, (m - 1) // 2 + n) for n, m in sizes)]


def correlate(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Any:
    """The cross-correlation of two arrays: the convolution of the first with the second in reversed order.

    >>> correlate([1.0, 2.0, 3.0], [0.0, 1.0, 0.5]).tolist()
    [0.5, 2.0, 3.5, 3.0, 0.0]
    """
    if not holds_values((in1, in2)):
        return _signal.correlate(in1, in2, mode, method)
    return convolve(in1, _flipped(in2 if isinstance(in2, Value) else np.asarray(in2)), mode, method)


def fftconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """As `convolve`, by fast Fourier transforms. With Values `axes` must be all of them, else OperationError."""
    if not holds_values((in1, in2)):
        return _signal.fftconvolve(in1, in2, mode, axes)
    if axes is not None and sorted(np.arange(np.ndim(in1))[np.atleast_1d(axes)].tolist()) != list(range(np.ndim(in1))):
        raise OperationError(f"fftconvolve: with Values the axes must be all of them, not {axes!r}")
    return convolve(in1, in2, mode, "fft")


def oaconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Any:
    """As `fftconvolve`: with Values, the same."""
    return fftconvolve(in1, in2, mode, axes) if holds_values((in1, in2)) else _signal.oaconvolve(in1, in2, mode, axes)


def _in_two(name: str, function: Any, own: Any, in1: Any, in2: Any, mode: str, boundary: str, fillvalue: Any) -> Any:
    if not holds_values((in1, in2)):
        return own(in1, in2, mode, boundary, fillvalue)
    if boundary != "fill" or fillvalue != 0:
        raise OperationError(
            f"{name}: with Values the boundary is filled with zeros; pad the first array instead (np.pad)"
        )
    if np.ndim(in1) != 2 or np.ndim(in2) != 2:
        raise ShapeError(f"{name} takes two arrays of two axes, not of shapes {np.shape(in1)} and {np.shape(in2)}")
    return function(in1, in2, mode)


def convolve2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0) -> Any:
    """As `convolve`, of two axes. With Values there are zeros outside; raises ValueError for other boundaries."""
    return _in_two("convolve2d", convolve, _signal.convolve2d, in1, in2, mode, boundary, fillvalue)


def correlate2d(in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0) -> Any:
    """As `correlate`, of two axes; see `convolve2d`."""
    return _in_two("correlate2d", _centred, _signal.correlate2d, in1, in2, mode, boundary, fillvalue)


def _centred(in1: Any, in2: Any, mode: str) -> Any:
    if mode != "same":
        return correlate(in1, in2, mode)
    # Of an even number SciPy takes the middle here a place later than `correlate` does.
    sizes = zip(np.shape(in1), np.shape(in2), strict=True)
    return correlate(in1, in2, "full")[tuple(slice(m // 2, m // 2 + n) for n, m in sizes)]
