"""Where the numbers of a compiled program stand: only what is read from memory has a place."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from tapegrad.native.ir import Item, Ref
from tapegrad.native.rows import Rows, carried, lags
from tapegrad.native.scalars import ScalarsWriter, Segment, advance, positions, segments
from tapegrad.native.schedule import Additions, Interpreted, Scalars, Schedule
from tapegrad.native.tables import lengths, tables_of, with_tables
from tapegrad.ops import RUN
from tapegrad.ops.record import OPCODE, OUT, A, B, operand_spans
from tapegrad.program.placing import Free, moved_code
from tapegrad.tape import EXPECT, LEAF

# Arrays of at least so many numbers are worth a pointer of their own; see `outer`. Shorter ones are copied in less time
# than it takes to ask for their address.
_LONG = 4096


class Places:
    """The arena of a compiled program.

    Attributes:
        kept: for each result whether it is stored.
        to: where it begins; 0 for what is not stored.
        size: of the arena without room for vectors.
        segments: of the nodes that are scalars, by number.
        constants: the numbers of constants that are scalars, by place.
        long_readers: for each long array the nodes that read it in memory; the number behind all nodes is whoever reads
            results.
        tables: what stands for long constants, by the number of the result.
        before, after: how many places the lanes of the first and last rows may touch besides.
    """

    def __init__(self, schedule: Schedule, lanes: int, roll: bool = True) -> None:
        self._schedule, self._lanes = schedule, lanes
        self._program = schedule.program
        rows = self._program.code.rows
        self._starts = schedule.owners.starts
        leaf = rows[:, OPCODE] == LEAF
        self._counts = np.where(leaf | (rows[:, OPCODE] >= RUN), rows[:, B], 1).astype(np.int64)
        self.kept = leaf.copy()
        # The last node that reads a result; -1 where none does.
        self._last = np.where(leaf, len(schedule.nodes), -1)
        self.constants = _held_constants(self._program)
        self.long_readers: dict[int, set[int]] = {int(r): set() for r in np.flatnonzero(self._counts >= _LONG)}
        self._long = np.array(list(self.long_readers), np.int64)
        self.segments: dict[int, list[Segment]] = {}
        for at, node in enumerate(schedule.nodes):
            if isinstance(node, Scalars):
                steps = schedule.steps[node.numbers].astype(np.int64)
                self.segments[at] = segments(steps, self.constants, roll)
        # What loops read and write in memory: places, with an axis for each loop.
        self._reads: list[np.ndarray] = []
        self._writes: list[np.ndarray] = []
        self._whole = False
        self._find_readers()
        self.before = self.after = 0
        self._keep_alike()
        self.tables = tables_of(schedule, self.long_readers, lanes)
        self.to = np.zeros(len(rows), np.int64)
        self.size = self._place(leaf)
        if not self.affine and not any(isinstance(node, Rows) for node in schedule.nodes):
            # As in the program's own arena everything does.
            self.to, self.size, self._whole = self._starts.copy(), self._program.code.size, True
            del self.affine

    def __call__(self, result: int, place: int) -> int:
        """Where a place of the program's own arena is here."""
        return int(place - self._starts[result] + self.to[result])

    def _find_readers(self) -> None:
        schedule, program = self._schedule, self._program
        forever = len(schedule.nodes)
        for output in program.code.outputs:
            if output.place is not None and output.layout.size:
                self._keep(np.array([schedule.owner(output.place)]), forever)
        for at, node in enumerate(schedule.nodes):
            if isinstance(node, Rows):
                self._read_by_rows(at, node)
                continue
            if isinstance(node, Additions):
                self._keep(schedule.owners.of(np.array(node.pairs).reshape(-1)), at)
                continue
            steps = schedule.steps[node.numbers].astype(np.int64)
            if isinstance(node, Interpreted):
                results = [schedule.owners.of(steps[:, OUT])]
                scalar = steps[:, OPCODE] < RUN
                results.append(schedule.owners.of(steps[scalar, A:]).reshape(-1))
                for k in steps[~scalar, A].tolist():
                    slots = [slot for slot, low, high in operand_spans(schedule.side, k) if low < high]
                    results.append(schedule.owners.of(np.array(slots, np.int64)))
                self._keep(np.concatenate(results), at)
                continue
            guards = steps[steps[:, OPCODE] == EXPECT]
            self._keep(schedule.owners.of(guards[:, A]), forever)
            self._read_by_scalars(at, node, steps)

    def _keep(self, results: np.ndarray, at: int) -> None:
        self.kept[results] = True
        np.maximum.at(self._last, results, at)
        for result in np.intersect1d(self._long, results).tolist():
            self.long_readers[result].add(at)

    def count(self, result: int) -> int:
        """How many numbers a result has."""
        return int(self._counts[result])

    def _read_by_scalars(self, at: int, node: Scalars, steps: np.ndarray) -> None:
        """What a segment of instructions does not compute itself, it reads from the arena."""
        made = np.full(len(self._counts), -1)
        segment, in_loops = np.zeros(len(steps), np.int64), np.zeros(len(steps), bool)
        parts = self.segments[at]
        for number, part in enumerate(parts):
            segment[part.start : part.stop] = number
            in_loops[part.start : part.stop] = part.repeat is not None
        results = self._schedule.owners.of(steps[:, OUT])
        computes = steps[:, OPCODE] != EXPECT
        made[results[computes]] = segment[computes]
        # A short run may be computed by several segments.
        first = np.full_like(made, -1)
        first[results[computes][::-1]] = segment[computes][::-1]
        own, straight = segment[~in_loops, None], steps[~in_loops, A:]
        reads = self._schedule.owners.of(straight)
        outside = (made[reads] != own) | (first[reads] != own) | self._schedule.spread[reads]
        self._keep(np.unique(reads[outside]), at)
        for part in parts:
            if part.repeat is not None:
                self._read_by_loop(at, part, steps, node.numbers)

    def _read_by_loop(self, at: int, part: Segment, steps: np.ndarray, numbers: list[int]) -> None:
        writer = ScalarsWriter(None, steps, numbers, lambda place: 0, lambda place: False, self.constants)
        for read in writer.find_reads(part):
            places = read.places()
            self._reads.append(places)
            self._keep(np.unique(self._schedule.owners.of(places.reshape(-1))), at)

    def _keep_alike(self) -> None:
        """What is stored in one round of a loop is stored in all."""
        for at, parts in self.segments.items():
            node = self._schedule.nodes[at]
            assert isinstance(node, Scalars)
            out = self._schedule.steps[node.numbers, OUT].astype(np.int64)
            for part in parts:
                for which in positions(part.repeat) if part.repeat is not None else ():
                    results = self._schedule.owners.of(out[which])
                    if self.kept[results].any():
                        self.kept[results] = True
                        np.maximum(self._last[results], at, out=self._last[results])
                        self._writes.append(out[which])

    @cached_property
    def affine(self) -> bool:
        """Whether places that advance by constants in the program's own arena do so here."""
        if self._whole:
            return True
        return all(advance(self._moved(places)) for places in (*self._reads, *self._writes))

    @property
    def has_loops(self) -> bool:
        """Whether any scalars are in loops."""
        return any(part.repeat is not None for parts in self.segments.values() for part in parts)

    def _moved(self, places: np.ndarray) -> np.ndarray:
        results = self._schedule.owners.of(places)
        return places - self._starts[results] + self.to[results]

    def _read_by_rows(self, at: int, node: Rows) -> None:
        bases = node.bases()
        found = []
        for item in node.all_items():
            for ref in item.operands:
                moved = ref._replace(place=ref.place - item.shift * ref.rows)
                if ref.result not in node.items or (
                    lags(item, moved, bases) and carried(item, moved, bases, node.items, self._lanes) is None
                ):
                    found.append(ref.result)
            if not item.out.rows:
                found.append(item.out.result)
        self._keep(np.array(found, np.int64), at)

    def _place(self, leaf: np.ndarray) -> int:
        schedule = self._schedule
        code = self._program.code
        end = sum(n for _, n in code.spans)
        self.to[: code.inputs] = self._starts[: code.inputs]
        constants = np.flatnonzero(leaf)[code.inputs :] if code.inputs else np.flatnonzero(leaf)
        counts = lengths(self._counts, constants.tolist(), self.tables)
        self.to[constants] = end + np.cumsum(counts) - counts
        free = Free(end + int(counts.sum()))
        forever = len(schedule.nodes)
        leaving: list[list[tuple[int, int]]] = [[] for _ in range(forever + 1)]
        own = np.flatnonzero(self.kept & ~leaf)
        begins = self._first_nodes()
        order = own[np.argsort(begins[own], kind="stable")]
        done = 0
        lone = self._counts[order] == 1
        # Single numbers stay; arrays take places that others have left.
        singles = order[lone]
        self.to[singles] = free.top + np.arange(len(singles))
        free.top += len(singles)
        for result in order[~lone].tolist():
            begin = int(begins[result])
            while done < begin:
                for place, n in leaving[done]:
                    free.give(place, n)
                done += 1
            front, back = self._room(result)
            n = int(self._counts[result]) + front + back
            place = free.take(n)
            self.to[result] = place + front
            leaving[min(int(self._last[result]), forever)].append((place, n))
        self._find_margins()
        return free.top

    def _first_nodes(self) -> np.ndarray:
        """For each result the first node that writes a part of it."""
        first = self._schedule.made_by.copy()
        for at in range(len(self._schedule.nodes) - 1, -1, -1):
            node = self._schedule.nodes[at]
            if isinstance(node, Rows):
                results = np.array(list(node.items), np.int64)
            elif isinstance(node, Additions):
                continue
            else:
                results = self._schedule.owners.of(self._schedule.steps[node.numbers, OUT].astype(np.int64))
            first[results] = np.minimum(first[results], at)
        return first

    def _rounded(self, node: Rows) -> int:
        return -(-node.rounds // self._lanes) * self._lanes

    def _room(self, result: int) -> tuple[int, int]:
        """How many places before and behind a result are written to by lanes that have no row."""
        node = self._schedule.nodes[self._schedule.made_by[result]]
        if not isinstance(node, Rows):
            return 0, 0
        item = node.items[result][0]
        if not item.out.rows:
            return 0, 0
        return item.shift * item.out.rows, (self._rounded(node) - item.shift - item.height) * item.out.rows

    def _find_margins(self) -> None:
        low, high = 0, 0
        for node in self._schedule.nodes:
            if not isinstance(node, Rows):
                continue
            last = self._rounded(node) - 1
            for item in node.all_items():
                for ref in item.operands:
                    if self.kept[ref.result] and ref.rows and ref.result not in self.tables:
                        first, end = self._touched(item, ref, last)
                        low, high = min(low, first), max(high, end)
        self.before, self.after = -low, high

    def _touched(self, item: Item, ref: Ref, last: int) -> tuple[int, int]:
        start = self(ref.result, ref.place - item.shift * ref.rows)
        steps = (0, last * ref.rows)
        return start + min(steps) + item.bottom(ref, 0), start + max(steps) + item.top(ref, 0) + 1

    def moved(self, size: int) -> tuple[Any, np.ndarray]:
        """The code and the steps of the program with these places, for the interpreter."""
        code, steps = moved_code(self._program, self._schedule.owners, self.to, size)
        return with_tables(code, self.tables), steps


def _held_constants(program: Any) -> dict[int, float]:
    """The constants among the scalars of a program, by place."""
    code = program.code
    leaves = code.rows[code.inputs :]
    at, known = 0, {}
    for out, n in leaves[leaves[:, OPCODE] == LEAF][:, [OUT, B]].tolist():
        if n == 1:
            known[out] = float(code.constants[at])
        at += n
    return known
