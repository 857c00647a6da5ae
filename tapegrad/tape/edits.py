"""Assigning numbers to leaves: what may be assigned, and that no gradient mixes old and new numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import InPlaceError
from tapegrad.ops import RUN, TABLE
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.operands import operand_spans


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
