"""Batches of Values: the program of one lane, written for all lanes on the tape where they are.

What is written are ordinary instructions, so derivatives of it can be written as of any others, and batches nest. Lanes
that take the same branch are written together. On a tape that is being recorded each lane is held to its branch by
guards of its own; where one of them fails in a replay, what was recorded is recorded again at the new numbers. These
guards, and what they compare, are written first, lane by lane: so they are found in the same order whatever branches
lanes take, and nothing is computed for a lane that is of another branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from tapegrad import pytree
from tapegrad.batch import axes as axes_of
from tapegrad.batch.programs import guards_of
from tapegrad.batch.writing import write_lanes
from tapegrad.carried import nothing_is_written
from tapegrad.errors import DTypeError, OuterValueError, ShapeError, StructureError, TapeMismatchError
from tapegrad.functions import stack
from tapegrad.program import Program, write
from tapegrad.recording import branches_of
from tapegrad.tape import Tape, current_tape
from tapegrad.tape.ambient import made_float64
from tapegrad.value import Value, as_value, integer_at

# What a function raises that cannot be recorded apart from the tape: it uses or returns Values from around it.
_NEEDS_TAPE = (OuterValueError, TapeMismatchError, StructureError)


def batch_on_values(
    f: Callable[..., Any], recordings: Any, leaves: list[Any], axes: Sequence[int | None], total: int, structure: Any,
    out_axes: Any,
) -> Any:  # fmt: skip
    """f for each lane, written on the tape of the Values among the leaves, or on the one that is being recorded.

    `recordings` are those of f that are kept; see `recording.known`.
    """
    tape = next((x._tape for x in leaves if isinstance(x, Value)), None) or current_tape()
    tape.evaluate()
    numbers = [_numbers(x, tape) if isinstance(x, Value) else x for x in leaves]

    def lane(i: int, of: Sequence[Any]) -> list[Any]:
        return [x if axis is None else _lane(x, axis, i) for x, axis in zip(of, axes, strict=True)]

    try:
        recording = recordings.at(pytree.unflatten(structure, lane(0, numbers)))[0]
        groups = _groups(branches_of(recording), [lane(i, numbers) for i in range(total)])
    except _NEEDS_TAPE:
        # It uses Values of this tape from around it: it is called for each lane, with Values.
        with nothing_is_written():
            called = [pytree.flatten(f(*pytree.unflatten(structure, lane(i, leaves)))) for i in range(total)]
        return _joined(called, out_axes)
    parts = []
    for program, _ in groups:
        _check_dtype(program, tape)
    if tape.recording:
        _write_guards(groups, leaves, axes, total, tape)
    for program, which in groups:
        inputs = [_input(leaves[i], axes[i], which, total, tape) for i in program.leaves]
        own = [axes[i] is not None for i in program.leaves]
        written = write_lanes(program, tape, inputs, own, len(which))
        outputs = [
            integer_at(tape, y._slot, _whole(y, tape)) if o.whole and not wide else y
            for y, wide, o in zip(written.outputs, written.batched, program.code.outputs, strict=True)
        ]
        parts.append((program, which, outputs, written.batched))
    return _merged(parts, total, out_axes)


def _numbers(x: Value, tape: Tape) -> Any:
    """The numbers of a Value as they are now: integers and truth values as such."""
    found = np.array(x._window(tape.values))
    kind = tape.kind(x._slot) if x.size else ""
    if x._is_integer:
        return int(found)
    if kind:
        return found.astype(np.int64 if kind == "i" else bool)
    return found if x._layout is not None else tape.dtype.type(found)


def _lane(x: Any, axis: int, i: int) -> Any:
    found = x[(slice(None),) * axis + (i,)]
    return np.asarray(found) if isinstance(found, np.bool_) else found


def _groups(branches: Any, lanes: list[list[Any]]) -> list[tuple[Program, np.ndarray]]:
    """The programs that lanes take, with the lanes that take each."""
    if not len(branches.program.guards) and not branches.stale:
        return [(branches.program, np.arange(len(lanes)))]
    found: dict[int, tuple[Program, list[int]]] = {}
    for i, leaves in enumerate(lanes):
        program = branches.fitting(leaves, always=True)
        found.setdefault(id(program), (program, []))[1].append(i)
    return [(program, np.array(which)) for program, which in found.values()]


def _check_dtype(program: Program, tape: Tape) -> None:
    if program.code.dtype.itemsize > tape.dtype.itemsize and not made_float64(tape):
        raise DTypeError(
            f"vmap: the function meets arrays of {program.code.dtype}, and its arguments are Values of {tape.dtype}: "
            f"make these of arrays of {program.code.dtype}"
        )


def _input(x: Any, axis: int | None, which: np.ndarray, total: int, tape: Tape) -> Value:
    """An argument for some lanes, which are its last axis."""
    value = as_value(x, tape, "an argument")
    if axis is None:
        return value
    moved: Any = np.moveaxis(cast(Any, value), axis, -1)
    if len(which) == 1:
        # One lane is a view, where an array of indices would copy it.
        return cast(Value, moved[..., which[0] : which[0] + 1])
    return cast(Value, moved if len(which) == total else moved[..., which])


def _whole(y: Value, tape: Tape) -> int:
    tape.evaluate()
    return int(y._window(tape.values))


def _write_guards(
    groups: Sequence[tuple[Program, np.ndarray]], leaves: Sequence[Any], axes: Sequence[int | None], total: int,
    tape: Tape,
) -> None:  # fmt: skip
    """Hold each lane to its branch."""
    taken = {int(i): program for program, which in groups if len(program.guards) for i in which}
    for i, program in sorted(taken.items()):
        inputs = [_input(leaves[k], axes[k], np.array([i]), total, tape) for k in program.leaves]
        own = [x if axes[k] is None else x[..., 0] for x, k in zip(inputs, program.leaves, strict=True)]
        write(guards_of(program), tape, own)


def _merged(parts: Sequence[Any], total: int, out_axes: Any) -> Any:
    """The results of all groups of lanes, as one."""
    structure = parts[0][0].structure
    for program, *_ in parts:
        if program.structure != structure:
            raise StructureError(f"lanes return what is nested differently: {structure} and {program.structure}")
    results = []
    for i, axis in enumerate(_out_axes(out_axes, structure)):
        shapes = {program.code.outputs[i].shape for program, *_ in parts}
        if len(shapes) > 1:
            raise StructureError(f"lanes return arrays of shapes {' and '.join(map(str, shapes))}: a batch has one")
        (shape,) = shapes
        if len(parts) == 1:
            results.append(_with_lanes(parts[0][2][i], parts[0][3][i], shape, total, axis))
            continue
        pieces = [
            y if wide else np.broadcast_to(np.expand_dims(y, -1), (*shape, len(which)))
            for _, which, outputs, batched in parts for y, wide in [(outputs[i], batched[i])]
        ]  # fmt: skip
        order = np.argsort(np.concatenate([which for _, which, *_ in parts]))
        whole: Any = np.concatenate(pieces, -1)
        results.append(_with_lanes(whole[..., order], True, shape, total, axis))
    return pytree.unflatten(structure, results)


def _out_axes(out_axes: Any, structure: Any) -> list[int | None]:
    marks = pytree.unflatten(structure, [0.0] * pytree.count(structure))
    return axes_of.spread(out_axes, marks, "out_axes")


def _with_lanes(y: Any, wide: bool, shape: tuple[int, ...], total: int, axis: int | None) -> Any:
    """A result with its lanes where `out_axes` says; they are its last axis if `wide`, else it is the same in all."""
    if axis is None:
        if wide:
            raise ShapeError(f"vmap: out_axes is None for a result of shape {shape} that differs from lane to lane")
        return y
    at = axes_of.position(axis, len(shape) + 1)
    if not wide:
        y = np.broadcast_to(np.expand_dims(y, -1), (*shape, total))
    return np.moveaxis(y, -1, at)


def _joined(called: list[tuple[list[Any], Any]], out_axes: Any) -> Any:
    """The results of calls, one for each lane, as one."""
    structure = called[0][1]
    for _, other in called:
        if other != structure:
            raise StructureError(f"lanes return what is nested differently: {structure} and {other}")
    results = []
    for i, axis in enumerate(_out_axes(out_axes, structure)):
        if axis is None:
            raise ShapeError("vmap: out_axes is None for a function that was called for each lane by itself")
        ys = [leaves[i] for leaves, _ in called]
        if len({np.shape(y) for y in ys}) > 1:
            raise StructureError("lanes return arrays of different shapes: those of a batch have one")
        results.append(stack(ys, axes_of.position(axis, np.ndim(ys[0]) + 1)))
    return pytree.unflatten(structure, results)
