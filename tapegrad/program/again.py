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
from tapegrad.tape import LEAF, Tape, writing
from tapegrad.value import Value, contiguous, handle, integer_at


def can_be_written(program: Program) -> bool:
    """Whether each output of a program is at consecutive places, so that one dense Value can refer to it."""
    return all(
        o.places is None or bool(np.array_equal(o.places, o.places[0] + np.arange(len(o.places))))
        for o in program.code.outputs
    )


def write(program: Program, tape: Tape, inputs: Sequence[Value]) -> Any:
    """Append a program to a tape on which a function is being recorded; returns what the program returns, as Values.

    `inputs` are Values on that tape, which take the places of the program's inputs.
    """
    code = program.code
    # For each place of the program, the slot of that number on the tape.
    slots = np.zeros(code.size + 1, np.int64)
    for (at, n), x in zip(code.spans, inputs, strict=True):
        slots[at : at + n] = contiguous(x)._slot + np.arange(n)
    _write_constants(program, tape, slots)
    tape.flush()
    steps, total = code.steps, int(code.counts.sum())
    first = tape.allocate(total)
    new = first + np.cumsum(code.counts) - code.counts
    offsets = np.arange(total) - np.repeat(new - first, code.counts)
    slots[np.repeat(steps[:, OUT].astype(np.int64), code.counts) + offsets] = first + np.arange(total)
    writing.write(tape, *_moved(code.steps, code.side, slots, new, tape.side_length), [])
    tape.calls |= program.calls
    tape.spliced = True
    for (place, n), label in code.labels.items():
        tape.labels.setdefault((int(slots[place]), n), label)
    return pytree.unflatten(program.structure, [_output(tape, slots, o) for o in code.outputs])


def _write_constants(program: Program, tape: Tape, slots: np.ndarray) -> None:
    leaves, at = program.code.rows[program.code.inputs :], 0
    for out, n in leaves[leaves[:, OPCODE] == LEAF][:, [OUT, B]].tolist():
        numbers = program.code.constants[at : at + n]
        at += n
        slot = tape.constant(float(numbers[0])) if n == 1 else tape.leaf(numbers, n, False)
        slots[out : out + n] = slot + np.arange(n)


def _moved(
    steps: np.ndarray, side: np.ndarray, slots: np.ndarray, new: np.ndarray, base: int
) -> tuple[np.ndarray, np.ndarray]:
    """Instructions and records with slots of the tape in place of the program's places. The records are to be written
    to the tape's side array from `base` on."""
    rows, wide = steps.astype(np.int64), steps[:, OPCODE] >= RUN
    rows[:, OUT] = new
    rows[~wide, A:] = slots[steps[~wide, A:]]
    if not wide.any():
        return rows, side[:0]
    side, starts = side.copy(), steps[wide, A].astype(np.int64)
    side[place_result(starts)] = new[wide]
    operands, _ = operand_places(side, starts)
    side[operands] = slots[side[operands]]
    rows[wide, A] = starts + base
    return rows, side


def _output(tape: Tape, slots: np.ndarray, output: Any) -> Any:
    if output.places is None:
        return np.zeros(output.shape, tape.dtype) if isinstance(output.constant, Value) else output.constant
    slot = int(slots[output.places[0]])
    if output.whole:
        tape.evaluate()
        return integer_at(tape, slot, int(tape.values[tape.locate(slot)]))
    return handle(tape, slot, dense(output.shape) if output.shape else None)
