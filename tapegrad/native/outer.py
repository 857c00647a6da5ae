"""Long arrays that a compiled program reads and writes where they stand, outside of its arena.

To copy a long array into the arena, or out of it, takes about as long as a short loop over it. So loops address such
arrays by pointers of their own. Whoever replays the program may have these point to an argument, or to a new array that
becomes a result; otherwise they point to the array's place in the arena, and all is as if there were only that.

Loops take whole vectors of rows, and rows may read their neighbours, so the first and the last rounds would touch what
is before or behind an array. In these rounds the pointers lead to short copies with room on both sides.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.native.ir import COMPUTE, SET, Item, Ref
from tapegrad.native.places import Places
from tapegrad.native.rows import Rows
from tapegrad.native.schedule import Schedule
from tapegrad.native.writer import Writer
from tapegrad.program.workspace import Workspace

# The most rounds at the end of a loop in which pointers lead to a copy.
_MOST_ROUNDS = 8
_BYTE = ctypes.c_char


@dataclass(frozen=True)
class Array:
    """An array that may stand elsewhere.

    Attributes:
        number: of its pointer.
        place, count: where it stands in the compiled program's arena, and how long it is.
        start: where it begins in the program's own arena.
    """

    number: int
    place: int
    count: int
    start: int


@dataclass
class Outer:
    """The arrays of a program that may stand elsewhere.

    Attributes:
        arrays: by the number of the result.
        inputs: for each number of an input that is one, its array.
        outputs: likewise for outputs.
    """

    arrays: dict[int, Array]
    inputs: dict[int, Array]
    outputs: dict[int, Array]


def outer_of(schedule: Schedule, places: Places, loops: dict[int, Rows], lanes: int) -> Outer:
    """The arrays of a program that only loops over rows read and write, one number a row.

    `loops` are the nodes that are such loops, by number, and can address arrays outside of the arena.
    """
    program, found = schedule.program, Outer({}, {}, {})
    code, end = program.code, len(schedule.nodes)
    if program.calls:
        # What functions of Python do to arguments in the midst of a replay must not be seen.
        return found

    def add(result: int, to: dict[int, Array], key: int) -> None:
        place = int(places.to[result])
        array = Array(len(found.arrays), place, places.count(result), int(schedule.owners.starts[result]))
        found.arrays[result] = to[key] = array

    for number in range(code.inputs):
        at = places.long_readers.get(number)
        if at is not None and at <= loops.keys() and all(_fits(loops[n], number, schedule, places, lanes) for n in at):
            add(number, found.inputs, number)
    owners = [None if o.place is None else schedule.owner(o.place) for o in code.outputs]
    for i, (output, owner) in enumerate(zip(code.outputs, owners, strict=True)):
        if owner is None or owner < code.inputs or owners.count(owner) > 1 or output.whole or not output.layout.dense:
            continue
        at, by = places.long_readers.get(owner), int(schedule.made_by[owner])
        start, size = int(schedule.owners.starts[owner]), int(np.prod(output.shape))
        whole = output.place == start and size == places.count(owner) if at is not None else False
        if not whole or at != {end} or by not in loops or schedule.spread[owner]:
            continue
        if _fits(loops[by], owner, schedule, places, lanes):
            add(owner, found.outputs, i)
    return found


def _refs(node: Rows, result: int) -> list[Ref]:
    """How a loop reads an array, or where it puts its numbers, with places as in round 0."""
    def moved(item: Item, ref: Ref) -> Ref:
        return ref._replace(place=ref.place - item.shift * ref.rows)

    if result not in node.items:
        return [moved(item, r) for item in node.all_items() for r in item.operands if r.result == result]
    found = node.items[result]
    kind = COMPUTE if found[0].kind == COMPUTE else SET
    return [moved(item, item.out) for item in found if item.kind == kind] + [
        # Loops inside of rows are not written so.
        item.out._replace(rows=-1) for item in found if item.dims
    ]


def _fits(node: Rows, result: int, schedule: Schedule, places: Places, lanes: int) -> bool:
    refs = _refs(node, result)
    if any(any(ref.strides) or ref.rows not in (0, 1) for ref in refs) or any(
        item.dims for item in node.all_items() if any(r.result == result for r in (item.out, *item.operands))
    ):
        return False
    reads = [ref for ref in refs if ref.rows]
    if result in node.items and len(reads) != 1:
        return False
    if not reads:
        return True
    low, high = _offsets(reads, int(schedule.owners.starts[result]))
    rounds = -(-node.rounds // lanes) * lanes
    last = (places.count(result) - high) // lanes * lanes
    return low >= -lanes and high <= 2 * lanes and last >= 2 * lanes and rounds - last <= _MOST_ROUNDS * lanes


def _offsets(refs: Sequence[Ref], start: int) -> tuple[int, int]:
    places = [ref.place - start for ref in refs]
    return min(places), max(places)


class Pointers:
    """Writes the pointers of a loop over rows to arrays outside of the arena.

    Args:
        node: the loop.
        writer: its writer.
        arrays: by the number of the result.
    """

    def __init__(self, node: Rows, writer: Writer, arrays: dict[int, Array]) -> None:
        self._w, self._rounds = writer, -(-node.rounds // writer.lanes) * writer.lanes
        self._own: dict[int, tuple[Array, int, int, bool]] = {}
        self._last = self._rounds
        for result, array in arrays.items():
            refs = _refs(node, result)
            if refs:
                rows = [ref for ref in refs if ref.rows]
                low, high = _offsets(rows, array.start) if rows else (0, 0)
                self._own[result] = array, low, high, result in node.items
                if rows:
                    # The first round that would touch what is behind an array.
                    self._last = min(self._last, (array.count - high) // writer.lanes * writer.lanes)
        self._has_head = any(low < 0 for _, low, _, _ in self._own.values())
        self._bases: dict[int, tuple[str, str, str]] = {}
        self.names: dict[int, str] = {}

    def base(self, result: int) -> tuple[str, int] | None:
        """The pointer to an array in the round that is being written, and where that begins in the program's own
        arena; None for what is in the arena."""
        own = self._own.get(result)
        return None if own is None else (self.names[result], own[0].start)

    def whole(self, result: int) -> tuple[str, int] | None:
        """As `base`, for numbers that are read before the loop."""
        own = self._own.get(result)
        return None if own is None else (self._bases[result][1], own[0].start)

    def begin(self, first: list[str], room: Callable[[int], str]) -> None:
        """Write what stands before the loop: copies of the beginnings and ends of arrays that are read."""
        w = self._w
        for result, (array, low, high, written) in self._own.items():
            slot, body = w.name(), w.name()
            first.append(f"{slot} = getelementptr ptr, ptr %outer, i64 {array.number}")
            first.append(f"{body} = load ptr, ptr {slot}, align 8")
            head = tail = body
            if self._has_head:
                head = self._copy(first, room, body, (low, w.lanes + high), array.count, written)
            if self._last < self._rounds:
                tail = self._copy(first, room, body, (self._last + low, self._rounds + high), array.count, written)
            self._bases[result], self.names[result] = (head, body, tail), w.name()

    def _copy(
        self, first: list[str], room: Callable[[int], str], body: str, span: tuple[int, int], count: int, written: bool
    ) -> str:
        """A pointer by which a short copy of the numbers from and to a position is read as if it were the array."""
        w, (low, high) = self._w, span
        vectors = -(-(high - low) // w.lanes)
        copy, moved = room(vectors), w.name()
        if not written:
            kind = w.type(True)
            for k in range(vectors):
                p = w.name()
                first.append(f"{p} = getelementptr {kind}, ptr {copy}, i64 {k}")
                first.append(f"store {kind} zeroinitializer, ptr {p}, align {w.dtype.itemsize}")
            self._move(first, (body, max(low, 0)), (copy, max(low, 0) - low), min(high, count) - max(low, 0))
        first.append(f"{moved} = getelementptr {w.real}, ptr {copy}, i64 {-low}")
        return moved

    def _move(self, lines: list[str], source: tuple[str, int], to: tuple[str, int], count: int) -> None:
        w, size = self._w, self._w.dtype.itemsize
        if count <= 0:
            return
        names = []
        for pointer, at in (to, source):
            names.append(w.name())
            lines.append(f"{names[-1]} = getelementptr {w.real}, ptr {pointer}, i64 {at}")
        w.declared["llvm.memcpy"] = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)"
        lines.append(
            f"call void @llvm.memcpy.p0.p0.i64(ptr align {size} {names[0]}, ptr align {size} {names[1]}, "
            f"i64 {count * size}, i1 false)"
        )

    def inner(self) -> tuple[int, int]:
        """The rounds in which all pointers lead to the arrays: the first row of them, and the row behind them."""
        return self._w.lanes if self._has_head else 0, min(self._last, self._rounds)

    @contextmanager
    def inside(self, only: bool) -> Iterator[None]:
        """Write, or not, as in these rounds only."""
        names = self.names
        if only:
            self.names = {result: body for result, (_, body, _) in self._bases.items()}
        yield
        self.names = names

    def pointers(self, row: int) -> Iterator[tuple[str, str, str, str]]:
        """For each pointer its name, what it is in the first round, its name for the next round, and what it is in the
        round that begins at a row."""
        for result, (head, body, tail) in self._bases.items():
            first, there = (body if at < self._last else tail for at in (0, row))
            yield self.names[result], head if self._has_head else first, f"{self.names[result]}.next", there

    def advance(self, following: str) -> None:
        """Write what stands at the end of each round: the pointers in the next one."""
        w = self._w
        if not self._bases:
            return
        inside = w.name()
        w.lines.append(f"{inside} = icmp ult i64 {following}, {self._last}")
        for result, (_, body, tail) in self._bases.items():
            w.lines.append(f"{self.names[result]}.next = select i1 {inside}, ptr {body}, ptr {tail}")

    def end(self) -> None:
        """Write what stands behind the loop: the beginnings and ends of arrays that were written are copied."""
        lanes = self._w.lanes
        for result, (array, low, _, written) in self._own.items():
            if not written:
                continue
            head, body, tail = self._bases[result]
            if self._has_head:
                begin = max(low, 0)
                self._move(self._w.lines, (head, begin), (body, begin), lanes + low - begin)
            if self._last < self._rounds:
                begin = self._last + low
                self._move(self._w.lines, (tail, begin), (body, begin), array.count - begin)


class Arena(Workspace):
    """The workspace of a compiled program. Long arguments need not be copied into it, nor long results out of it.

    Attributes:
        given: where the pointers to arrays are to lead in the next sweep, by number; the others lead into the arena.
        made: by the number of an output what the last sweep has put its numbers into.
        home: for each pointer the place in the arena.
        beside: what replays in another thread, or may do so still after an error; see `beside.Beside`.
    """

    def __init__(self, outer: Outer, *args: Any) -> None:
        super().__init__(*args)
        self._outer = outer
        # For the pointer to an argument: where else that may stand, and the argument.
        self._kept: dict[int, tuple[np.ndarray, Any]] = {}
        self.given: dict[int, int | None] = {}
        self.made: dict[int, np.ndarray] = {}
        self.home = home(outer, self)
        self.beside: Any = None

    def forget(self) -> None:
        """Refer to nobody's arrays any more."""
        self.given.clear()
        self.made.clear()
        self._kept.clear()

    def fill(self, leaves: Sequence[Any]) -> None:
        """Put new numbers in the place of the inputs, or note where they stand."""
        self.forget()
        inputs = self._outer.inputs
        for number, (window, i) in enumerate(self.feeds):
            x, array = leaves[i], inputs.get(number)
            if array is not None and x.__class__ is np.ndarray and x.dtype == window.dtype and x.shape == window.shape:
                at = address(x)
                if at is not None:
                    self.given[array.number] = at
                    self._kept[array.number] = window, x
                    continue
            window[...] = x

    def bring_in(self) -> None:
        """Have the arguments in the arena, so that they can be changed there between two sweeps."""
        for number, (window, x) in self._kept.items():
            window[...] = x
            del self.given[number]
        self._kept.clear()

    def make(self, outputs: Sequence[Any]) -> None:
        """New arrays for long results."""
        for i, array in self._outer.outputs.items():
            made = self.made[i] = np.empty(outputs[i].shape, self.values.dtype)
            self.given[array.number] = address(made)


def home(outer: Outer, workspace: Workspace) -> list[int]:
    """The addresses in an arena of arrays that may stand elsewhere."""
    start, size = int(workspace.values.ctypes.data), workspace.values.itemsize
    return [start + array.place * size for array in outer.arrays.values()]


def address(x: Any) -> int | None:
    """Where the numbers of an array stand, if they stand side by side; else None."""
    flags = x.flags
    if not flags.c_contiguous or not flags.aligned:
        return None
    try:
        # A quarter of the time of asking the array.
        return ctypes.addressof(_BYTE.from_buffer(x))
    except (TypeError, ValueError, BufferError):
        # It is read-only.
        return int(x.__array_interface__["data"][0])
