"""What workers do: the tasks of the graphs that this package makes. They are found by name in the worker's process."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.dask.travel import Payload, opened
from tapegrad.errors import BranchError, DTypeError, ShapeError, StructureError
from tapegrad.recording import Recording
from tapegrad.threads import blas_threads
from tapegrad.value import refuse_unlike

# How many rows there are, and their sums; None where there is none.
Part = tuple[int, list[np.ndarray] | None]


class Rows:
    """Stands, itself, among the leaves of arguments for what has rows."""


def same(x: Any) -> Any:
    """x: how something that all tasks read, such as the parameters, is a task itself."""
    return x


@contextlib.contextmanager
def _in_chunk(number: int) -> Iterator[None]:
    """Within the block errors say which chunk they come from."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in chunk {number} of the rows")
        raise


def first_row(names: Sequence[str], number: int, *chunks: Any) -> list[Any] | None:
    """The first row of a chunk, as arrays of one row; None where it has none."""
    with _in_chunk(number):
        arrays, rows = checked(chunks, names)
    return [np.array(x[:1]) for x in arrays] if rows else None


def sums_of_chunk(
    payload: Payload, shared: Sequence[Any], names: Sequence[str], number: int, argnums: Any, *chunks: Any
) -> Part:
    """The sum of values and gradients over the rows of a chunk, in float64.

    Args:
        payload: the function, see `travel`.
        shared: the leaves of its arguments that are the same for all rows, `Rows` in the place of others.
        names: what arguments with rows are called, for messages.
        number: of the chunk, for messages.
        argnums: the arguments with respect to which the gradient is taken.
        chunks: the rows, in the order of the leaves.
    """

    def sums(recording: Recording, leaves: list[Any], axes: list[int | None], rows: int) -> list[np.ndarray]:
        batch: Any = recording.batch
        found: list[np.ndarray] = batch.sums(leaves, axes, rows, recording.spec.structure, argnums)
        return found

    return _on_rows(sums, payload, shared, names, number, chunks)


def added(*parts: Part) -> Part:
    """The sum of some parts, always in their order, so that it has the same bits wherever it is computed."""
    total: list[np.ndarray] | None = None
    for _, sums in parts:
        if total is None:
            total = None if sums is None else [np.array(x) for x in sums]
        elif sums is not None:
            for whole, part in zip(total, sums, strict=True):
                whole += part
    return sum(rows for rows, _ in parts), total


def outputs_of_chunk(
    payload: Payload, shared: Sequence[Any], names: Sequence[str], number: int, method: str, argnums: Any,
    expected: Sequence[tuple[tuple[int, ...], str]], *chunks: Any,
) -> list[np.ndarray]:  # fmt: skip
    """What a function, or a derivative of it, returns for each row of a chunk: an array for each of its results.

    Args:
        payload, shared, names, number, chunks: as for `sums_of_chunk`.
        method: of the recording's batch: `__call__`, `jacobian`.
        argnums: the arguments of the derivative; None for the function itself.
        expected: the shapes, of one row, and dtypes of the results.
    """

    def outputs(recording: Recording, leaves: list[Any], axes: list[int | None], rows: int) -> list[np.ndarray]:
        structure = recording.spec.structure
        batch: Any = recording.batch
        how = {} if argnums is None else {"argnums": argnums}
        given = pytree.unflatten(structure, leaves)
        found = getattr(batch, method)(*given, in_axes=pytree.unflatten(structure, axes), **how)
        return [np.asarray(x) for x in pytree.flatten(found)[0]]

    _, found = _on_rows(outputs, payload, shared, names, number, chunks)
    if found is None:
        return [np.empty((0, *shape), dtype) for shape, dtype in expected]
    if len(found) != len(expected):
        raise StructureError(f"rows of chunk {number} return {len(found)} arrays, the first row {len(expected)}")
    for x, (shape, dtype) in zip(found, expected, strict=True):
        if x.shape[1:] != shape or np.result_type(x.dtype, dtype) != dtype:
            raise StructureError(
                f"rows of chunk {number} return {x.dtype} arrays of shape {x.shape[1:]}, the first row a {dtype} array "
                f"of shape {shape}: all branches must return the same"
            )
    return [x.astype(dtype, copy=False) for x, (_, dtype) in zip(found, expected, strict=True)]


def _on_rows(
    compute: Callable[[Recording, list[Any], list[int | None], int], list[np.ndarray]], payload: Payload,
    shared: Sequence[Any], names: Sequence[str], number: int, chunks: Sequence[Any],
) -> Part:  # fmt: skip
    """What is computed of the rows of a chunk, with the recording that is here, or one that is made here where rows
    take a branch that it does not have."""
    function = opened(payload)
    with _in_chunk(number):
        arrays, rows = checked(chunks, names)
        if not rows:
            return 0, None
        leaves, axes = put_together(shared, arrays)
        with _one_blas_thread(), function.prepared(rows):
            try:
                return rows, compute(function.recording, leaves, axes, rows)
            except BranchError as error:
                return rows, compute(function.after(error), leaves, axes, rows)


_limit = contextlib.ExitStack()
_limit_lock, _within = threading.Lock(), 0


@contextlib.contextmanager
def _one_blas_thread() -> Iterator[None]:
    """Within the block the BLAS uses one thread: a worker has several tasks at work at once, and products by several
    threads may differ in their last digits. The limit is the process's, so the last task to end lifts it."""
    global _within
    with _limit_lock:
        if not _within:
            _limit.enter_context(blas_threads(1))
        _within += 1
    try:
        yield
    finally:
        with _limit_lock:
            _within -= 1
            if not _within:
                _limit.close()


def put_together(shared: Sequence[Any], arrays: Sequence[np.ndarray]) -> tuple[list[Any], list[int | None]]:
    """The leaves of the arguments with rows in their places, and for each the axis of its rows."""
    rows = iter(arrays)
    leaves = [next(rows) if x is Rows else x for x in shared]
    return leaves, [0 if x is Rows else None for x in shared]


def checked(chunks: Sequence[Any], names: Sequence[str]) -> tuple[list[np.ndarray], int]:
    """Chunks as arrays, and how many rows each has.

    Raises UnsupportedError for arrays that calculate otherwise than NumPy's, DTypeError for what holds no real numbers,
    ShapeError where the numbers of rows differ.
    """
    arrays = []
    for chunk, name in zip(chunks, names, strict=True):
        refuse_unlike(chunk, name)
        x = np.asarray(chunk)
        if x.dtype.kind not in "fiub":
            raise DTypeError(f"{name} has a chunk of dtype {x.dtype}: rows must be real numbers, all of one shape")
        if not x.ndim:
            raise ShapeError(f"{name} has a chunk without axes: rows lie along the first one")
        arrays.append(x)
    if len({len(x) for x in arrays}) > 1:
        counts = ", ".join(f"{name} has {len(x)}" for name, x in zip(names, arrays, strict=True))
        raise ShapeError(f"chunks of arguments have different numbers of rows: {counts}")
    return arrays, len(arrays[0])
