"""Value and gradient, summed over the rows of data that lie on a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.dask import tasks
from tapegrad.dask.arguments import Arguments
from tapegrad.dask.functions import Function
from tapegrad.dask.graphs import Graph
from tapegrad.errors import NonScalarError, ShapeError
from tapegrad.recording.plans import hashable


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, mean: bool = False, compile: bool | None = None,
    patience: float = 60.0,
) -> Callable[..., tuple[float, Any]]:  # fmt: skip
    """A function that sums the value and the gradient of f over all rows of Dask arrays.

    For parameters w and rows (x, y), it returns Σ f(w, x[i], y[i]) and Σ ∇f(w, x[i], y[i]), or with `mean` both divided
    by the number of rows.

    Args:
        f: a function of one row that returns one number, as `tapegrad.record` takes it. Of its arguments those that are
            given as Dask arrays (or frames and series of Dask's) have rows along their first axis, f gets one of them;
            everything else, parameters above all, is the same for every row. Both may be nested.
        argnums: the arguments with respect to which the gradient is taken; they have no rows.
        mean: whether to divide by the number of rows. Chunks of different lengths count by their rows.
        compile: as for `tapegrad.record`. None compiles wherever that pays, in all workers alike.
        patience: for how many seconds the cluster may be without scheduler or workers before that is an error.

    Each chunk of rows is one task: the recorded function is replayed in the worker that has the chunk, for blocks of
    rows at once (as by `Recording.batch.value_and_grad_sum`), and what comes back are its number of rows and sums in
    float64. These are added up in a tree, always in the same order, so that the result has the same bits for any number
    of workers, as long as the chunks are the same and the workers' processors alike. Parameters are sent once to each
    worker. Where f branches on a number, each row goes its own way. Only one row is read on the client, the first, to
    record f at.

    What travels is the recording, as plain arrays. The code of f travels (by cloudpickle) where it has branches, or
    calls Python functions.

    The gradient is nested as the arguments are, in their dtypes.

    Raises ShapeError where there is no row, where no argument is a Dask array, or where the numbers of rows differ;
    NonScalarError unless f returns one number; IntegerInputError where an argument of `argnums` has rows or holds
    integers; DTypeError, StructureError for what is not made of real numbers; UnsupportedError for a function that
    cannot be sent; ClusterError where the cluster has no scheduler or workers, where these end again and again at one
    chunk, or have another version of tapegrad; and what f raises in any row, with the number of the chunk.

    >>> import dask.array as da
    >>> x, y = da.arange(6.0, chunks=6).reshape(3, 2), da.ones(3, chunks=2)
    >>> loss = value_and_grad(lambda w, x, y: (x @ w - y) ** 2)
    >>> loss(np.zeros(2), x, y)
    (3.0, array([-12., -18.]))
    >>> value_and_grad(lambda w, x, y: (x @ w - y) ** 2, mean=True)(np.zeros(2), x, y)
    (1.0, array([-4., -6.]))
    """
    sums = Sums(f, argnums, compile, patience)

    @functools.wraps(f)
    def summed(*args: Any) -> tuple[float, Any]:
        rows, value, gradient = sums.over(args, mean)
        if not rows:
            raise ShapeError("the batch is empty: no chunk of the arguments has a row")
        return value, gradient

    return summed


class Sums:
    """A function of one row, whose value and gradient are summed; see `value_and_grad`."""

    def __init__(
        self, f: Callable[..., Any], argnums: int | Sequence[int], compile: bool | None, patience: float
    ) -> None:
        self._function, self._argnums = Function(f, compile, patience), hashable(argnums)

    def over(self, args: Sequence[Any], mean: bool) -> tuple[int, float, Any]:
        """How many rows there are, and the value and the gradient, summed over them or on average. Without a row these
        are 0 and None."""
        arguments = Arguments(args)
        arguments.check_argnums(self._argnums)
        ready = self._function.ready(arguments)
        batch: Any = ready.recording.batch
        try:
            batch.check_summed(self._argnums)
        except NonScalarError as error:
            error.add_note("f gets one row of each Dask array; arguments that are none are the same for every row")
            raise
        graph = Graph("sums", arguments)
        payload = graph.add(("function",), tasks.same, ready.payload)
        shared = graph.add(("arguments",), tasks.same, arguments.shared)
        given = payload, shared, arguments.names
        parts = [
            graph.add_on_rows(("chunk", i), i, tasks.sums_of_chunk, *given, i, self._argnums)
            for i in range(arguments.chunks)
        ]
        rows, sums = graph.compute(graph.total(parts, tasks.added), self._function.patience)
        if sums is None:
            return 0, 0.0, None
        return rows, *batch.shaped([np.asarray(x / rows) for x in sums] if mean else sums, self._argnums)
