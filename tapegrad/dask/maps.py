"""What a function, or its Jacobian, gives for each row: Dask arrays, computed when they are asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.dask import tasks
from tapegrad.dask.arguments import Arguments
from tapegrad.dask.functions import Function, Ready
from tapegrad.dask.graphs import Graph
from tapegrad.dask.tasks import Rows
from tapegrad.recording.plans import hashable


def vmap(f: Callable[..., Any], *, compile: bool | None = None, patience: float = 60.0) -> Callable[..., Any]:
    """A function that calls f for each row of Dask arrays, lazily; `tapegrad.vmap` over chunks.

    Args:
        f: a function of one row, as for `value_and_grad`. It may return arrays, nested; derivatives are functions too:
            `vmap(tapegrad.grad(f))`.
        compile, patience: as for `value_and_grad`.

    The first row is computed at once, to record f at; the rest when it is asked for, with the parameters as they are
    now: they are copied. Results are Dask arrays, nested as what f returns, with rows along the first axis, in the
    chunks of the arguments.

    Raises what `value_and_grad` raises; StructureError, in the worker, where rows return arrays of other shapes or
    wider dtypes than the first row.

    >>> import dask.array as da
    >>> x = da.arange(4.0, chunks=2)
    >>> vmap(lambda w, x: w * x**2)(3.0, x).compute()
    array([ 0.,  3., 12., 27.])
    """
    return _mapped(f, "__call__", None, compile, patience)


def jacobian(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, *, compile: bool | None = None, patience: float = 60.0
) -> Callable[..., Any]:
    """A function that gives the Jacobian of f for each row of Dask arrays, lazily.

    Args:
        f: a function of one row, as for `vmap`.
        argnums: the arguments with respect to which the Jacobian is taken: parameters, or rows themselves.
        compile, patience: as for `value_and_grad`.

    For f from R^n to R^m it is, for N rows, a Dask array of shape (N, m, n); nested as `tapegrad.jacobian` has it.

    Raises what `vmap` raises, and IntegerInputError for an argument that holds integers.

    >>> import dask.array as da
    >>> x = da.arange(4.0, chunks=2).reshape(2, 2)
    >>> jacobian(lambda w, x: w * x**2, argnums=1)(3.0, x).compute()
    array([[[ 0.,  0.],
            [ 0.,  6.]],
    <BLANKLINE>
           [[12.,  0.],
            [ 0., 18.]]])
    """
    return _mapped(f, "jacobian", hashable(argnums), compile, patience)


def _mapped(
    f: Callable[..., Any], method: str, argnums: Any, compile: bool | None, patience: float
) -> Callable[..., Any]:
    function = Function(f, compile, patience)

    @functools.wraps(f)
    def mapped(*args: Any) -> Any:
        arguments = Arguments(args)
        ready = function.ready(arguments)
        first, structure = pytree.flatten(_of_first_row(arguments, ready, method, argnums))
        expected = [(x.shape[1:], x.dtype.str) for x in first]
        graph = Graph(method.strip("_"), arguments, lasts=True)
        payload = graph.add(("function",), tasks.same, ready.payload)
        # Rows may be computed when these have been changed in place, by an optimiser say.
        now = [np.array(x) if isinstance(x, np.ndarray) else x for x in arguments.shared]
        shared = graph.add(("arguments",), tasks.same, now)
        given = payload, shared, arguments.names
        parts = [
            graph.add_on_rows(("chunk", i), i, tasks.outputs_of_chunk, *given, i, method, argnums, expected)
            for i in range(arguments.chunks)
        ]
        return pytree.unflatten(structure, [graph.array(parts, k, x) for k, x in enumerate(first)])

    return mapped


def _of_first_row(arguments: Arguments, ready: Ready, method: str, argnums: Any) -> Any:
    """What there is for one row: its shapes and dtypes are those of all."""
    leaves, structure = pytree.flatten(ready.example)
    has_rows = [x is Rows for x in arguments.shared]
    leaves = [np.asarray(x)[None] if own else x for x, own in zip(leaves, has_rows, strict=True)]
    in_axes = pytree.unflatten(structure, [0 if own else None for own in has_rows])
    batch: Any = ready.recording.batch
    how = {} if argnums is None else {"argnums": argnums}
    return getattr(batch, method)(*pytree.unflatten(structure, leaves), in_axes=in_axes, **how)
