"""Choosing between values, and functions of the numbers alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import UnsupportedError
from tapegrad.functions.registry import implements, only_default
from tapegrad.ops import BY_NAME
from tapegrad.value import HANDLERS, Value, apply


@implements(np.where)
def where(condition: Any, *choices: Any) -> Value:
    """x where the condition holds, else y. The branch not taken gets no gradient, not even NaN."""
    if len(choices) != 2:
        raise UnsupportedError("np.where(condition) of a Value has a shape that depends on numbers: use v.data")
    return apply(BY_NAME["where"], (condition, *choices))


@implements(np.clip)
def clip(x: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Value:
    """x held between two bounds, either of which may be None."""
    only_default("clip", out=out)
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    if low is None:
        return x if high is None else np.minimum(x, high)
    return np.maximum(x, low) if high is None else apply(BY_NAME["clip"], (x, low, high))


@implements(np.round)
def round(x: Any, decimals: int = 0, out: Any = None) -> Value:
    """Rounded to a number of decimals; zero derivative."""
    scale = 10.0**decimals
    return np.rint(x * scale) / scale if decimals else np.rint(x)


HANDLERS[np.floor_divide] = lambda x, y: np.floor(x / y)
HANDLERS[np.logical_not] = lambda x: x == 0.0
HANDLERS[np.float_power] = lambda x, y: x**y
HANDLERS[np.fabs] = lambda x: np.abs(x)
HANDLERS[np.degrees] = HANDLERS[np.rad2deg] = lambda x: x * (180.0 / np.pi)
HANDLERS[np.radians] = HANDLERS[np.deg2rad] = lambda x: x * (np.pi / 180.0)


def _by_numbers(function: Any) -> Any:
    def handler(*args: Any, **kwargs: Any) -> Any:
        return function(*(x.numpy() if isinstance(x, Value) else x for x in args), **kwargs)

    handler.__doc__ = f"np.{function.__name__} of the numbers: constant between jumps, so it has no gradient."
    return handler


for _function in (
    np.all, np.allclose, np.any, np.argmax, np.argmin, np.argsort, np.array_equal, np.count_nonzero, np.isclose,
    np.isfinite, np.isinf, np.isnan, np.nonzero, np.signbit,
):  # fmt: skip
    HANDLERS[_function] = _by_numbers(_function)
