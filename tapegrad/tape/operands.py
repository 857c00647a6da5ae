"""The places in the arena that instructions read."""

from __future__ import annotations

import numpy as np

from tapegrad.ops import RUN, record


def operand_spans(row: np.ndarray, side: np.ndarray) -> list[tuple[int, int]]:
    """The places in the arena that an instruction reads, as (first, past the last)."""
    if row[0] < RUN:
        return [(int(x), int(x) + 1) for x in row[2:]]
    return [(low, high) for _, low, high in record.operand_spans(side, int(row[2]))]


def operand_starts(row: np.ndarray, side: np.ndarray) -> list[int]:
    """The places of the first elements of an instruction's operands."""
    if row[0] < RUN:
        return [int(x) for x in row[2:]]
    return [start for start, _, _ in record.operand_spans(side, int(row[2]))]
