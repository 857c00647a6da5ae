"""The arguments of a call: which are rows of data, and which are the same for every row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np

from tapegrad import nn, pytree
from tapegrad.arguments import Spec, argument_numbers, owners, spec_of
from tapegrad.batch.vmap import lane_args
from tapegrad.dask.tasks import Rows
from tapegrad.errors import DTypeError, IntegerInputError, ShapeError, StructureError


class Arguments:
    """The arguments of one call.

    Args:
        args: Dask arrays (or frames and series of Dask's, which become arrays) have their rows along the first axis;
            everything else is the same for every row. Both may be nested.

    Attributes:
        shared: the leaves, `Rows` in the places of those that have rows.
        structure: how they are nested.
        arrays: those that have rows, with the same chunks of rows and no others.
        names: how Python would write them, for messages.
        chunks: how many there are.
        count: how many rows, None where that is not known.

    Raises ShapeError where there are no rows, or numbers of rows or chunks differ; DTypeError for what holds no real
    numbers; StructureError for other collections of Dask's, and for models.
    """

    def __init__(self, args: Sequence[Any]) -> None:
        _refuse_models(args, "args")
        leaves, self.structure = pytree.flatten(tuple(args))
        paths = pytree.paths(self.structure, "args")
        leaves = [_as_array(x, name) for x, name in zip(leaves, paths, strict=True)]
        self.shared = [Rows if isinstance(x, da.Array) else x for x in leaves]
        found = [(x, name) for x, name in zip(leaves, paths, strict=True) if isinstance(x, da.Array)]
        if not found:
            raise ShapeError(
                "no argument is a Dask array: rows of data are given as dask.array; for plain arrays there is "
                "recording.batch.value_and_grad_sum, and tapegrad.vmap"
            )
        self.names = [name for _, name in found]
        for x, name in found:
            _check(x, name)
        self.count = _count(found)
        self.arrays = _together([x for x, _ in found], self.names)
        self.chunks = self.arrays[0].numblocks[0]

    def check_argnums(self, argnums: Any) -> None:
        """Raise IntegerInputError where a gradient is asked for with respect to an argument that has rows."""
        given = pytree.count(self.structure), owners(self.structure)
        count = len(pytree.children(self.structure))
        rows = {given[1][i] for i in range(given[0]) if self.shared[i] is Rows}
        for number in argument_numbers(argnums):
            if -count <= number < count and number % count in rows:
                raise IntegerInputError(
                    f"argument {number} has rows, each of which would have a gradient of its own: "
                    "tapegrad.dask.jacobian gives them, argnums of value_and_grad are arguments that are the same for "
                    "all rows"
                )

    def spec(self) -> Spec:
        """What the arguments of one row are."""
        return spec_of(self.of_row([np.zeros((1, *x.shape[1:]), x.dtype) for x in self.arrays]))[0]

    def of_row(self, rows: Sequence[np.ndarray]) -> Any:
        """The arguments of one row, from arrays of one row."""
        given = iter(rows)
        leaves = [next(given) if x is Rows else x for x in self.shared]
        return lane_args(leaves, [0 if x is Rows else None for x in self.shared], self.structure, 0)

    def optimized(self) -> list[da.Array]:
        """The same arrays, with fewer tasks: what several of them are made of, a file say, is read once.

        Dask leaves out what workers hold already. So `arrays` must be kept as long as these are used.
        """
        return list(dask.optimize(*self.arrays))

    def keys(self, chunk: int) -> list[Any]:
        """The keys of the chunk's tasks in the graphs of the arrays."""
        return [(x.name, chunk, *[0] * (x.ndim - 1)) for x in self.arrays]


def _refuse_models(x: Any, name: str) -> None:
    """Raise StructureError where something nested holds a model."""
    if isinstance(x, nn.Module):
        raise StructureError(
            f"{name} is a model, {type(x).__name__}, and rows of Dask arrays go with arrays: pass model.flat.data, and "
            "call model.call_with(flat, x) in the function; or train the model with tapegrad.dask.Training"
        )
    if isinstance(x, list | tuple | dict):
        for key, item in x.items() if isinstance(x, dict) else enumerate(x):
            _refuse_models(item, f"{name}[{key!r}]")


def _as_array(x: Any, name: str) -> Any:
    if isinstance(x, da.Array) or not dask.is_dask_collection(x):
        return x
    if hasattr(type(x), "to_dask_array"):
        return x.to_dask_array()
    raise StructureError(
        f"{name} is a {type(x).__name__} of Dask's: rows are given as Dask arrays or frames, and what is the same for "
        "all rows as plain numbers and arrays; x.compute() makes one"
    )


def _check(x: da.Array, name: str) -> None:
    if x.dtype is None or x.dtype.kind not in "fiub":
        raise DTypeError(f"{name} is a Dask array of {x.dtype}: rows must be real numbers, all of one shape")
    if not x.ndim:
        raise ShapeError(f"{name} is a Dask array without axes: rows lie along the first one. x.compute() is a number")
    if any(math.isnan(n) for n in x.shape[1:]):
        raise ShapeError(f"{name} has the shape {x.shape}: only the number of rows may be unknown")


def _count(found: Sequence[tuple[da.Array, str]]) -> int | None:
    lengths = {name: x.shape[0] for x, name in found if not math.isnan(x.shape[0])}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ShapeError(f"arguments have different numbers of rows: {said}")
    if len(lengths) < len(found):
        return None
    count = int(next(iter(lengths.values())))
    if not count:
        raise ShapeError("the batch is empty: the arguments have no rows")
    return count


def _together(arrays: Sequence[da.Array], names: Sequence[str]) -> list[da.Array]:
    """The arrays with the same chunks of rows: those of the first one."""
    arrays = [
        x.rechunk(dict.fromkeys(range(1, x.ndim), -1)) if max(x.numblocks[1:], default=1) > 1 else x for x in arrays
    ]
    first = arrays[0].chunks[0]
    found = []
    for x in arrays:
        known = not any(math.isnan(n) for n in (*x.chunks[0], *first))
        if known and x.chunks[0] != first:
            x = x.rechunk({0: first})
        elif len(x.chunks[0]) != len(first):
            said = ", ".join(f"{name} has {len(x.chunks[0])}" for name, x in zip(names, arrays, strict=True))
            raise ShapeError(
                f"arguments have different numbers of chunks, and how many rows these have is not known: {said}. "
                "x.compute_chunk_sizes() finds out; of a file with columns take one frame with all columns, since Dask "
                "may read some of them in other chunks than others"
            )
        found.append(x)
    return found
