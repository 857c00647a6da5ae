"""`np.pad`: the modes that repeat elements are index arrays, the others join what is computed on either side."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.functions.indexing import take
from tapegrad.functions.joining import concatenate
from tapegrad.functions.registry import implements, is_flags
from tapegrad.layout import normalize_axis
from tapegrad.value import Value

_REPEATING = ("edge", "reflect", "symmetric", "wrap")
_OF_EDGES: dict[str, Any] = {"maximum": np.max, "minimum": np.min, "mean": np.mean, "median": np.median}
_OPTIONS: dict[str, set[str]] = {
    "constant": {"constant_values"}, "linear_ramp": {"end_values"}, "edge": set(), "wrap": set(),
    "reflect": {"reflect_type"}, "symmetric": {"reflect_type"}, **{mode: {"stat_length"} for mode in _OF_EDGES},
}  # fmt: skip


@implements(np.pad)
def pad(x: Any, pad_width: Any, mode: Any = "constant", **options: Any) -> Value:
    """Longer on either side of every axis: by a constant, or by what the mode says, as in NumPy.

    Constants and end values may be Values. Raises UnsupportedError for the mode "empty", for a function in place of a
    mode, and for reflections of the odd type.
    """
    if not isinstance(mode, str) or mode not in _OPTIONS:
        raise UnsupportedError(
            f"np.pad on a Value takes the modes {', '.join(_OPTIONS)}, and not mode={mode!r}: join what is to stand on "
            "either side by np.concatenate"
        )
    if unknown := options.keys() - _OPTIONS[mode]:
        raise ShapeError(f"pad: mode={mode!r} takes no {', '.join(sorted(unknown))}")
    if options.get("reflect_type", "even") != "even":
        raise UnsupportedError(
            "np.pad with reflect_type='odd' is not supported on a Value: write 2.0 * edge - part, with the reflected "
            "part by indexing, and np.concatenate"
        )
    if isinstance(pad_width, dict):
        by_axis = {normalize_axis(axis, x.ndim, "pad"): width for axis, width in pad_width.items()}
        pad_width = [np.broadcast_to(by_axis.get(axis, 0), 2) for axis in range(x.ndim)]
    widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))
    if widths.dtype.kind not in "iu":
        raise ShapeError(f"pad: widths must be integers: {pad_width}")
    if (widths < 0).any():
        raise ShapeError(f"pad: widths must not be negative: {pad_width}")
    for axis, (before, after) in enumerate(widths.tolist()):
        if not (before or after):
            continue
        if mode in _REPEATING:
            if not x.shape[axis]:
                raise ShapeError(f"pad: there is nothing to repeat along axis {axis} of shape {x.shape}")
            positions: Any = np.pad
            x = take(x, positions(np.arange(x.shape[axis]), (before, after), mode, **options), axis)
        else:
            parts = (_side(x, axis, n, mode, options, at) for at, n in enumerate((before, after)))
            first, last = parts
            x = concatenate([part for part in (first, x, last) if part is not None], axis)
    return x


def _side(x: Value, axis: int, n: int, mode: str, options: dict[str, Any], at: int) -> Any:
    """What stands on one side of an axis: before it where `at` is 0, behind it where it is 1."""
    if not n:
        return None
    shape = (*x.shape[:axis], n, *x.shape[axis + 1 :])
    if mode == "constant":
        number = _of_side(options.get("constant_values", 0.0), x.ndim, axis, at)
        if isinstance(number, Value):
            return np.broadcast_to(number, shape)
        return np.full(shape, number, bool if is_flags(x) else x.dtype)
    if not x.shape[axis]:
        raise ShapeError(f"pad: mode={mode!r} needs elements, and axis {axis} of shape {x.shape} has none")
    edge = x[(slice(None),) * axis + (slice(-1, None) if at else slice(0, 1),)]
    if mode == "linear_ramp":
        end = _of_side(options.get("end_values", 0.0), x.ndim, axis, at)
        steps = (np.arange(n, dtype=x.dtype) / n).reshape((-1,) + (1,) * (x.ndim - axis - 1))
        return end + (edge - end) * (steps[::-1] if at else steps)
    length = _of_side(options.get("stat_length"), x.ndim, axis, at)
    length = x.shape[axis] if length is None else min(int(length), x.shape[axis])
    part = x[(slice(None),) * axis + (slice(x.shape[axis] - length, None) if at else slice(0, length),)]
    return np.broadcast_to(_OF_EDGES[mode](part, axis=axis, keepdims=True), shape)


def _of_side(given: Any, ndim: int, axis: int, at: int) -> Any:
    """What an option says of one side of an axis; it is one thing for all, or two, or two for each axis."""
    if isinstance(given, Value) and not given.ndim:
        return given
    if isinstance(given, Value | np.ndarray) or np.iterable(given):
        rows = list(given)
        if len(rows) == 1 and np.ndim(rows[0]) == 0:
            return rows[0]
        if all(np.ndim(row) == 0 for row in rows):
            return rows[at]
        pair = list(rows[axis if len(rows) == ndim else 0])
        return pair[at if len(pair) > 1 else 0]
    return given
