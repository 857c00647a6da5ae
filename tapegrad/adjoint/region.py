"""The instructions between inputs and outputs on a tape, and where their operands come from.

What can have an adjoint or a tangent is a *node*. Nodes are numbered: first the instructions of the region, then the
inputs, then those elements of arrays that scalar instructions read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tapegrad.adjoint.expand import Given, resolve, templates
from tapegrad.adjoint.instruction import SCALAR, Instruction, Operand, views_of
from tapegrad.layout import dense
from tapegrad.ops import RUN, TABLE, passive_rows
from tapegrad.ops.record import OPCODE, OUT, A, B, C, operand_places, parameters, record_length
from tapegrad.sweeps.analysis import activate, reach
from tapegrad.sweeps.owners import Owners, owners
from tapegrad.tape import LEAF, Tape
from tapegrad.tape.lines import Line, on_behalf, stretches
from tapegrad.value import Value, handle

# In place of a node, for a number that does not depend on the inputs.
NOWHERE = -1
# The most known numbers, all of which are gone through for every stretch of scalar instructions.
_MOST_KNOWN = 1000


class Region:
    """The instructions that lead from inputs to outputs.

    `given` has the adjoints of the outputs or the tangents of the inputs. Those that are plain numbers are constants to
    the code that writes derivatives, which computes with them at once.
    """

    def __init__(self, tape: Tape, inputs: Sequence[Value], outputs: Sequence[Value], given: Sequence[Any]) -> None:
        self.tape = tape
        self.inputs = inputs
        tape.derived = True
        tape.flush()
        places = [tape.locate(x._slot) for x in inputs if x.size]
        start = tape.row_of(max(places)) + 1 if places else tape.length
        code, self.side, self._flags = _between(tape, inputs, outputs, start, tape.length)
        # The tape may move its numbers to other places while the derivative is written, and slots stay the same. So
        # places are used only in this method, and slots are kept.
        self.ops, places_out = code[:, OPCODE].copy(), code[:, OUT]
        wide = self.ops >= RUN
        self._records = np.where(wide, code[:, A], -1)
        self.scalar = np.append(~wide, np.array([x._layout is None for x in inputs], bool))
        self.sizes = np.append(np.where(wide, code[:, B], 1), [x.size for x in inputs]).astype(np.int64)
        at = iter(places)
        first_places = np.append(places_out, [next(at) if x.size else 0 for x in inputs]).astype(np.int64)
        # The nodes that have numbers, in the order of their places.
        self._ids = np.flatnonzero(self.sizes)
        self._ids = self._ids[np.argsort(first_places[self._ids], kind="stable")]
        self._owners = owners(first_places[self._ids])
        self._slots = np.append(_slots_of(tape, places_out), [x._slot for x in inputs]).astype(np.int64)
        operands = np.ascontiguousarray(code[:, A : C + 1])
        operands[wide] = 0
        slots = _slots_of(tape, operands)
        self._find_operands_of_runs()
        self.found = [self._source(y) for y in outputs]
        # The tape is not asked for places after this: recording a constant may make it move everything.
        kinds = np.flatnonzero(np.bincount(self.ops[~wide], minlength=1))
        self.templates = templates(tuple(kinds.tolist()))
        self.by_rule = wide | ~self.templates.has[np.where(wide, 0, self.ops)]
        numbers = [float(x) for x in given if isinstance(x, int | float)]
        constants = [tape.constant(x) for x in (*self.templates.constants, *numbers)]
        # Constants may have been recorded long ago. Holding their pages keeps them on the tape.
        self.pages: list[Any] = [tape.pin(slot) for slot in constants]
        self.given = self._resolved(operands, slots, first_places, constants)
        del self._owners, self._ids

    def _resolved(self, places: np.ndarray, operands: np.ndarray, first: np.ndarray, constants: list[int]) -> Given:
        """The arguments of compiled code: what scalar instructions read, and which of these numbers are known.

        `first` has the place where each node begins, and `constants` the slots of known numbers that are passed on even
        if no instruction reads them.
        """
        slots, numbers = _known_numbers(self.tape)
        operands = operands.copy() if operands is places else operands
        reads = np.empty(places.shape, np.int64)
        met = np.zeros(len(slots), np.uint8)
        resolve(operands, places, *self._owners, self._ids, self.sizes, slots, reads, met)
        met[np.searchsorted(slots, constants)] = 1
        # Only the known numbers that are used are passed on, so references to them are numbered anew.
        is_known, to = operands >= 0, np.cumsum(met) - 1
        operands[is_known] = to[operands[is_known]]
        slots, numbers = slots[met != 0], numbers[met != 0]
        reads[self.ops >= RUN] = NOWHERE
        self._add_elements(places, reads, first)
        return Given(self.ops, self._slots, operands, reads, np.searchsorted(slots, constants), slots, numbers)

    def __len__(self) -> int:
        return len(self.ops)

    def input(self, j: int) -> int:
        """The node of input number j."""
        return len(self) + j

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Pairs (low, high): instructions low up to high are for compiled code, and for instruction high a rule is run.

        In the last pair high is the number of instructions, so there is no rule to run.
        """
        low = 0
        for i in np.flatnonzero(self.by_rule).tolist():
            yield low, i
            low = i + 1
        yield low, len(self)

    def by_line(self, low: int, high: int) -> list[tuple[int, int, Line | None]]:
        """Instructions low up to high as stretches that one line has recorded, with that line; as one stretch where
        lines are not noted."""
        return stretches(self.tape, self._slots, low, high)

    def on_behalf_of(self, i: int) -> AbstractContextManager[None]:
        """A block in which what is recorded counts as recorded by the line of an instruction, where lines are noted."""
        return on_behalf(self.by_line(i, i + 1)[0][2])

    # Nodes

    def _nodes(self, places: np.ndarray) -> np.ndarray:
        """The nodes that made the numbers at places."""
        at = self._owners.of(places)
        nodes, starts = np.append(self._ids, NOWHERE)[at], np.append(self._owners.starts, 0)[at]
        return np.where(places < starts + self.sizes[nodes], nodes, NOWHERE)

    def _add_elements(self, at: np.ndarray, reads: np.ndarray, first: np.ndarray) -> None:
        """Make nodes for the elements of arrays that scalar instructions read."""
        known = len(self.sizes)
        self._elements: dict[int, tuple[int, int]] = {}
        single = (reads >= 0) & ~self.scalar[reads]
        if not single.any():
            return
        places, which = np.unique(at[single], return_inverse=True)
        owners = self._nodes(places)
        reads[single] = known + which
        self.offsets = places - first[owners]
        # Places ascend, so the elements of one array are neighbours.
        ids, starts, counts = np.unique(owners, return_index=True, return_counts=True)
        spans = zip(ids.tolist(), starts.tolist(), counts.tolist(), strict=True)
        self._elements = {owner: (known + start, known + start + n) for owner, start, n in spans}
        self.scalar = np.append(self.scalar, np.ones(len(places), bool))
        self.sizes = np.append(self.sizes, np.ones(len(places), np.int64))

    def elements(self, node: int) -> tuple[int, int]:
        """The nodes of the elements of an array that scalar instructions read: from one up to another."""
        return self._elements.get(node, (0, 0))

    def offset(self, element: int) -> int:
        """The position of an element's node in its array."""
        return int(self.offsets[element - len(self) - len(self.inputs)])

    def _find_operands_of_runs(self) -> None:
        self._of_runs: dict[int, tuple[int, int]] = {}
        runs = self._records[self._records >= 0]
        if not len(runs):
            return
        at, _ = operand_places(self.side, runs)
        slots = _slots_of(self.tape, self.side[at])
        found = np.where(self._flags[at] != 0, self._nodes(self.side[at]), NOWHERE)
        self._of_runs = dict(zip(at.tolist(), zip(slots.tolist(), found.tolist(), strict=True), strict=True))

    def _source(self, value: Value) -> tuple[int, int]:
        """Which node made a Value, and the position of the Value's first element among the node's numbers."""
        if not value.size:
            return NOWHERE, 0
        place = self.tape.locate(value._slot)
        node = int(self._nodes(np.array([place]))[0])
        return node, 0 if node == NOWHERE else value._slot - int(self._slots[node])

    def learn(self, slots: np.ndarray, numbers: np.ndarray) -> None:
        """Take numbers that were written for one stretch as known for those to come, which else write them again: on a
        tape of long arrays each would stand on a page of memory of its own. Slots ascend, as they are new."""
        given = self.given
        if len(slots) and len(given.slots) + len(slots) <= _MOST_KNOWN:
            own = np.append(given.slots, slots), np.append(given.numbers, numbers)
            self.given = given._replace(slots=own[0], numbers=own[1])

    # Instructions whose rules are run on Values

    def instruction(self, i: int) -> Instruction:
        """Instruction number i of the region."""
        op = int(self.ops[i])
        if op >= RUN:
            return self._run(i, op)
        row = TABLE[op]
        operands = []
        for reference, source in zip(self.given.operands[i].tolist(), self.given.reads[i].tolist(), strict=True):
            slot = ~reference if reference < 0 else int(self.given.slots[reference])
            operands.append(Operand(handle(self.tape, slot, None), source, 0, SCALAR))
        return Instruction(row, operands[: row.arity], handle(self.tape, int(self._slots[i]), None), [])

    def _run(self, i: int, op: int) -> Instruction:
        row: Any = TABLE[op - RUN]
        k = int(self._records[i])
        params = parameters(self.side, k)
        layouts, shape = views_of(row, params)
        operands = []
        at, _ = operand_places(self.side, np.array([k]))
        for place, layout in zip(at.tolist(), layouts, strict=True):
            slot, source = self._of_runs[place]
            offset = slot - int(self._slots[source]) if source != NOWHERE else 0
            operands.append(Operand(handle(self.tape, slot, layout), source, offset, layout))
        return Instruction(row, operands, handle(self.tape, int(self._slots[i]), dense(shape)), params)


