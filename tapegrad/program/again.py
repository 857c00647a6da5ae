"""A recorded program written on another tape: what its function would record there, without calling the function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.layout import dense
from tapegrad.ops import RUN
from tapegrad.ops.record import OPCODE, OUT, A, B, operand_places, place_result
from tapegrad.program.program import Program
from tapegrad.sweeps.owners import Owners, owners, translate
from tapegrad.tape import LEAF, Tape, writing
from tapegrad.tape.lines import copied
from tapegrad.value import Value, contiguous, handle, integer_at


def can_be_written(program: Program) -> bool:
    """Whether each output of a program is at consecutive places, so that one dense Value can refer to it."""
    return all(o.place is None or o.layout.dense for o in program.code.outputs)


def write(program: Program, tape: Tape, inputs: Sequence[Value]) -> Any:
    """Append a program to a tape on which a function is being recorded; returns what the program returns, as Values.

    `inputs` are Values on that tape, which take the places of the program's inputs.
    """
    return write_with(program, tape, inputs, [])[0]


def write_with(
    program: Program, tape: Tape, inputs: Sequence[Value], rows: Sequence[int]
) -> tuple[Any, list[Value]]:
    """As `write`; returns besides the results of some rows of the code, as dense Values of one axis."""
    code = program.code
    # For each instruction of the program, the slot on the tape of the first number of its result.
    to = np.zeros(len(code.rows), np.int64)
    for i, x in enumerate(inputs):
        to[i] = contiguous(x)._slot
    _write_constants(program, tape, to)
    tape.flush()
    is_step = code.rows[:, OPCODE] != LEAF
    first = tape.allocate(int(code.counts.sum()))
    to[is_step] = first + np.cumsum(code.counts) - code.counts
    found = owners(code.rows[:, OUT])
    writing.write(tape, *moved_steps(code.steps, code.side, found, to, to[is_step], tape.side_length), [])
    copied(tape, to[is_step], program.lines, np.flatnonzero(is_step))
    tape.calls |= program.calls
    tape.spliced = True
    for (place, n), label in code.labels.items():
        tape.labels.setdefault((found.moved(place, to), n), label)
    counts = np.where(code.rows[:, OPCODE] == LEAF, code.rows[:, B], 1)
    counts[is_step] = code.counts
    wanted = [handle(tape, int(to[row]), dense((int(counts[row]),))) for row in rows]
    return pytree.unflatten(program.structure, [_output(tape, found, to, o) for o in code.outputs]), wanted


def _write_constants(program: Program, tape: Tape, to: np.ndarray) -> None:
    rows, at = program.code.rows, 0
    for i in (program.code.inputs + np.flatnonzero(rows[program.code.inputs :, OPCODE] == LEAF)).tolist():
        n = int(rows[i, B])
        numbers = program.code.constants[at : at + n]
        at += n
        to[i] = tape.constant(float(numbers[0])) if n == 1 else tape.leaf(numbers, n, False)


def moved_steps(
    steps: np.ndarray, side: np.ndarray, found: Owners, to: np.ndarray, new: np.ndarray, base: int
) -> tuple[np.ndarray, np.ndarray]:
    """Instructions and records with slots of the tape in place of the program's places: what an instruction made there
    begins at the slot that `to` has for it. The records are to be written to the tape's side array from `base` on."""
    rows, wide = steps.astype(np.int64), steps[:, OPCODE] >= RUN
    rows[:, OUT] = new
    places = rows[~wide, A:].reshape(-1)
    translate(places, *found, to)
    rows[~wide, A:] = places.reshape(-1, 3)
    if not wide.any():
        return rows, side[:0]
    side, starts = side.copy(), steps[wide, A].astype(np.int64)
    side[place_result(starts)] = new[wide]
    operands, _ = operand_places(side, starts)
    places = side[operands]
    translate(places, *found, to)
    side[operands] = places
    rows[wide, A] = starts + base
    return rows, side


def _output(tape: Tape, found: Owners, to: np.ndarray, output: Any) -> Any:
    if output.place is None:
        return np.zeros(output.shape, tape.dtype) if isinstance(output.constant, Value) else output.constant
    slot = found.moved(output.place, to)
    if output.whole:
        tape.evaluate()
        return integer_at(tape, slot, int(tape.values[tape.locate(slot)]))
    # What is no stretch of places is a view of one result, which stands on this tape in the same order.
    layout = dense(output.shape) if output.layout.dense else output.layout
    return handle(tape, slot, layout if output.shape else None)
