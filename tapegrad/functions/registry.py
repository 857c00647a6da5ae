"""Registering functions that implement NumPy's functions on Values, and helpers that many of these need."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.errors import IntegerInputError, UnsupportedError
from tapegrad.layout import FlagLayout
from tapegrad.tape.ambient import made_float64
from tapegrad.value import IMPLEMENTATIONS, REFUSALS, Value, as_value, tape_of


def implements(*functions: Any) -> Callable[[Any], Any]:
    """Decorator: register a function as the implementation, on Values, of NumPy functions or (ufunc, method) pairs."""

    def register(handler: Any) -> Any:
        for function in functions:
            IMPLEMENTATIONS[function] = handler
        return handler

    return register


def if_there(*names: str) -> tuple[Any, ...]:
    """NumPy's functions of these names, as far as the NumPy that is installed has them."""
    return tuple(getattr(np, name) for name in names if hasattr(np, name))


def refuse(advice: str, *functions: Any) -> None:
    """Say what to write in place of NumPy functions that Values do not have."""
    REFUSALS.update(dict.fromkeys(functions, advice))


def holds_value(x: Any) -> bool:
    """Whether there is a Value among nested lists, or an object array, which may hold some."""
    if isinstance(x, np.ndarray):
        return x.dtype == object
    return isinstance(x, Value) or (isinstance(x, list | tuple) and any(map(holds_value, x)))


def numbers_for_numbers(function: Callable[..., Value]) -> Callable[..., Any]:
    """Decorator: Values give a Value, and plain numbers or arrays give plain numbers, as with NumPy's functions."""

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return result if holds_value(args) or holds_value(list(kwargs.values())) else result.data

    return either


def to_value(x: Any, what: str) -> Value:
    """The operand of a function of one operand, as a Value."""
    return x if x.__class__ is Value else as_value(x, tape_of((x,)), what)


def keeps(keepdims: Any) -> bool:
    """Whether axes are to be kept, by any truth value: NumPy passes a marker of its own where nothing was said."""
    return keepdims is not np._NoValue and bool(keepdims)


def is_flags(x: Any) -> bool:
    """Whether something is an array of truth values: a Value of them, or NumPy's."""
    if isinstance(x, Value):
        return x._layout.__class__ is FlagLayout
    return isinstance(x, np.ndarray) and x.dtype == bool


_ADVICE = {
    "out": "Values do not change in place, so use the result",
    "dtype": "a tape has one dtype, so leave it out",
}


def only_default(what: str, **kwargs: Any) -> None:
    """Refuse arguments that NumPy has and Values do not. Raises UnsupportedError."""
    for name, given in kwargs.items():
        if given is not None and given is not np._NoValue:
            advice = f": {_ADVICE[name]}" if name in _ADVICE else ""
            raise UnsupportedError(f"np.{what} with {name}= is not supported on a Value{advice}")


def own_dtype(what: str, dtype: Any, x: Any) -> None:
    """Refuse a dtype that is not that of a Value, or of a recording that can be made again in it. Raises
    UnsupportedError."""
    if dtype is None or dtype is np._NoValue or np.dtype(dtype) == x.dtype:
        return
    if np.dtype(dtype) != np.float64 or not made_float64(x._tape):
        raise UnsupportedError(
            f"np.{what} with dtype={np.dtype(dtype)} is not supported on a Value of {x.dtype}: a tape has one dtype, "
            "so leave it out"
        )


def plain_indices(x: Any, what: str) -> Any:
    """An index as plain numbers: those of a Value of truth values or integers, which guards hold replays to."""
    if not isinstance(x, Value):
        return x
    kind = x._tape.kind(x._slot) if x.size else "i"
    if not kind:
        raise IntegerInputError(f"{what}: an index must be integers or truth values, not floats: write v.astype(int)")
    return np.array(x.numpy().astype(bool if kind == "b" else int))


def each(x: Any) -> Any:
    """Whatever stands in nested lists, one after the other."""
    if isinstance(x, list | tuple):
        for part in x:
            yield from each(part)
    else:
        yield x
