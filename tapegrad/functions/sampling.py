"""Numbers in steps (`linspace`), and arrays chosen from others (`select`, `choose`, `piecewise`)."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tapegrad.errors import IntegerInputError, OperationError, ShapeError
from tapegrad.functions.choosing import where
from tapegrad.functions.joining import concatenate, stack, values
from tapegrad.functions.parts import broadcast_arrays
from tapegrad.functions.registry import implements, only_default, own_dtype
from tapegrad.value import Value, gather, gather_flat


@implements(np.linspace)
def linspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, retstep: bool = False, dtype: Any = None,
    axis: int = 0, *, device: Any = None,
) -> Any:  # fmt: skip
    """Numbers in equal steps, along a new axis, from one array to another."""
    first, last = values("linspace", start, stop)
    own_dtype("linspace", dtype, first)
    if num < 0:
        raise OperationError(f"linspace: the number of samples must not be negative, it is {num}")
    pieces = num - 1 if endpoint else num
    step = (last - first) / float(pieces) if pieces > 0 else np.nan
    shape = np.broadcast_shapes(first.shape, last.shape)
    places = np.arange(num, dtype=first.dtype).reshape(-1, *(1,) * len(shape))
    # The first is the beginning itself, even where the end, and so the step, is not finite.
    found: Any = places * (step if pieces > 0 else 0.0 * (last - first)) + first
    if endpoint and num > 1:
        found = concatenate([found[:-1], np.broadcast_to(last, (1, *shape))], 0)
    found = np.moveaxis(found, 0, axis)
    return (found, step) if retstep else found


@implements(np.logspace)
def logspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, base: Any = 10.0, dtype: Any = None, axis: int = 0
) -> Value:
    """Powers of a base whose exponents are in equal steps."""
    if np.ndim(base):
        start, stop, base = broadcast_arrays(*values("logspace", start, stop, base))
        base = np.expand_dims(base, axis)
    start, stop, base = values("logspace", start, stop, base)
    own_dtype("logspace", dtype, start)
    return cast(Value, np.power(base, linspace(start, stop, num, endpoint, axis=axis)))


@implements(np.geomspace)
def geomspace(
    start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None, axis: int = 0
) -> Value:
    """Numbers whose ratios are equal, along a new axis; both ends have one sign, and neither is 0."""
    first, last = values("geomspace", start, stop)
    own_dtype("geomspace", dtype, first)
    if np.any(np.logical_or(np.equal(first, 0.0), np.equal(last, 0.0))):
        raise OperationError("geomspace: neither end may be 0")
    first, last = broadcast_arrays(first, last)
    sign = np.sign(first)
    exponents = linspace(np.log10(first * sign), np.log10(last * sign), num, endpoint)
    found: Any = sign * np.power(10.0, exponents)
    if num > 0:
        found = concatenate([np.expand_dims(first, 0), found[1:]], 0)
    if endpoint and num > 1:
        found = concatenate([found[:-1], np.expand_dims(last, 0)], 0)
    return cast(Value, np.moveaxis(found, 0, axis))


@implements(np.select)
def select(condlist: Any, choicelist: Any, default: Any = 0) -> Value:
    """At each place the first choice whose condition holds there."""
    if len(condlist) != len(choicelist) or not len(condlist):
        raise OperationError(f"select: {len(condlist)} conditions for {len(choicelist)} choices")
    shape = np.broadcast_shapes(*map(np.shape, (*condlist, *choicelist, default)))
    found = default
    for condition, choice in zip(reversed(list(condlist)), reversed(list(choicelist))):
        found = np.where(condition, choice, found)
    return cast(Value, np.broadcast_to(found, shape))


@implements(np.choose)
def choose(a: Any, choices: Any, out: Any = None, mode: str = "raise") -> Any:
    """At each place the choice whose number stands there. Numbers may be a Value: replays may find others."""
    only_default("choose", out=out)
    if mode not in ("raise", "wrap", "clip"):
        raise OperationError(f"choose: mode is 'raise', 'wrap' or 'clip', not {mode!r}")
    given = list(choices)
    shape = np.broadcast_shapes(np.shape(a), *map(np.shape, given))
    every: Any = stack([np.broadcast_to(x, shape) for x in values("choose", a, *given)[1:]])
    k, n = every.shape[0], every.size // every.shape[0]
    if not isinstance(a, Value):
        chosen: Any = np.choose
        places = chosen(a, np.arange(k * n).reshape(every.shape), mode=mode)
        return gather_flat(every, places)
    if a.size and not a._tape.kind(a._slot):
        raise IntegerInputError("choose: numbers of choices must be integers, not floats: write v.astype(int)")
    number: Any = a * 1.0
    number = np.remainder(number, float(k)) if mode == "wrap" else number
    number = np.clip(number, 0.0, k - 1.0) if mode == "clip" else number
    every, number = values("choose", every, number)
    # Negative numbers are refused, as those that are too large are, by an index that is none.
    index = where(number < 0.0, np.nan, number * float(n) + np.arange(n, dtype=every.dtype).reshape(shape))
    return gather(every, index, 1, k * n, 1, shape)


@implements(np.piecewise)
def piecewise(x: Any, condlist: Any, funclist: Any, *args: Any, **kw: Any) -> Value:
    """At each place what belongs to the last condition that holds there: a number, or a function of x.

    Functions are called with all of x, and the results that no condition chooses are left out; they get no gradient.
    """
    (x,) = values("piecewise", x)
    plain = np.ndim(condlist) <= (1 if x.ndim else 0) if not isinstance(condlist, list | tuple) else False
    one = isinstance(condlist, list | tuple) and len(condlist) and all(isinstance(c, bool | np.bool_) for c in condlist)
    conditions = [condlist] if plain or (one and x.ndim) else list(condlist)
    if len(funclist) not in (len(conditions), len(conditions) + 1):
        raise OperationError(f"piecewise: {len(conditions)} conditions take as many functions, or one more")
    found: Any = 0.0
    pairs = list(zip(conditions, funclist))
    if len(funclist) > len(conditions):
        pairs.insert(0, (True, funclist[-1]))
    for condition, function in pairs:
        if np.ndim(condition) and np.shape(condition) != x.shape:
            raise ShapeError(f"piecewise: a condition of shape {np.shape(condition)} for an array of shape {x.shape}")
        chosen = function(x, *args, **kw) if callable(function) else function
        found = np.where(condition, chosen, found)
    return values("piecewise", x, np.broadcast_to(found, x.shape))[1]
