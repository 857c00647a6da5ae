"""The places that instructions read, and errors: operands that an instruction refused, and leaves that were assigned
after they were used."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import InPlaceError, OperationError
from tapegrad.ops import RUN, TABLE, record
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.instruction import instruction


def operand_spans(row: np.ndarray, side: np.ndarray) -> list[tuple[int, int]]:
    """The places in the arena that an instruction reads, as (first, past the last)."""
    if row[0] < RUN:
        return [(int(x), int(x) + 1) for x in row[2:]]
    return [(low, high) for _, low, high in record.operand_spans(side, int(row[2]))]


def operand_slots(row: np.ndarray, side: np.ndarray) -> list[int]:
    """The places of the first elements of an instruction's operands."""
    if row[0] < RUN:
        return [int(x) for x in row[2:]]
    return [slot for slot, _, _ in record.operand_spans(side, int(row[2]))]


def operand_error(row: np.ndarray, side: np.ndarray, values: np.ndarray) -> Exception:
    """The error for an instruction that refused its operands, made by the operation's rule `refusal` if it has one."""
    op = int(row[0])
    operation: Any = TABLE[op % RUN]
    error = None
    if op >= RUN and getattr(operation, "refusal", None) is not None:
        found = instruction(row[None], side, 0)
        numbers = [values[x.places()].reshape(x.layout.shape) for x in found.operands]
        error = operation.refusal(found.params, *numbers)
    return error or OperationError(f"the kernel of {operation.name} is missing, or refused its operands")


def refused(row: np.ndarray, side: np.ndarray, values: np.ndarray) -> Exception:
    """As `operand_error`; besides, the results of the instruction are set to NaN."""
    n = int(row[3]) if row[0] >= RUN else 1
    values[row[1] : row[1] + n] = np.nan
    return operand_error(row, side, values)


def check_editable(tape: Any, row: np.ndarray) -> None:
    """Raise InPlaceError unless the instruction is a leaf whose numbers may be assigned."""
    if tape.recording:
        raise InPlaceError("`data` was assigned inside a recorded function: a replay would not repeat it")
    if row[0] != LEAF:
        raise InPlaceError(
            f"`data` of the result of {TABLE[int(row[0]) % RUN].name} cannot be assigned: it follows from its "
            "operands. Assign to a value made by Value(...) instead"
        )


def check_unedited(tape: Any, rows: np.ndarray) -> None:
    """Raise InPlaceError if a leaf was assigned after one of these instructions used it."""
    last = max(tape.edits.values(), default=0)
    # Only instructions from before the last assignment can have used an old number. Usually there are none but leaves,
    # because the expression was computed again after the assignment; then nothing more need be looked at.
    before = rows[: np.searchsorted(rows, last)]
    before = before[tape.code[before, 0] != LEAF]
    if not len(before):
        return
    spans = [(int(i), span) for i in before for span in operand_spans(tape.code[i], tape.side)]
    at, low, high = (np.array(x) for x in zip(*((i, x, y) for i, (x, y) in spans), strict=True))
    for (slot, size), position in tape.edits.items():
        place = tape.locate(slot)
        hit = (at < position) & (low < place + size) & (high > place)
        if hit.any():
            op = int(tape.code[at[hit][0], 0])
            label = next((name for (start, _), name in tape.labels.items() if start == slot), None)
            raise InPlaceError(
                f"`data` of {'leaf ' + repr(label) if label else 'a leaf'} was assigned after {TABLE[op % RUN].name} "
                "used it: the gradient would mix old and new numbers. Compute the expression again after the assignment"
            )
