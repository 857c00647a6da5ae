"""A loop over rows with so many instructions that blocks of them repeat: inside a row they become loops too.

What a row computes is a straight program like one of scalars, with a vector of rows in place of each number, and so it
is written like one (`scalars`). A number is named by its place, times eight, plus how it goes from row to row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.native.ir import ADD, COMPUTE, SET, Item, Ref
from tapegrad.native.roll import Repeat, Straight, rolled
from tapegrad.native.rows import Rows
from tapegrad.native.scalars import Read, ScalarsWriter, advance, positions
from tapegrad.native.writer import Register, Writer
from tapegrad.ops import TABLE
from tapegrad.ops.record import OUT

# So many instructions are searched for blocks that repeat, and a loop saves at least so many.
SEARCHED, _LEAST = 400, 64
_MODES = 8


class LongRowsWriter(ScalarsWriter):
    """Writes the function of a loop over rows, if `can_write`.

    Args:
        node, writer, to, kept, scratch: as `lanes.RowsWriter` takes them, and `constants`.
        owner: the results in which places are.
    """

    def __init__(
        self, node: Rows, writer: Writer, to: Callable[[int, int], int], kept: Callable[[int], bool], scratch: int,
        constants: dict[int, float], owner: Callable[[np.ndarray], np.ndarray],
    ) -> None:  # fmt: skip
        self.node, self._lanes, self._scratch, self._owners = node, writer, scratch, owner
        self._strides: list[int] = [0, 1]
        self.items = [item for item in node.all_items() if item.kind != SET]
        sums = all(not item.out.rows and len(item.dims) < 2 for item in node.all_items() if item.kind == SET)
        self.possible = len(self.items) >= SEARCHED and sums and all(map(self._fits, self.items))
        rows = self._table() if self.possible else np.zeros((0, 5), np.int64)
        super().__init__(None, rows, range(len(rows)), lambda place: 0, lambda place: False,
                         {place * _MODES: x for place, x in constants.items()})
        self._in_arena, self._is_kept = to, kept
        # For each result that is stored for later in the row, which vector it is; likewise for sums over all rows.
        self._vectors: dict[int, int] = {}
        self._sums: dict[int, int] = {}
        # Results that are copied to the arena, where that has them at all, when all of a row is computed.
        self._late: dict[int, None] = {}
        if self.possible:
            self._prepare()

    @property
    def scratch_end(self) -> int:
        """The place behind the room that is used."""
        return self._scratch + (self._room + 2 * len(self._sums)) * self._lanes.lanes

    @property
    def _room(self) -> int:
        """How many vectors there is room for."""
        return max(self._vectors.values(), default=-1) + 1

    def _fits(self, item: Item) -> bool:
        simple = not item.dims and not item.shift and not item.first and item.count in (1, self.node.rows)
        refs = (item.out, *item.operands)
        if not simple or any(r.rows not in self._strides and len(self._strides) >= _MODES for r in refs):
            return False
        for ref in refs:
            if ref.rows not in self._strides:
                self._strides.append(ref.rows)
        own = all(r.rows == 1 for r in item.operands if r.result in self.node.items)
        return own and ((item.kind == COMPUTE and item.count > 1) or (item.kind == ADD and not item.out.rows))

    def _name(self, ref: Ref) -> int:
        return ref.place * _MODES + self._strides.index(ref.rows)

    def _table(self) -> np.ndarray:
        rows = np.zeros((len(self.items), 5), np.int64)
        for j, item in enumerate(self.items):
            names = [self._name(item.out), *map(self._name, item.operands)]
            rows[j, 1:] = (names + [names[-1]] * 3)[:4]
            rows[j, 0] = item.row.opcode if item.row is not None else -item.count
        return rows

    def _prepare(self) -> None:
        """Find the loops, what is to be stored in them, and whether it can be stored in places that advance."""
        keys: dict[Any, int] = {}
        table = [
            (int(r[0]), *(r[1:] % _MODES).tolist(), *(self._constants.get(int(r[2 + j])) for j in _held(int(r[0]))))
            for r in self._rows
        ]
        numbers = np.array([keys.setdefault(key, len(keys)) for key in table], np.int64)
        self._body: Sequence[Straight | Repeat] = rolled(numbers, self._rows[:, OUT:], _LEAST)
        if not any(isinstance(part, Repeat) for part in self._body):
            self.possible = False
            return
        self._parts(self._body, ())
        reads, outs = [read.places() for read in self.reads], self._rows[:, OUT]
        stored = np.unique(np.concatenate([np.zeros(0, np.int64), *(r.reshape(-1) for r in reads)]))
        own = np.isin(outs, stored) & (self._rows[:, 0] >= 0)
        written = [outs[at] for part in self._body if isinstance(part, Repeat) for at in positions(part)]
        for at in (at for part in self._body if isinstance(part, Repeat) for at in positions(part)):
            if not self._is_alike_in_arena(outs[at]):
                # Some rounds make what others read: it goes to the arena when the loop is over.
                self._late |= dict.fromkeys(outs[at].reshape(-1).tolist())
                own[at] = True
            own[at] |= own[at].any()
        looped = np.zeros(len(outs), bool)
        for part in self._body:
            if isinstance(part, Repeat):
                looped[part.start : part.start + part.period * part.count] = True
        self._vectors = beside(outs[own & looped], outs[own & ~looped], reads)
        sums = outs[self._rows[:, 0] < 0]
        self._sums = {int(out): i for i, out in enumerate(np.unique(sums))}
        if not all(advance(self._moved(names)) for names in (*reads, *written)) and len(self._vectors) > 1:
            # With a room for every result, all advance as the results do in the program's own arena.
            apart = int(np.gcd.reduce(np.diff(outs[own])))
            self._vectors = {int(out): int(out - outs[own][0]) // apart for out in outs[own]}
        self.possible = all(advance(self._moved(names)) for names in (*reads, *written))

    def _is_alike_in_arena(self, names: np.ndarray) -> bool:
        """Whether the results of an item in all rounds are stored in the arena at places that advance, or none is."""
        results = self._owners(names.reshape(-1) // _MODES)
        kept = [self._is_kept(int(r)) for r in results]
        places = [self._in_arena(int(r), int(n) // _MODES) for r, n in zip(results, names.reshape(-1), strict=True)]
        return not any(kept) or (all(kept) and advance(np.array(places).reshape(names.shape)))

    def _result(self, name: int) -> int:
        """The result in which a number is."""
        return int(self._owners(np.array([name // _MODES]))[0])

    def _moved(self, names: np.ndarray) -> np.ndarray:
        """Where numbers stand: vectors and sums by their number, others by their place in the arena."""
        flat = names.reshape(-1).tolist()
        found = [self._at(name) for name in flat]
        kinds = {kind for kind, _ in found}
        if len(kinds) > 1:
            # What is stored in different ways cannot be read by one instruction.
            return np.array([0, 0, 1])
        return np.array([at for _, at in found]).reshape(names.shape)

    def _at(self, name: int) -> tuple[str, int]:
        if name in self._vectors:
            return "vector", self._vectors[name]
        if name in self._sums:
            return "sum", self._sums[name]
        place, result = name // _MODES, self._result(name)
        if result in self.node.items:
            # It is in registers only.
            return "none", 0
        return "arena", self._in_arena(result, place)

    # Writing

    def write_rows(self, name: str) -> str:
        """The text of the function."""
        self._writer, w = self._lanes, self._lanes
        self._scopes, self.reads = self._scopes[:1], []
        self._scopes[0].known.clear()
        first = self._scratch + self._room * w.lanes
        count = 2 * len(self._sums)
        zero = w.type(True) + " zeroinitializer"
        lines = [f"%base = getelementptr {w.real}, ptr %v, i64 {self._scratch}",
                 f"%sums = getelementptr {w.real}, ptr %v, i64 {first}"]  # fmt: skip
        lines += ["br label %clear", "clear:"]
        if count:
            lines += [
                "%c = phi i64 [0, %begin], [%cn, %clear]", f"%cp = getelementptr {w.type(True)}, ptr %sums, i64 %c",
                f"store {zero}, ptr %cp, align {self._align}", "%cn = add i64 %c, 1",
                f"%cg = icmp ult i64 %cn, {count}", "br i1 %cg, label %clear, label %enter", "enter:",
            ]  # fmt: skip
        entry = "enter" if count else "clear"
        w.open("rows")
        at = len(w.lines)
        self._parts(self._body, ())
        for place in self._late:
            if self._is_kept(self._result(place)):
                p, q = self._pointer(place, ()), self._arena_pointer(place, ())
                x = w.new(f"load {w.type(True)}, ptr {p}, align {self._align}", True)
                w.lines.append(f"store {w.type(True)} {x.text}, ptr {q}, align {self._align}")
        w.lines += ["br label %latch", "latch:", f"%tn = add nuw nsw i64 %t, {w.lanes}"]
        w.lines.append(f"%tg = icmp ult i64 %tn, {self.node.rows}")
        w.lines += [f"br i1 {w.unless_stopped('%tg')}, label %rows, label %after", "after:"]
        w.lines.insert(at, f"%t = phi i64 [0, %{entry}], [%tn, %latch]")
        w.open("ends")
        w.lines.insert(len(w.lines) - 1, "br label %ends")
        self._finish()
        head = f'define internal void @{name}(ptr noalias %v, ptr %stop, ptr %outer) "prefer-vector-width"="512" {{'
        return "\n".join([head, "begin:", *lines, "br label %rows", *w.lines, "ret void", "}"])

    @property
    def _align(self) -> int:
        return self._lanes.dtype.itemsize

    def _makes(self, j: int) -> bool:
        return bool(self._rows[j, 0] >= 0)

    def _arity(self, j: int) -> int:
        return len(self.items[j].operands)

    def _before(self, place: int, strides: tuple[int, ...]) -> Register:
        found = self._get(place, strides)
        return found if self._writer is None else self.w.wide(found)

    def _item(self, j: int, periods: tuple[int, ...]) -> None:
        if self._rows[j, 0] >= 0:
            super()._item(j, periods)
            return
        x = self._get(*self._place(j, 2, periods))
        if self._writer is None:
            return
        w, (place, strides) = self.w, self._place(j, 1, periods)
        p = self._pointer(place, strides)
        q = w.new(f"getelementptr {w.type(True)}, ptr {p}, i64 {len(self._sums)}", False).text
        total, lost = (w.new(f"load {w.type(True)}, ptr {r}, align {self._align}", True) for r in (p, q))
        x = self._masked(w.wide(x), -int(self._rows[j, 0]))
        new, rest = w.two_sum(total, x)
        for r, y in ((p, new), (q, w.binary("fadd", lost, rest))):
            w.lines.append(f"store {w.type(True)} {y.text}, ptr {r}, align {self._align}")

    def _masked(self, x: Register, count: int) -> Register:
        """A number in the first so many rows, in others zero."""
        w = self.w
        if count == self.node.rows and count % w.lanes == 0:
            return x
        return w.select(w.rows_within(0, count), x, w.constant(0.0))

    def _store(self, place: int, strides: tuple[int, ...], found: Register) -> None:
        w = self.w
        if place in self._vectors:
            p = self._pointer(place, strides)
            w.lines.append(f"store {w.type(True)} {w.wide(found).text}, ptr {p}, align {self._align}")
        if place not in self._late and self._is_kept(self._result(place)):
            q = self._arena_pointer(place, strides)
            w.lines.append(f"store {w.type(True)} {w.wide(found).text}, ptr {q}, align {self._align}")

    def _load(self, place: int, strides: tuple[int, ...]) -> Register:
        if self._writer is None:
            self.reads.append(Read(place, strides, tuple(self._trips[: len(strides)])))
            return Register("", place % _MODES != 0)
        w, (kind, _) = self.w, self._at(place)
        if kind == "vector":
            return w.new(f"load {w.type(True)}, ptr {self._pointer(place, strides)}, align {self._align}", True)
        p, stride = self._arena_pointer(place, strides), self._strides[place % _MODES]
        if not stride:
            return w.new(f"load {w.real}, ptr {p}, align {self._align}", False)
        if stride == 1:
            return w.new(f"load {w.type(True)}, ptr {p}, align {self._align}", True)
        return w.gather(p, stride)

    def _pointer(self, place: int, strides: Sequence[int]) -> str:
        """Of a vector in the room for them."""
        w, (kind, start) = self.w, self._at(place)
        at = self._index(start, place, strides, lambda name: self._at(name)[1])
        base = "%base" if kind == "vector" else "%sums"
        return w.new(f"getelementptr {w.type(True)}, ptr {base}, i64 {at}", False).text

    def _arena_pointer(self, place: int, strides: Sequence[int]) -> str:
        w, stride = self.w, self._strides[place % _MODES]

        def moved(name: int) -> int:
            return self._in_arena(self._result(name), name // _MODES)

        at = self._index(moved(place), place, strides, moved)
        if stride:
            step = "%t" if stride == 1 else w.new(f"mul nsw i64 %t, {stride}", False).text
            at = w.new(f"add nsw i64 {step}, {at}", False).text
        return w.new(f"getelementptr {w.real}, ptr %v, i64 {at}", False).text

    def _index(self, start: int, place: int, strides: Sequence[int], moved: Callable[[int], int]) -> str:
        w, text = self.w, str(start)
        for scope, stride in zip(self._scopes[1:], strides, strict=False):
            if stride:
                step = w.new(f"mul nsw i64 {scope.counter}, {moved(place + stride) - start}", False).text
                text = w.new(f"add nsw i64 {step}, {text}", False).text
        return text

    def _finish(self) -> None:
        w, whole = self.w, self.w.type(True)
        for item in self.node.all_items():
            if item.kind == SET:
                # Numbers to which nothing is added.
                for k in range(item.dims[0] if item.dims else 1):
                    if (item.out.place + k) * _MODES not in self._sums:
                        at = self._in_arena(item.out.result, item.out.place + k)
                        q = w.new(f"getelementptr {w.real}, ptr %v, i64 {at}", False).text
                        w.lines.append(f"store {w.real} {w.constant(0.0).text}, ptr {q}, align {self._align}")
        for out, number in self._sums.items():
            parts = []
            for at in (number, len(self._sums) + number):
                p = w.new(f"getelementptr {whole}, ptr %sums, i64 {at}", False).text
                x = w.new(f"load {whole}, ptr {p}, align {self._align}", True)
                parts.append(w.total(x))
            finite = w.compare("olt", w.call("abs", parts[0]), w.constant(float("inf")))
            found = w.select(finite, w.binary("fadd", *parts), parts[0])
            place = out // _MODES
            q = w.new(
                f"getelementptr {w.real}, ptr %v, i64 {self._in_arena(int(self._owners(np.array([place]))[0]), place)}",
                False,
            ).text
            w.lines.append(f"store {w.real} {found.text}, ptr {q}, align {self._align}")



def beside(looped: np.ndarray, straight: np.ndarray, reads: Sequence[np.ndarray]) -> dict[int, int]:
    """For each name of a result that is stored, which vector it is.

    Those that loops make stand beside each other, round by round. Of those that straight code makes, what a loop reads
    in a row with these continues the row: the round before the first, mostly, which is written out because it begins
    otherwise. Others come last.
    """
    found = {int(name): i for i, name in enumerate(looped)}
    rest, taken = set(straight.tolist()), set(found.values())
    for names in reads:
        row = names.tolist() if names.ndim == 1 else []
        known = [i for i, name in enumerate(row) if name in found and name not in rest]
        if len(known) < 2 or len(known) == len(row):
            continue
        i, j = known[:2]
        step = (found[row[j]] - found[row[i]]) // (j - i)
        for k, name in enumerate(row):
            at = found[row[i]] + (k - i) * step
            if name in rest and name not in found and at not in taken:
                found[name] = at
                taken.add(at)
    last = max(taken, default=-1)
    for name in straight.tolist():
        if name not in found:
            found[name] = last = last + 1
    first = min(found.values(), default=0)
    return {name: at - first for name, at in found.items()}


def _held(op: int) -> tuple[int, ...]:
    return TABLE[op].held if op >= 0 else ()
