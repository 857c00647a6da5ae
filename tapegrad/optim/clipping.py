"""Gradient clipping: by the norm of the whole gradient, or number by number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.errors import DTypeError, OperationError, ShapeError
from tapegrad.optim.groups import is_module
from tapegrad.value import Value


def flat_view(array: Any, what: str) -> np.ndarray:
    """An array seen as one vector that can be written to.

    Raises ShapeError where that would take a copy, DTypeError unless it holds float32 or float64.
    """
    if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise DTypeError(f"{what} must be an array of float32 or float64, to be changed in place, not {found}")
    if not array.flags.c_contiguous or not array.flags.writeable:
        kind = "read-only" if array.flags.c_contiguous else "not contiguous"
        raise ShapeError(f"{what} must be contiguous and writeable, to be changed in place; this one is {kind}")
    return array.view(np.ndarray).reshape(-1)


def values_of(target: Any) -> list[Value] | None:
    """The Values of a module (its flat vector), a Value, or an iterable of Values; None for arrays, nested or not."""
    if _has_vector(target):
        return [target.flat]
    if isinstance(target, Value):
        return [target]
    if isinstance(target, np.ndarray) or is_module(target) or not isinstance(target, Iterable):
        return None
    found = list(target)
    return found if found and all(isinstance(x, Value) for x in found) else None


def _has_vector(x: Any) -> bool:
    """Whether this is a module with a vector of its own, and not one that holds given numbers, as a gradient does."""
    return is_module(x) and not any(p.is_fixed for _, p in x._tree())


def clip_by_norm(target: Any, limit: float) -> float:
    """Scale a gradient down to a norm: g ← g · min(1, limit / ‖g‖), where ‖g‖² sums over all parameters.

    Args:
        target: a module, a Value or a list of Values, whose `grad` is changed; or a gradient as `tg.grad` returns it,
            which is changed in place: an array of float32 or float64, any nesting of arrays, or of a module the module
            that holds its gradient.
        limit: the largest norm allowed.

    Returns:
        The norm before clipping. Where it is NaN or infinite nothing is scaled.

    Raises OperationError unless the limit is positive, DTypeError, ShapeError.

    Source: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.

    >>> g = np.array([3.0, 4.0])
    >>> clip_by_norm(g, 1.0)
    5.0
    >>> g
    array([0.6, 0.8])
    >>> clip_by_norm({"w": g, "b": np.zeros(2)}, 0.1)
    1.0
    """
    _check_limit(limit)
    values, vectors = _gradients(target)
    # In float64 whatever the dtype: squares of float32 gradients underflow below 1e-23.
    norm = float(np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in vectors)))
    if limit < norm < np.inf:
        for g in vectors:
            g *= g.dtype.type(limit / norm)
    _assign(values, vectors)
    return norm


def clip_by_value(target: Any, limit: float) -> None:
    """Limit every number of a gradient: g ← max(-limit, min(limit, g)). Takes and raises what `clip_by_norm` does.

    >>> g = np.array([-3.0, 0.5])
    >>> clip_by_value(g, 1.0)
    >>> g
    array([-1. ,  0.5])
    """
    _check_limit(limit)
    values, vectors = _gradients(target)
    for g in vectors:
        np.clip(g, -limit, limit, out=g)
    _assign(values, vectors)


def _check_limit(limit: float) -> None:
    if not limit > 0:
        raise OperationError(f"the limit of a gradient must be positive, not {limit!r}")


def _gradients(target: Any) -> tuple[list[Value], list[np.ndarray]]:
    values = values_of(target)
    if values is not None:
        return values, [np.array(v.grad, v.dtype).reshape(-1) for v in values]
    arrays, structure = pytree.flatten(target, _has_vector)
    names = pytree.paths(structure, "gradient")
    return [], [flat_view(a, name) for a, name in zip(arrays, names, strict=True)]


def _assign(values: list[Value], vectors: list[np.ndarray]) -> None:
    for v, g in zip(values, vectors, strict=False):
        v.grad = g.reshape(v.shape)
