"""Instructions on single numbers as functions of LLVM: straight, or as loops where blocks of them repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.native.roll import Repeat, Straight, rolled
from tapegrad.native.rules import value
from tapegrad.native.writer import Register, Writer
from tapegrad.ops import TABLE
from tapegrad.ops.record import OPCODE, OUT
from tapegrad.tape import EXPECT

# So many instructions make a function. LLVM's time grows faster than its input.
CHUNK = 400
# A loop must save so many instructions. Shorter stretches are not searched for loops.
_LEAST, _SEARCHED = 64, 256


class Segment(NamedTuple):
    """Instructions of a stretch that make one function: from `start` on, before `stop`; a loop if `repeat` is given."""

    start: int
    stop: int
    repeat: Repeat | None


class Read(NamedTuple):
    """A number that a loop reads from memory: its place in the first round of all loops, and the stride and the number
    of rounds of each loop."""

    place: int
    strides: tuple[int, ...]
    trips: tuple[int, ...]

    def places(self) -> np.ndarray:
        """Its places in all rounds, with an axis for each loop."""
        found = np.asarray(self.place)
        for stride, trip in zip(self.strides, self.trips, strict=True):
            found = found[..., None] + stride * np.arange(trip)
        return found


def segments(rows: np.ndarray, constants: dict[int, float], roll: bool) -> list[Segment]:
    """A stretch of scalar instructions, (n, 5), as segments, in order."""
    parts: Sequence[Straight | Repeat] = [Straight(0, len(rows))]
    if roll and len(rows) >= _SEARCHED:
        parts = rolled(_keys(rows, constants), rows[:, OUT:], _LEAST)
    found = []
    for part in parts:
        if isinstance(part, Repeat):
            found.append(Segment(part.start, part.start + part.period * part.count, part))
            continue
        end = part.start + part.length
        found += [Segment(at, min(at + CHUNK, end), None) for at in range(part.start, end, CHUNK)]
    return found


def _keys(rows: np.ndarray, constants: dict[int, float]) -> np.ndarray:
    """What must be equal in every round of a loop: the operation, and numbers that it holds constant. A guard is unlike
    any other."""
    keys = rows[:, OPCODE].astype(np.int64) << 32
    guards = np.flatnonzero(rows[:, OPCODE] == EXPECT)
    keys[guards] += 1 + np.arange(len(guards))
    for op in np.unique(rows[:, OPCODE]).tolist():
        row: Any = TABLE[op]
        if op == EXPECT or not row.held:
            continue
        numbers: dict[Any, int] = {}
        for i in np.flatnonzero(rows[:, OPCODE] == op).tolist():
            known = tuple(constants.get(int(rows[i, 2 + j])) for j in row.held)
            keys[i] += numbers.setdefault(known, len(numbers))
    return keys


class _Scope:
    """A loop that is being written: its counter, and what is known in its body, by place and strides; `carried` has
    what the round before has computed."""

    def __init__(self, counter: str) -> None:
        self.counter = counter
        self.known: dict[tuple[int, tuple[int, ...]], Register] = {}
        self.carried: dict[tuple[int, tuple[int, ...]], Register] = {}


class ScalarsWriter:
    """Writes a segment.

    Args:
        writer: an empty one, of one lane.
        rows: the instructions of the stretch, (n, 5), with the numbers of steps in `numbers`.
        to: the place in the compiled program's arena of a place of the program's own.
        kept: whether a result is to be stored, because others read it.
        constants: numbers that operations hold constant, by place: exponents, say.

    Without a writer nothing is written, and `reads` are found.
    """

    def __init__(
        self, writer: Writer | None, rows: np.ndarray, numbers: Sequence[int], to: Callable[[int], int],
        kept: Callable[[int], bool], constants: dict[int, float],
    ) -> None:  # fmt: skip
        self._writer, self._rows, self._numbers = writer, rows, numbers
        self._to, self._kept, self._constants = to, kept, constants
        self._scopes = [_Scope("")]
        self._failed = Register("-1")
        self.reads: list[Read] = []
        self._trips: list[int] = []

    @property
    def w(self) -> Writer:
        """The writer."""
        assert self._writer is not None
        return self._writer

    def write(self, segment: Segment, name: str) -> str:
        """The text of the function. It returns the number of the first guard that does not hold, or -1."""
        self._segment(segment)
        head = f"define internal i64 @{name}(ptr noalias %v, ptr %stop) {{"
        return "\n".join([head, "begin:", *self.w.lines, f"ret i64 {self._failed.text}", "}"])

    def find_reads(self, segment: Segment) -> list[Read]:
        """What a segment reads from memory."""
        self._segment(segment)
        return self.reads

    def _segment(self, segment: Segment) -> None:
        if segment.repeat is None:
            self._straight(range(segment.start, segment.stop), ())
        else:
            self._loop(segment.repeat, ())

    # Loops. The strides of item j in the loops around it are the differences to the items of their next rounds.

    def _loop(self, repeat: Repeat, periods: tuple[int, ...]) -> None:
        inner = (*periods, repeat.period)
        direct = [j for part in repeat.body if isinstance(part, Straight) for j in _items(part)]
        scope = _Scope("")
        before = self._carried(direct, inner)
        if self._writer is None:
            self._scopes.append(scope)
            self._trips.append(repeat.count)
            scope.carried = {key: Register("") for key in before}
            self._parts(repeat.body, inner)
            self._scopes.pop()
            self._trips.pop()
            return
        w = self.w
        entry, head, latch, after = (w.label(x) for x in ("before", "loop", "next", "behind"))
        scope.counter, following, go = w.name(), w.name(), w.name()
        w.lines += [f"br label %{entry}", f"{entry}:", f"br label %{head}"]
        w.open(head)
        at = len(w.lines)
        scope.carried = {key: Register(w.name(), first.wide) for key, (first, _) in before.items()}
        self._scopes.append(scope)
        self._trips.append(repeat.count)
        self._parts(repeat.body, inner)
        self._scopes.pop()
        self._trips.pop()
        phis = [f"{scope.counter} = phi i64 [0, %{entry}], [{following}, %{latch}]"]
        for key, (first, made) in before.items():
            now = scope.known[made]
            kind = w.type(now.wide)
            phis.append(f"{scope.carried[key].text} = phi {kind} [{first.text}, %{entry}], [{now.text}, %{latch}]")
        w.lines[at:at] = phis
        w.lines += [f"br label %{latch}", f"{latch}:", f"{following} = add nuw nsw i64 {scope.counter}, 1"]
        w.lines.append(f"{go} = icmp ult i64 {following}, {repeat.count}")
        ends = go if periods else w.unless_stopped(go)
        w.lines.append(f"br i1 {ends}, label %{head}, label %{after}")
        w.open(after)

    def _carried(
        self, direct: Sequence[int], periods: tuple[int, ...]
    ) -> dict[tuple[int, tuple[int, ...]], tuple[Register, tuple[int, tuple[int, ...]]]]:
        """What items read that other items have computed in the round before: what it is in the first round, and the
        place and strides by which it is known in others."""
        made = {}
        for j in direct:
            if self._makes(j):
                out, strides = self._place(j, 1, periods)
                if strides[-1]:
                    made[out - strides[-1], strides] = out, strides
        found: dict[Any, Any] = {}
        computed: set[Any] = set()
        for j in direct:
            for column in range(2, 2 + self._arity(j)):
                key = self._place(j, column, periods)
                if key in made and key not in found and key not in computed:
                    found[key] = self._before(key[0], key[1][:-1]), made[key]
            computed.add(self._place(j, 1, periods))
        return found

    def _before(self, place: int, strides: tuple[int, ...]) -> Register:
        """What is carried into the first round of a loop."""
        return self._get(place, strides)

    def _parts(self, body: Sequence[Straight | Repeat], periods: tuple[int, ...]) -> None:
        for part in body:
            if isinstance(part, Straight):
                self._straight(_items(part), periods)
            else:
                self._loop(part, periods)

    def _place(self, j: int, column: int, periods: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        start = int(self._rows[j, column])
        return start, tuple(int(self._rows[j + p, column]) - start for p in periods)

    def _straight(self, items: range, periods: tuple[int, ...]) -> None:
        for j in items:
            self._item(j, periods)

    def _makes(self, j: int) -> bool:
        """Whether an item computes a number, once."""
        return bool(self._rows[j, OPCODE] != EXPECT)

    def _arity(self, j: int) -> int:
        return int(TABLE[int(self._rows[j, OPCODE])].arity)

    def _item(self, j: int, periods: tuple[int, ...]) -> None:
        op = int(self._rows[j, OPCODE])
        if op == EXPECT:
            self._guard(self._numbers[j], [self._get(*self._place(j, column, periods)) for column in (2, 3)])
            return
        row: Any = TABLE[op]
        xs = []
        for k in range(row.arity):
            place, strides = self._place(j, 2 + k, periods)
            held = k in row.held and place in self._constants
            xs.append(self._constants[place] if held else self._get(place, strides))
        place, strides = self._place(j, 1, periods)
        found = Register("") if self._writer is None else value(self.w, row, xs)
        self._scopes[-1].known[place, strides] = found
        if self._writer is not None:
            self._store(place, strides, found)

    def _store(self, place: int, strides: tuple[int, ...], found: Register) -> None:
        if self._kept(place):
            p = self._pointer(place, strides)
            self.w.lines.append(f"store {self.w.real} {found.text}, ptr {p}, align {self.w.dtype.itemsize}")

    def _guard(self, number: int, operands: Sequence[Register]) -> None:
        """The first guard that fails: the same number, zeros of the same sign, or both none, is what is expected."""
        if self._writer is None:
            return
        w, (x, y), failed = self.w, operands, self._failed
        bits = [w.new(f"bitcast {w.real} {z.text} to i{8 * w.dtype.itemsize}", False).text for z in (x, y)]
        equal = w.new(f"icmp eq i{8 * w.dtype.itemsize} {bits[0]}, {bits[1]}", False, True)
        none = w.binary("and", w.compare("uno", x, x), w.compare("uno", y, y))
        holds = w.binary("or", equal, none)
        before = w.new(f"icmp sge i64 {failed.text}, 0", False, True)
        keep = w.binary("or", holds, before)
        self._failed = w.new(f"select i1 {keep.text}, i64 {failed.text}, i64 {number}", False)

    # Numbers

    def _get(self, place: int, strides: tuple[int, ...]) -> Register:
        # What does not change in the inner loops is known outside of them, if it is known there.
        depth = len(strides)
        while True:
            scope = self._scopes[depth]
            known = scope.known.get((place, strides)) or scope.carried.get((place, strides))
            if known is not None:
                return known
            if not strides or strides[-1]:
                break
            depth, strides = depth - 1, strides[:-1]
        found = self._load(place, strides)
        # It is read where it is needed, so it is known from here to the end of the innermost loop.
        padded = strides + (0,) * (len(self._scopes) - 1 - len(strides))
        self._scopes[-1].known[place, padded] = found
        return found

    def _load(self, place: int, strides: tuple[int, ...]) -> Register:
        if self._writer is None:
            self.reads.append(Read(place, strides, tuple(self._trips[: len(strides)])))
            return Register("")
        w = self.w
        return w.new(f"load {w.real}, ptr {self._pointer(place, strides)}, align {w.dtype.itemsize}", False)

    def _pointer(self, place: int, strides: Sequence[int]) -> str:
        w, start = self.w, self._to(place)
        text = str(start)
        for scope, stride in zip(self._scopes[1:], strides, strict=False):
            if stride:
                step = w.new(f"mul nsw i64 {scope.counter}, {self._to(place + stride) - start}", False).text
                text = w.new(f"add nsw i64 {step}, {text}", False).text
        return w.new(f"getelementptr {w.real}, ptr %v, i64 {text}", False).text


def _items(part: Straight) -> range:
    return range(part.start, part.start + part.length)


def positions(repeat: Repeat, before: Any = 0) -> Iterator[np.ndarray]:
    """For each item of the first rounds its positions in all rounds, with an axis for each loop around it."""
    rounds = np.asarray(before)[..., None] + repeat.period * np.arange(repeat.count)
    for part in repeat.body:
        if isinstance(part, Repeat):
            yield from positions(part, rounds)
        else:
            for j in _items(part):
                yield j + rounds


def advance(places: np.ndarray) -> bool:
    """Whether places advance by a constant along every axis, everywhere the same."""
    return all(len(np.unique(np.diff(places, axis=axis))) <= 1 for axis in range(places.ndim))
