"""The data of a pass: arrays, nested in any way, as two tables of rows that compiled training copies from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from tapegrad import pytree
from tapegrad.errors import (
    DTypeError,
    IndexRangeError,
    IntegerInputError,
    ShapeError,
    StructureError,
    UnsupportedError,
)
from tapegrad.value.exact import limit
from tapegrad.value.numbers import masked

# What lies side by side in a table: the shape of a sample of each array, and whether these are truth values.
_Columns: TypeAlias = list[tuple[tuple[int, ...], bool]]


class Table:
    """Rows of numbers of the model's dtype, one for each sample: one array, or several side by side.

    Whole numbers stay whole in the recording of a step, so that it can index with them, and truth values stay truth
    values, so that they are masks; see `batch` and `_parts`.
    """

    def __init__(self, arrays: Sequence[np.ndarray], integers: bool, samples: int, dtype: np.dtype) -> None:
        self.integers = integers
        self.truths = [a.dtype.kind == "b" for a in arrays]
        self.shapes = [a.shape[1:] for a in arrays]
        rows = [np.asarray(a).reshape(samples, -1) for a in arrays]
        # One array keeps its shape; several lie side by side in one row.
        self.shape = self.shapes[0] if len(arrays) == 1 else (sum(r.shape[1] for r in rows),)
        joined = rows[0] if len(rows) == 1 else np.concatenate([*rows, np.zeros((samples, 0), dtype)], axis=1)
        self.rows = np.ascontiguousarray(joined, dtype)

    @property
    def kinds(self) -> list[str]:
        """What numbers each array has, in words."""
        return ["truth values" if t else "integers" if self.integers else "floats" for t in self.truths]

    def batch(self, rows: Any) -> np.ndarray:
        """Some samples, chosen by a slice or by their numbers, as a step is recorded at them."""
        found = self.rows[rows]
        found = found.reshape(len(found), *self.shape)
        if len(self.truths) == 1 and self.truths[0]:
            return found.astype(bool)
        return found.astype(np.int64) if self.integers else found


class Samples:
    """Arrays whose first axis counts samples.

    Args:
        data: the arrays, nested in any way.
        dtype: the model's.
        what: what the data are called, for messages.

    Raises StructureError where there are none, ShapeError for arrays of different lengths, numbers and no samples,
    DTypeError for what are no real numbers, and for integers that the dtype does not hold.
    """

    def __init__(self, data: Any, dtype: np.dtype, what: str = "data") -> None:
        leaves, self.structure = pytree.flatten(data)
        if not leaves:
            raise StructureError(f"{what} must hold arrays, there are none")
        names = ["x", "y"] if what == "data" and type(data) is tuple and len(leaves) == 2 else None
        names = names or pytree.paths(self.structure, what)
        arrays = [_array(leaf, name, dtype) for leaf, name in zip(leaves, names, strict=True)]
        self.count = len(arrays[0])
        for array, name in zip(arrays, names, strict=True):
            if len(array) != self.count:
                raise ShapeError(f"{names[0]} has {self.count} samples, {name} {len(array)}")
        if not self.count:
            raise ShapeError(f"{what} must have at least one sample")
        whole = [a.dtype.kind in "iub" for a in arrays]
        # One or two arrays are a table each. More are put side by side, floats and whole numbers apart.
        first = [0] if len(arrays) <= 2 else [i for i, is_whole in enumerate(whole) if not is_whole]
        first = first or list(range(len(arrays)))
        second = [i for i in range(len(arrays)) if i not in first]
        self._order = np.argsort([*first, *second]).tolist()
        self.x, self.y = (
            Table([arrays[i] for i in chosen], bool(chosen) and whole[chosen[0]], self.count, dtype)
            for chosen in (first, second)
        )

    def checked(self, order: Any) -> np.ndarray:
        """An order of the samples, as compiled code reads rows by it, which asks for no bounds.

        Samples may come again, and some may be missing. Raises ShapeError unless it has one axis, IntegerInputError
        for what are no whole numbers, IndexRangeError for a number that is none of a sample.
        """
        found = np.asarray(order)
        if found.ndim != 1:
            raise ShapeError(f"the order of samples must have one axis, this has shape {found.shape}")
        if found.dtype.kind not in "iu":
            raise IntegerInputError(f"the order of samples must be whole numbers, not {found.dtype}")
        bad = np.flatnonzero((found < 0) | (found >= self.count))
        if bad.size:
            raise IndexRangeError(
                f"the order of samples has {found[bad[0]]} at position {bad[0]}; there are samples 0 to "
                f"{self.count - 1}"
            )
        # A copy, since a callback may change what was given.
        return np.array(found, np.int64)

    @property
    def key(self) -> Any:
        """What a recorded step depends on, besides the size of its batch."""
        return self.structure, *((tuple(t.shapes), t.shape, t.integers, tuple(t.truths)) for t in (self.x, self.y))

    @property
    def nesting(self) -> Callable[[Any, Any], Any]:
        """A function from a batch of rows of both tables to what is nested as the data. It does not hold the data."""
        columns = [list(zip(t.shapes, t.truths, strict=True)) for t in (self.x, self.y)]
        return partial(_nested, self.structure, self._order, *columns)


def _nested(structure: Any, order: list[int], columns: _Columns, others: _Columns, x: Any, y: Any) -> Any:
    parts = [*_parts(columns, x), *_parts(others, y)]
    return pytree.unflatten(structure, [parts[i] for i in order])


def _parts(columns: _Columns, batch: Any) -> list[Any]:
    """The arrays of a batch of rows, which may be a Value. Truth values that lie beside other numbers are numbers in
    the table, and are made truth values again: else a mask would be taken for indices, or be added."""
    if len(columns) == 1:
        return [batch]
    found, at = [], 0
    for shape, is_truth in columns:
        end = at + math.prod(shape)
        part = batch[:, at:end].reshape((len(batch), *shape))
        found.append(part != 0 if is_truth else part)
        at = end
    return found


def here(given: Any, name: str) -> np.ndarray:
    """An array of what was given. Raises UnsupportedError for a Dask array, which would be pulled into this process,
    and for an array with a mask, which would be lost."""
    if hasattr(given, "__dask_graph__"):
        raise UnsupportedError(
            f"{name} is a Dask array: tapegrad.dask.Training trains on these where they are; .compute() gives an array"
        )
    if isinstance(given, np.ma.MaskedArray):
        raise masked(name)
    return np.asarray(given)


def _array(given: Any, name: str, dtype: np.dtype) -> np.ndarray:
    array = here(given, name)
    if array.dtype.kind not in "fiub":
        raise DTypeError(f"{name} must be an array of real numbers, not {array.dtype}")
    if array.ndim == 0:
        raise ShapeError(f"{name} must have one row for each sample, this is a single number")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2 and array.size:
        most = max(abs(int(array.min())), abs(int(array.max())))
        if most > limit(dtype):
            raise DTypeError(
                f"{name} has the whole number {most}, but {dtype} holds them up to {limit(dtype)} only: make the model "
                "float64, or convert the array with .astype(float), where it need not be exact"
            )
    return array
