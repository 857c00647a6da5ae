"""The templates of operations as arrays, for compiled code."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from tapegrad.adjoint.expand.symbols import STEPS, Template, traced
from tapegrad.ops import TABLE, Elementwise
from tapegrad.sweeps.marks import EXPECT, LEAF

# Operands that a scalar instruction can have, and with them the steps of a template.
MAX_ARITY = 2


class Tables(NamedTuple):
    """Templates side by side; all but the last two have an entry for each opcode."""

    arity: np.ndarray
    first: np.ndarray  # its first step, in `steps`
    count: np.ndarray  # how many steps it has
    partials: np.ndarray  # (opcodes, operands): what stands for each partial
    needs: np.ndarray  # (opcodes, operands + 1): `needed` from here up to the next says which steps a partial takes
    rows: np.ndarray  # at most so many instructions are written for one
    steps: np.ndarray  # opcode and references, see `symbols`
    needed: np.ndarray


class Templates(NamedTuple):
    """Templates of some operations: tables, the constants that they name, and which opcodes have one."""

    tables: Tables
    constants: tuple[float, ...]
    has: np.ndarray


@functools.lru_cache(256)
def templates(opcodes: tuple[int, ...]) -> Templates:
    """The templates of operations. Raises OperationError for rules that cannot be written as instructions."""
    n = len(TABLE)
    arity, first, count, rows = (np.zeros(n, np.int64) for _ in range(4))
    partials, needs = np.zeros((n, 3), np.int64), np.zeros((n, 4), np.int64)
    steps: list[tuple[int, ...]] = []
    needed: list[int] = []
    constants: dict[bytes, tuple[int, float]] = {}
    has = np.zeros(n, bool)
    for opcode in opcodes:
        row = TABLE[opcode]
        template = traced(row) if isinstance(row, Elementwise) and opcode not in (LEAF, EXPECT) else None
        if template is None or row.arity > MAX_ARITY or any(len(s.operands) > MAX_ARITY for s in template.steps):
            continue
        has[opcode] = True
        # The same number has one place among all constants. Zero has two signs that compare equal.
        own = [constants.setdefault(np.float64(x).tobytes(), (len(constants), x))[0] for x in template.constants]
        reference = lambda r, own=own: -1 - own[-1 - r] if r < 0 else r
        arity[opcode], first[opcode], count[opcode] = row.arity, len(steps), len(template.steps)
        # A product and a sum for each operand, and as many constants that come of folding.
        rows[opcode] = 2 * len(template.steps) + 4 * row.arity
        for step in template.steps:
            operands = [reference(r) for r in step.operands]
            steps.append((step.opcode, *operands, *operands[:1] * (3 - len(operands))))
        for j, r in enumerate(template.partials):
            partials[opcode, j] = reference(r)
            needs[opcode, j] = len(needed)
            needed += _steps_for(template, r)
            needs[opcode, j + 1] = len(needed)
    table = np.array(steps, np.int64).reshape(-1, 4)
    tables = Tables(arity, first, count, partials, needs, rows, table, np.array(needed, np.int64))
    return Templates(tables, tuple(x for _, x in constants.values()), has)


def _steps_for(template: Template, reference: int) -> list[int]:
    """The steps that something depends on, ascending."""
    found = set()
    left = [reference]
    while left:
        step = left.pop() - STEPS
        if step >= 0 and step not in found:
            found.add(step)
            left += template.steps[step].operands
    return sorted(found)
