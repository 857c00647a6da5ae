"""A call of a model: which module is the outermost, how its arguments are converted, how messages name its parts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tapegrad.errors import TapegradError
from tapegrad.functions import stack
from tapegrad.nn.tree import Tree
from tapegrad.value import Value


class _Calls(threading.local):
    # How many calls of modules are going on, the outermost module, and the dtype of its parameters if it has any.
    depth = 0
    outermost: Tree | None = None
    dtype: np.dtype | None = None


calls = _Calls()


@contextmanager
def one_call(module: Tree, dtype: np.dtype | None) -> Iterator[None]:
    """Within the block the module is the outermost that is called."""
    before = calls.depth, calls.outermost, calls.dtype
    calls.depth, calls.outermost, calls.dtype = calls.depth + 1, module, dtype
    try:
        yield
    finally:
        calls.depth, calls.outermost, calls.dtype = before


def converted(x: Any, dtype: np.dtype) -> Any:
    """An argument of a model: floats in arrays and lists get the dtype of its parameters, whole numbers and truth
    values stay what they are. Tuples and lists of arrays are gone through. Nested lists of single Values, which lists
    of floats are inside of a function that is recorded, become one Value."""
    if isinstance(x, np.ndarray):
        return x if x.dtype.kind not in "f" or x.dtype == dtype else x.astype(dtype)
    if isinstance(x, float):
        return np.asarray(x, dtype)
    if not isinstance(x, list | tuple):
        return x
    if all(isinstance(e, int | float) for e in _leaves(x)):
        array = np.asarray(x)
        return array.astype(dtype) if array.dtype.kind == "f" or not array.size else array
    if all(isinstance(e, int | float) or (isinstance(e, Value) and e.shape == ()) for e in _leaves(x)):
        return stack(x)
    if any(isinstance(e, np.ndarray) for e in x) and not hasattr(x, "_fields"):
        return type(x)(converted(e, dtype) if isinstance(e, np.ndarray) else e for e in x)
    return x


def _leaves(x: Any) -> Iterator[Any]:
    for item in x:
        if isinstance(item, list | tuple):
            yield from _leaves(item)
        else:
            yield item


def as_floats(x: Any) -> Any:
    """An array of whole numbers or truth values as floats of the dtype that the called model's parameters have; all
    else as it is.

    A layer that calculates with what it gets calls this: arguments of models that are whole numbers stay such, because
    an `Embedding` looks up rows by them.
    """
    if isinstance(x, Value) or not isinstance(x, np.ndarray | int | list | tuple | np.integer):
        return x
    array = np.asarray(x)
    return array.astype(calls.dtype or np.float64) if array.dtype.kind in "iub" else x


def called(module: Any) -> str:
    """How a message names a module: by its path in the model that is called and its `repr`, as "layers.0 Linear(3, 2)".

    Where it is called by itself there is no path.
    """
    text = repr(module)
    text = text if "\n" not in text else f"{type(module).__name__}({module.describe()})"
    for name, part in calls.outermost.named_modules() if calls.outermost is not None else ():
        if part is module and name:
            return f"{name} {text}"
    return text


def note_place(error: TapegradError, module: Any) -> None:
    """Add to an error in which module of the called model it arose, unless its message begins with that.

    It is called for each module that the error leaves; the innermost one counts.
    """
    if not getattr(error, "has_place", False):
        error.has_place = True  # type: ignore[attr-defined]
        place = called(module)
        if not str(error).startswith(place):
            error.add_note(f"in {place}")
