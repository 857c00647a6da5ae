"""Properties of all operations, as arrays by opcode."""

from __future__ import annotations

import numpy as np

from tapegrad.ops.rules import passes
from tapegrad.ops.spec import RUN, TABLE, Elementwise, Operation, Structured


def _is_passive(row: Operation) -> bool:
    # An elementwise operation lets no gradient through if its rule returns the number 0 for every operand.
    if isinstance(row, Structured):
        return row.passive
    return isinstance(row, Elementwise) and not any(passes(row))


_passive = np.zeros(0, np.uint8)


def passive_rows() -> np.ndarray:
    """For each opcode, 1 if the operation lets no gradient through."""
    global _passive
    if len(_passive) < len(TABLE):
        _passive = np.array([_is_passive(row) for row in TABLE], np.uint8)
    return _passive


def is_inlined(row: Operation, dtype: np.dtype) -> bool:
    """Whether an operation's scalar form has a branch of its own in the sweeps of a dtype."""
    return row.inline if dtype == np.float64 else row.inline_float32


_branched: dict[np.dtype, np.ndarray] = {}


def has_kernel(opcodes: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Which instructions are carried out by a kernel: runs, and scalar operations without a branch in the sweeps."""
    branched = _branched.get(dtype)
    if branched is None or len(branched) < len(TABLE):
        rows = [is_inlined(row, dtype) or type(row) is Operation for row in TABLE]
        branched = _branched[dtype] = np.array(rows, bool)
    return (opcodes >= RUN) | ~branched[opcodes % RUN]
