"""`vmap`: a function of one input as a function of many."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import evaluation
from tapegrad.arguments import Input
from tapegrad.batch import axes as axes_of
from tapegrad.batch.blocks import thread_count
from tapegrad.batch.on_values import batch_on_values
from tapegrad.batch.runs import Results, Run, lane_of
from tapegrad.errors import OuterValueError, ShapeError
from tapegrad.made import made
from tapegrad.native import choice
from tapegrad.recording import behind, branches_of, known, known_with_keywords, on_values
from tapegrad.value import Value
from tapegrad.value.exact import limit

P = ParamSpec("P")


def vmap(
    f: Callable[P, Any], in_axes: Any = 0, out_axes: Any = 0, *, threads: int | None = None,
    compile: bool | None = None,
) -> Callable[..., Any]:  # fmt: skip
    """A function of batches that calls f for each of their lanes, as `jax.vmap`.

    Args:
        f: a function of one lane, as `record` takes it; derivatives, and what `vmap` returns, among them.
        in_axes: for each argument the axis along which its lanes are, None for one that is the same for all; or nested
            like the arguments, as far as it goes; or one for all arguments. Negative ones count from the end. Keyword
            arguments have their lanes along axis 0.
        out_axes: where results have the axis of lanes, likewise; None for what is the same in all lanes.
        threads: on how many threads blocks of lanes are computed, else as many as TAPEGRAD_THREADS says, else one.
            Results are the same to the last bit for any number.
        compile: as for `value_and_grad`.

    f is recorded for one lane, and its program written for a block of lanes, in which each instruction works on all of
    them: numbers become vectors, and a product of a matrix and a vector one of two matrices. Where f branches on a
    number, lanes that take another branch are computed together by a program of their own: each goes the way that it
    would go alone. A function whose branches differ in every lane is called for each. Integers, one a lane, are numbers
    that guards hold where they decide something, as in `range(n)`, so lanes with the same integers go together. Random
    numbers that f draws while it is recorded are the same in all lanes: pass them as arguments.

    Called with Values, or while a function is being recorded, the batch is written on their tape, so that `grad`,
    `jacobian`, `hessian`, `record` and `vmap` nest in every mix. There guards hold each lane to its branch, and a
    recording is made again where any lane leaves it.

    Raises ShapeError where an argument has no such axis, where the numbers of lanes differ, for an empty batch, and for
    `out_axes=None` of a result that differs from lane to lane; StructureError where lanes return different shapes; what
    f raises in any lane, with a note that names the lane.

    >>> import numpy as np
    >>> from tapegrad import grad
    >>> f = lambda x, k: np.sum(np.sin(x) * k)
    >>> vmap(f, in_axes=(0, None))(np.zeros((3, 2)), 1.0)
    array([0., 0., 0.])
    >>> vmap(grad(f), in_axes=(0, None))(np.zeros((3, 2)), 2.0)
    array([[2., 2.],
           [2., 2.],
           [2., 2.]])
    >>> vmap(lambda x: x * x if x < 1.0 else 2.0 * x)(np.array([0.5, 3.0]))
    array([0.25, 6.  ])
    """
    own, forced = behind(f, compile)
    own = on_values(own)

    @functools.wraps(f)
    def batched(*args: Any, **kwargs: Any) -> Any:
        given = (*args, kwargs) if kwargs else args
        leaves, structure = pytree.flatten(given)
        said = axes_of.of_arguments(in_axes, args, kwargs)
        leaves = [
            x if axis is None or isinstance(x, Value) else _array(x) for x, axis in zip(leaves, said, strict=True)
        ]
        axes, total = axes_of.checked(said, leaves, pytree.paths(structure, "args"))
        recordings = (known_with_keywords if kwargs else known)(own, forced)
        if not evaluation.on_tape(given):
            try:
                recording, _ = recordings.at(lane_args(leaves, axes, structure, 0))
                found = run(recording, leaves, axes, total, threads)
                return put_together(found, out_axes)
            except OuterValueError:
                # The function uses a Value from around it, so what it returns is a Value that depends on that.
                leaves = [Value(x) if evaluation.is_float(x) and not isinstance(x, Value) else x for x in leaves]
        call = (lambda *parts: own(*parts[:-1], **parts[-1])) if kwargs else own
        return batch_on_values(call, recordings, leaves, axes, total, structure, out_axes)

    by: Any = vmap if threads is None else functools.partial(vmap, threads=threads)
    return made(batched, compile, by, f, in_axes, out_axes)


def _array(x: Any) -> Any:
    """An argument with lanes as an array, where it is one or can be seen as one."""
    return np.asarray(x) if hasattr(x, "__array__") else x


def lane_args(leaves: Sequence[Any], axes: Sequence[int | None], structure: Any, lane: int) -> Any:
    """The arguments of one lane."""
    own = [x if axis is None else lane_of(x, axis, lane) for x, axis in zip(leaves, axes, strict=True)]
    return pytree.unflatten(structure, own)


def run(
    recording: Any, leaves: Sequence[Any], axes: Sequence[int | None], total: int, threads: int | None
) -> Results:
    """The results of a recorded function of one lane for all lanes of plain arrays."""
    check_integers(recording, leaves, axes)
    how = choice.mode(recording.forced)
    return Run(branches_of(recording), leaves, axes, total, how, thread_count(threads)).all_lanes()


def check_integers(recording: Any, leaves: Sequence[Any], axes: Sequence[int | None]) -> None:
    """Raise ShapeError where a lane has an integer that a tape does not hold exactly."""
    most = limit(branches_of(recording).dtype)
    for spec, x, axis in zip(recording.spec.leaves, leaves, axes, strict=True):
        if axis is None or x.ndim != 1 or x.dtype.kind not in "iu":
            continue
        low, high = int(x.min()), int(x.max())
        if not (isinstance(spec, Input) and -most <= low and high <= most):
            raise ShapeError(
                f"vmap: a lane has the integer {high if high > most else low}; integers of a batch are at most {most}, "
                "which a tape holds exactly"
            )


def put_together(found: Results, out_axes: Any) -> Any:
    """What a batch returns: results nested as those of one lane, with lanes along the axes that `out_axes` says."""
    marks = pytree.unflatten(found.structure, [0.0] * len(found.found))
    axes = axes_of.spread(out_axes, marks, "out_axes")
    outputs = []
    for axis, (array, shared), shape in zip(axes, found.found, found.shapes, strict=True):
        if array is None and axis is None:
            outputs.append(shared)
        elif axis is None:
            raise ShapeError(f"vmap: out_axes is None for a result of shape {shape} that differs from lane to lane")
        else:
            at = axes_of.position(axis, len(shape) + 1)
            whole = np.broadcast_to(shared, (found.total, *shape)).copy() if array is None else array
            outputs.append(np.moveaxis(whole, 0, at))
    return pytree.unflatten(found.structure, outputs)
