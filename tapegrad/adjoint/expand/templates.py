"""The templates of operations as arrays, for compiled code."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from tapegrad.adjoint.expand.symbols import STEPS, Template, traced
from tapegrad.ops import TABLE, Elementwise
from tapegrad.sweeps.marks import EXPECT, LEAF

# The most operands that a scalar instruction can have, and so a step of a template, which becomes one.
MAX_ARITY = 3


class Tables(NamedTuple):
    """Templates side by side. All arrays but `steps` have an entry for each opcode.

    The partial derivative by an operand takes the rows of `steps` from `first[opcode, operand]` up to
    `first[opcode, operand + 1]`. A row has the number of a step in the template, its opcode and three references. The
    last row of a partial derivative is no step: its first reference is that of the derivative.
    """

    arity: np.ndarray
    length: np.ndarray  # how many steps the template has
    room: np.ndarray  # the most instructions that are written for one of this opcode
    first: np.ndarray
    steps: np.ndarray


class Templates(NamedTuple):
    """Templates of some operations: as tables, the constants that they use, and which opcodes have a template."""

    tables: Tables
    constants: tuple[float, ...]
    has: np.ndarray


@functools.lru_cache(256)
def templates(opcodes: tuple[int, ...]) -> Templates:
    """The templates of operations. Raises OperationError for rules that cannot be written as instructions."""
    n = len(TABLE)
    arity, length, room = (np.zeros(n, np.int64) for _ in range(3))
    first = np.zeros((n, 4), np.int64)
    steps: list[tuple[int, ...]] = []
    constants: dict[bytes, tuple[int, float]] = {}
    has = np.zeros(n, bool)
    for opcode in opcodes:
        row = TABLE[opcode]
        template = traced(row) if isinstance(row, Elementwise) and opcode not in (LEAF, EXPECT) else None
        if template is None or row.arity > MAX_ARITY or any(len(s.operands) > MAX_ARITY for s in template.steps):
            continue
        has[opcode] = True
        # Equal constants share one entry. They are compared by their bits, because 0.0 and -0.0 compare equal.
        at = [constants.setdefault(np.float64(x).tobytes(), (len(constants), x))[0] for x in template.constants]
        reference = lambda r, at=at: -1 - at[-1 - r] if r < 0 else r
        arity[opcode], length[opcode] = row.arity, len(template.steps)
        # Each step writes one instruction at most, and so do the product and the sum for each operand.
        room[opcode] = len(template.steps) + 2 * row.arity
        for j, r in enumerate(template.partials):
            first[opcode, j] = len(steps)
            for m in _steps_for(template, r):
                own = [reference(x) for x in template.steps[m].operands]
                steps.append((m, template.steps[m].opcode, *own, *own[-1:] * (3 - len(own))))
            steps.append((-1, 0, *[reference(r)] * 3))
            first[opcode, j + 1] = len(steps)
    table = np.array(steps, np.int64).reshape(-1, 5)
    return Templates(Tables(arity, length, room, first, table), tuple(x for _, x in constants.values()), has)


def _steps_for(template: Template, reference: int) -> list[int]:
    """The numbers of the steps that a reference depends on, ascending."""
    found = set()
    left = [reference]
    while left:
        step = left.pop() - STEPS
        if step >= 0 and step not in found:
            found.add(step)
            left += template.steps[step].operands
    return sorted(found)
