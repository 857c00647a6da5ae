"""Along which axes arguments have their lanes, and results are to have them: `in_axes` and `out_axes`, as in JAX."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.errors import ShapeError, StructureError


def spread(axes: Any, x: Any, what: str) -> list[int | None]:
    """For each leaf of x its axis. `axes` is a whole number or None for all of x, or nested as x is, as far as it goes.

    Raises StructureError where it is nested otherwise, TypeError for what is no axis.
    """
    if axes is None:
        return [None] * len(pytree.flatten(x)[0])
    given, nested = pytree.flatten_once(axes)
    if pytree.is_leaf(nested):
        return [_axis(axes, what)] * len(pytree.flatten(x)[0])
    parts, own = pytree.flatten_once(x)
    if isinstance(x, dict) and isinstance(axes, dict) and x.keys() == axes.keys():
        given = [axes[key] for key in pytree.names(own)]
    elif pytree.is_leaf(own) or len(parts) != len(given) or pytree.kind(own) is not pytree.kind(nested):
        found = "a number or array" if pytree.is_leaf(own) else f"a {pytree.kind(own).__name__} of {len(parts)}"
        raise StructureError(
            f"vmap: {what} has a {pytree.kind(nested).__name__} of {len(given)} where there is {found}"
        )
    return [axis for a, part in zip(given, parts, strict=True) for axis in spread(a, part, what)]


def _axis(axis: Any, what: str) -> int:
    if isinstance(axis, bool | np.bool_):
        raise StructureError(f"vmap: {what} must hold whole numbers or None, not {axis!r}")
    try:
        return operator.index(axis)
    except TypeError:
        raise StructureError(f"vmap: {what} must hold whole numbers or None, not {axis!r}") from None


def of_arguments(in_axes: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[int | None]:
    """For each leaf of the arguments and keyword arguments its axis, as given. Keyword arguments have it first.

    Raises what `spread` raises; ShapeError for another number of axes than arguments.
    """
    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)
    if isinstance(in_axes, tuple) and len(in_axes) != len(args):
        raise ShapeError(
            f"vmap: in_axes has {len(in_axes)} entries, the function was called with {len(args)} arguments"
        )
    return [*spread(in_axes, tuple(args), "in_axes"), *([0] * len(pytree.flatten(kwargs)[0]))]


def checked(axes: Sequence[int | None], leaves: Sequence[Any], names: Sequence[str]) -> tuple[list[int | None], int]:
    """The axes, counted from the front, and how many lanes there are.

    Raises ShapeError where an argument has no such axis, where lengths differ, where nothing is batched or there is no
    lane.
    """
    found: list[int | None] = []
    lengths: dict[int, str] = {}
    for axis, x, name in zip(axes, leaves, names, strict=True):
        if axis is None:
            found.append(None)
            continue
        shape = getattr(x, "shape", None)
        if shape is None or (isinstance(x, np.ndarray) and x.dtype == object):
            if shape is None and np.ndim(x) == 0:
                what = f"a {type(x).__name__}, which has no axes"
            else:
                what = f"a {type(x).__name__}" if shape is None else "an array of objects"
            raise ShapeError(f"vmap: {name} is to be batched along axis {axis}, and is {what}: say None in in_axes")
        if not -len(shape) <= axis < len(shape):
            raise ShapeError(f"vmap: {name} is to be batched along axis {axis}, and has shape {shape}")
        axis %= len(shape)
        lengths.setdefault(shape[axis], f"{name} has {shape[axis]} along axis {axis}")
        found.append(axis)
    if not lengths:
        raise ShapeError("vmap: no argument is batched: at least one axis in in_axes must not be None")
    if len(lengths) > 1:
        raise ShapeError(f"vmap: arguments have different numbers of lanes: {', '.join(lengths.values())}")
    (total,) = lengths
    if not total:
        raise ShapeError("vmap: the batch is empty: without a lane the shapes of results are not known")
    return found, total


def position(axis: int, ndim: int) -> int:
    """Where lanes go in a result with so many axes, these included. Raises ShapeError where there is no such axis."""
    if not -ndim <= axis < ndim:
        raise ShapeError(f"vmap: out_axes is {axis} for a result that has {ndim} axes with that of the lanes")
    return axis % ndim