def _slots_of(tape: Tape, places: np.ndarray) -> np.ndarray:
    """The slots of the numbers at places. On a tape that has never moved anything, slots and places are the same."""
    addresses = tape.addresses
    if len(addresses.first) == 1 and addresses.first == addresses.places:
        return places
    return addresses.slots_of(places.reshape(-1)).reshape(places.shape)


def _known_numbers(tape: Tape) -> tuple[np.ndarray, np.ndarray]:
    """The slots of plain numbers on a tape, ascending, and the numbers."""
    slots = np.array([*tape.constants.values(), *tape.zeros.values()], np.int64)
    numbers = np.array([*tape.constants, *(math.copysign(0.0, sign) for sign in tape.zeros)], np.float64)
    order = np.argsort(slots)
    return slots[order], numbers[order]


def _between(
    tape: Tape, inputs: Sequence[Value], outputs: Sequence[Value], start: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The instructions that lead from inputs to outputs, their records, and flags of the operands on the way."""
    code, side = _copied(tape, start, stop)
    found = _intervals(tape, inputs, stop)
    active, mark = (np.zeros(len(found.starts), np.uint8) for _ in range(2))
    for x in inputs:
        if x.size:
            first, last = found.of(tape.locate(x._slot) + np.array([0, x.size - 1])).tolist()
            active[first : last + 1] = 1
    flags = np.zeros(len(side), np.uint8)
    activate(code, side, flags, *found, active, passive_rows(), 0, len(code))
    for y in outputs:
        if y.size:
            mark[found.of(y._places())] = 1
    rows = np.empty(len(code), np.int64)
    rows = rows[reach(code, side, *found, mark, active, len(code), rows) :]
    return code[rows].astype(np.int64), side, flags


def _intervals(tape: Tape, inputs: Sequence[Value], stop: int) -> Owners:
    """Places of the arena that are read and written together: the results of instructions, cut where inputs begin and
    end, which may be parts of them."""
    starts = tape.code[:stop, OUT].astype(np.int64)
    ends = np.array([tape.locate(x._slot) + n for x in inputs if x.size for n in (0, x.size)], np.int64)
    return owners(np.union1d(starts, ends[ends < tape.slots]))


def _copied(tape: Tape, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies of instructions and their records, to be marked without touching the tape. Leaves become constants."""
    code = tape.code[start:stop].copy()
    code[code[:, OPCODE] == LEAF, A] = 0
    runs = np.flatnonzero(code[:, OPCODE] >= RUN)
    if not len(runs):
        return code, tape.side[:1].copy()
    first, last = int(code[runs[0], A]), int(code[runs[-1], A])
    side = tape.side[first : last + int(record_length(tape.side, last))].copy()
    code[runs, A] -= first
    return code, side
