"""In which order a program is computed: its steps put into loops over rows, stretches of scalars, and what the
interpreter does."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from tapegrad.native.loops import additions, apart, natural_rows
from tapegrad.native.rows import Rows, is_worth_it
from tapegrad.native.rules import can_write
from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import OPCODE, OUT, A, operand_spans
from tapegrad.ops.reduction import sum_
from tapegrad.sweeps.owners import owners
from tapegrad.tape import EXPECT, Instruction, instruction

# The most numbers of a sum in each row, by the bytes of a number.
_SUMMED = {8: 1024, 4: 64}
# Scalar steps that follow each other stay together where they are at least so many: what each depends on is not asked.
_TOGETHER = 256


class Steps:
    """Steps of a program that are carried out one after the other: scalars, or by the interpreter.

    Attributes:
        numbers: of the steps, in order.
    """

    def __init__(self) -> None:
        self.numbers: list[int] = []


class Scalars(Steps):
    """Instructions on single numbers."""


class Interpreted(Steps):
    """What cannot be written, or is not worth it: the interpreter computes it."""


class Additions:
    """Numbers that are added to results of loops over rows.

    Attributes:
        pairs: the place of a result, and of what is added to it.
    """

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []


Node = Rows | Scalars | Interpreted | Additions


class Schedule:
    """The steps of a program in nodes, each of which depends on earlier ones only.

    Attributes:
        nodes: in order.
        reasons: why the interpreter computes what it does, by the name of the operation.
        made_by: for each result the node that computes it last; -1 for inputs and constants.
        spread: for each result whether several nodes compute parts of it.
    """

    def __init__(self, program: Any) -> None:
        self.program, self.steps, self.side = program, program.steps, program.code.side
        self.owners = owners(program.code.rows[:, OUT])
        self._starts = self.owners.starts.tolist()
        self.nodes: list[Node] = []
        self.reasons: dict[str, str] = {}
        self.made_by = np.full(len(program.code.rows), -1, np.int64)
        self.spread = np.zeros(len(program.code.rows), bool)
        self._last_guard = -1
        self._scalar_reasons = _scalar_reasons(self.steps)
        self._place_all()

    def owner(self, place: int) -> int:
        """The number of the instruction whose result a place is in."""
        # Of one place at a time, for which NumPy takes thirty times as long.
        return bisect_right(self._starts, place) - 1

    def _place_all(self) -> None:
        scalar = self.steps[:, OPCODE] < RUN
        edges = np.flatnonzero(np.diff(scalar.astype(np.int8), prepend=-1, append=-1))
        for start, stop in pairwise(edges.tolist()):
            if scalar[start] and stop - start >= _TOGETHER and not self._refused(slice(start, stop)).any():
                self._place_scalars(range(start, stop))
            elif scalar[start]:
                for i in range(start, stop):
                    if self._refused(slice(i, i + 1)).any():
                        self._interpret(i)
                    else:
                        self._place_scalars(range(i, i + 1))
            else:
                for i in range(start, stop):
                    self._place_run(i)

    def _refused(self, which: slice) -> np.ndarray:
        return np.isin(self.steps[which, OPCODE], list(self._scalar_reasons))

    def _place_scalars(self, which: range) -> None:
        rows = self.steps[which.start : which.stop].astype(np.int64)
        reads, results = self.owners.of(rows[:, A:]), self.owners.of(rows[:, OUT])
        own = np.isin(reads, results)
        after = int(self.made_by[reads[~own]].max(initial=-1)) if not own.all() else -1
        at = self._node(Scalars, max(after, 0))
        node = self.nodes[at]
        assert isinstance(node, Scalars)
        node.numbers += which
        self._note(results, at)
        if (rows[:, OPCODE] == EXPECT).any():
            self._last_guard = max(self._last_guard, at)

    def _note(self, results: np.ndarray, at: int) -> None:
        """Say which node computes results, or parts of them: short runs are as many scalar steps."""
        before = self.made_by[results]
        self.spread[results] |= (before >= 0) & (before != at)
        self.made_by[results] = np.maximum(before, at)

    def _node(self, kind: Callable[[], Node], start: int) -> int:
        """The first node of a kind from a position on, made if there is none."""
        for at in range(start, len(self.nodes)):
            if type(self.nodes[at]) is kind:
                return at
        self.nodes.append(kind())
        return len(self.nodes) - 1

    def _depends_on(self, i: int) -> int:
        k = int(self.steps[i, A])
        reads = [self.owner(slot) for slot, low, high in operand_spans(self.side, k) if low < high]
        return max((int(self.made_by[r]) for r in reads), default=-1)

    def _place_run(self, i: int) -> None:
        one = instruction(self.steps, self.side, i)
        parts = apart(one)
        if parts is not None:
            long, short = parts
            at = self._place_rows(long)
            if at is None:
                self._interpret(i)
                return
            after = max(at + 1, 1 + max(int(self.made_by[self.owner(x.place)]) for x in short.operands))
            at = self._node(Additions, after)
            node = self.nodes[at]
            assert isinstance(node, Additions)
            node.pairs += additions(short)
            self._note(np.array([self.owner(one.out)]), at)
        elif self._place_rows(one) is None:
            self._interpret(i)

    def _place_rows(self, one: Instruction) -> int | None:
        """The number of the loop over rows that has taken an instruction; None if none can."""
        rows = natural_rows(one)
        if rows is None or not is_worth_it(one, rows) or self._loses(one):
            return None
        after = max((int(self.made_by[self.owner(x.place)]) for x in one.operands if x.size), default=-1)
        order = [after, *range(len(self.nodes) - 1, after, -1)] if after >= 0 else range(len(self.nodes) - 1, -1, -1)
        for at in order:
            node = self.nodes[at]
            if isinstance(node, Rows) and node.take(one, at == after):
                break
        else:
            made = Rows(rows, self.owner)
            if not made.take(one, False):
                return None
            self.nodes.append(made)
            at = len(self.nodes) - 1
        self._note(np.array([self.owner(one.out)]), at)
        return at

    def _loses(self, one: Instruction) -> bool:
        """Whether an instruction has long sums in each row. The interpreter adds up what rounding loses of these."""
        outer, n = one.params[:2] if one.operation is sum_ else (0, 0)
        return outer > 1 and n > _SUMMED[self.program.code.dtype.itemsize]

    def _interpret(self, i: int) -> None:
        op = int(self.steps[i, OPCODE])
        row: Any = TABLE[op % RUN]
        after = self._depends_on(i) if op >= RUN else int(self.made_by[self.owners.of(self.steps[i, A:])].max())
        if row.opaque:
            # With numbers that a guard has found to be of another branch, no Python function is called.
            after = max(after, self._last_guard + 1)
        at = self._node(Interpreted, max(after, 0))
        node = self.nodes[at]
        assert isinstance(node, Interpreted)
        node.numbers.append(i)
        self._note(np.array([self.owner(int(self.steps[i, OUT]))]), at)
        self.reasons.setdefault(row.name, can_write(row) or "its arrays are few and long, or short")


def _scalar_reasons(steps: np.ndarray) -> dict[int, str]:
    """Which scalar opcodes cannot be written, and why."""
    found = {}
    for op in np.unique(steps[steps[:, OPCODE] < RUN, OPCODE]).tolist():
        why = None if op == EXPECT else can_write(TABLE[op])
        if why is not None:
            found[op] = why
    return found
