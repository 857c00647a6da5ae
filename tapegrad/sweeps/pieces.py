"""Long sweeps in pieces, so that Ctrl-C takes effect soon.

Python looks for signals between its own instructions, so not while compiled code runs. A sweep that may take long is
therefore one compiled call after the other, each over a stretch of the instructions. A single instruction is not cut.
"""

from __future__ import annotations

import numpy as np

from tapegrad.compiled.callable import INTERPRETED
from tapegrad.ops import BY_NAME, RUN
from tapegrad.ops.record import INSIDE, LAST, OPCODE, A, B, group_flag, operand_sizes

# The work of one piece, in scalar operations: some tenths of a second.
ENOUGH = 10_000_000
# How many products of a matrix product take the time of one scalar operation.
_PRODUCTS = 32


def is_short(work: float) -> bool:
    """Whether so many scalar operations are one piece."""
    return work < ENOUGH


def pieces(code: np.ndarray, side: np.ndarray, flags: np.ndarray, size: int, lanes: int = 1) -> list[int] | None:
    """Where to cut the instructions of a sweep: the numbers of the first of each piece, and how many there are.

    None if the sweep is short. `size` is that of the arena, `lanes` how many adjoints or tangents a slot has.
    """
    # No instruction over many elements is more work than the whole arena, except a product of matrices.
    if (len(code) * size * lanes < ENOUGH and size < ENOUGH // _PRODUCTS) or INTERPRETED:
        return None
    runs = np.flatnonzero(code[:, OPCODE] >= RUN)
    if len(code) * lanes < ENOUGH and not len(runs):
        return None
    starts = code[runs, A].astype(np.int64)
    work = np.ones(len(code))
    work[runs] = np.maximum(code[runs, B], 1)
    sizes, number = operand_sizes(side, starts)
    np.add.at(work, runs[number], sizes)
    products = runs[np.isin(code[runs, OPCODE], [BY_NAME[name].opcode + RUN for name in ("matmul", "affine")])]
    if len(products):
        volume = np.ones(len(code))
        own = np.isin(runs[number], products)
        np.multiply.at(volume, runs[number[own]], np.maximum(sizes[own], 1))
        work[products] += np.sqrt(volume[products] * code[products, B]) / _PRODUCTS
    done = np.cumsum(work * lanes)
    if done[-1] < 2 * ENOUGH:
        return None
    cuts = np.searchsorted(done, np.arange(ENOUGH, done[-1], ENOUGH))
    # Runs that are computed together, block by block, stay together.
    together = np.zeros(len(code), bool)
    together[runs] = np.isin(flags[group_flag(starts)], (INSIDE, LAST))
    free = np.flatnonzero(~together)
    after = np.searchsorted(free, cuts)
    cuts = free[after[after < len(free)]]
    return np.unique([0, *cuts, len(code)]).tolist()
