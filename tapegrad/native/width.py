"""How many rows of a loop are computed side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.compiled import vector
from tapegrad.native.ir import Item
from tapegrad.native.rows import Rows
from tapegrad.native.rules import calls
from tapegrad.native.schedule import Schedule
from tapegrad.native.vector_functions import NAMES

# Loops of at most so many items, over at least so many times as many rows as there are lanes, are widened.
_MOST_ITEMS, _LEAST_ROUNDS = 128, 16


def lanes_of(schedule: Schedule, dtype: np.dtype) -> int:
    """The lanes of all loops over rows of a program.

    As many as a register has; with elementary functions that are written into loops those of several registers. What
    one step of such a function gives the next one waits for, and a processor has time for other rows meanwhile. (For 20
    hyperbolic tangents in a chain four registers take half the time of one.)
    """
    bits = vector.register_bits()
    lanes = bits // (8 * dtype.itemsize)
    # Where there are 32 registers, and where there are 16.
    wide = lanes * (4 if bits == 512 else 2)
    loops = [node for node in schedule.nodes if isinstance(node, Rows)]
    found = [item for node in loops for item in node.all_items()]
    if not vector.is_wanted() or len(found) > _MOST_ITEMS or any(n.rows < _LEAST_ROUNDS * wide for n in loops):
        return lanes
    return wide if any(map(_waits, found)) and all(map(_side_by_side, found)) else lanes


def _waits(item: Item) -> bool:
    return item.row is not None and not NAMES.isdisjoint(calls(item.row))


def _side_by_side(item: Item) -> bool:
    """Whether the numbers of rows stand beside each other, or are the same for all."""
    refs: tuple[Any, ...] = (item.out, *item.operands)
    return not item.dims and all(ref.rows in (0, 1) for ref in refs)
