"""Where the numbers of a loop over rows are read and written: room for vectors, and the arena."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tapegrad.native.ir import Ref
from tapegrad.native.outer import Pointers
from tapegrad.native.tables import Table
from tapegrad.native.writer import NEAR, Register, Writer

# So many vectors of one result at most stand on the stack; beyond, they stand in the arena.
_ON_STACK = 256


@dataclass
class Scope:
    """A loop that is being written: its counter, and what is known in its body."""

    counter: str | int
    known: dict[tuple[int, int, int, tuple[int, ...]], Register] = field(default_factory=dict)


class RowMemory:
    """Writes loads and stores.

    Args:
        writer: its lanes are rows.
        to: the place in the compiled program's arena of a place of the program's own.
        scratch: the place in the arena where there is room for vectors.
        outer: the pointers to arrays outside of the arena.
        tables: what stands for constants, by the number of the result.

    Attributes:
        w: the writer.
        scratch_end: the place behind the room that was used.
        first: lines that stand before the loop.
        scopes: the loops that are being written, the one over rows first.
        row: the name of the number of the first row of a round.
    """

    def __init__(
        self, writer: Writer, to: Callable[[int, int], int], scratch: int, outer: Pointers, tables: dict[int, Table]
    ) -> None:
        self.w, self._to, self.scratch_end, self.outer, self._tables = writer, to, scratch, outer, tables
        self.first: list[str] = []
        self.scopes = [Scope(0)]
        self.row = "%t"
        self._hoisted: dict[tuple[str, int], Register] = {}
        # By result the numbers of a row whose others come next.
        self._waiting: dict[int, dict[int, Register]] = {}

    def room(self, size: int) -> str:
        """A pointer to room for so many vectors."""
        name = self.w.name()
        kind = self.w.type(True)
        if size <= _ON_STACK:
            self.first.append(f"{name} = alloca [{size} x {kind}], align 64")
        else:
            self.first.append(f"{name} = getelementptr {self.w.real}, ptr %v, i64 {self.scratch_end}")
            self.scratch_end += size * self.w.lanes
        return name

    def index(self, start: int, ref: Ref, first: int) -> str:
        """A place, with the strides of the loops from depth `first` on."""
        w, text = self.w, str(start)
        for d, scope in enumerate(self.scopes[1:]):
            stride = ref.at(d)
            if d < first or not stride:
                continue
            if isinstance(scope.counter, int):
                start += stride * scope.counter
        text = str(start)
        for d, scope in enumerate(self.scopes[1:]):
            stride = ref.at(d)
            if d < first or not stride or isinstance(scope.counter, int):
                continue
            step = scope.counter if stride == 1 else w.new(f"mul nsw i64 {scope.counter}, {stride}", False).text
            text = w.new(f"add nsw i64 {step}, {text}", False).text
        return text

    def put(self, pointer: str, at: str | int, x: Register) -> None:
        w, kind = self.w, self.w.type(True)
        p = w.new(f"getelementptr {kind}, ptr {pointer}, i64 {at}", False).text
        w.lines.append(f"store {kind} {w.wide(x).text}, ptr {p}, align {self.align}")

    def take(self, pointer: str, at: str | int) -> Register:
        w, kind = self.w, self.w.type(True)
        p = w.new(f"getelementptr {kind}, ptr {pointer}, i64 {at}", False).text
        return w.new(f"load {kind}, ptr {p}, align {self.align}", True)

    @property
    def align(self) -> int:
        return self.w.dtype.itemsize

    def from_arena(self, ref: Ref) -> Register:
        w = self.w
        if not ref.rows:
            if not any(ref.at(d) for d in range(len(self.scopes) - 1)):
                return self._uniform(ref)
            start = self._to(ref.result, ref.place)
            p = w.new(f"getelementptr {w.real}, ptr %v, i64 {self.index(start, ref, 0)}", False).text
            return w.new(f"load {w.real}, ptr {p}, align {self.align}", False)
        p = self._row_pointer(ref)
        kind = w.type(True)
        if ref.rows == 1:
            return w.new(f"load {kind}, ptr {p}, align {self.align}", True)
        return w.gather(p, ref.rows)

    def to_arena(self, ref: Ref, x: Register, whole: bool) -> None:
        """Store a number; `whole` says that all numbers of a row are stored, one after the other."""
        w, x = self.w, self.w.wide(x)
        if whole and 1 < ref.rows <= NEAR and all(isinstance(scope.counter, int) for scope in self.scopes[1:]):
            own = self._waiting.setdefault(ref.result, {})
            own[int(self.index(0, ref, 0))] = x
            if len(own) == ref.rows:
                self._store_rows(ref, [own[i] for i in range(ref.rows)])
                del self._waiting[ref.result]
            return
        p = self._row_pointer(ref)
        kind = w.type(True)
        if ref.rows == 1:
            w.lines.append(f"store {kind} {x.text}, ptr {p}, align {self.align}")
            return
        for i in range(w.lanes):
            one = w.new(f"extractelement {kind} {x.text}, i32 {i}", False).text
            q = w.new(f"getelementptr {w.real}, ptr {p}, i64 {i * ref.rows}", False).text
            w.lines.append(f"store {w.real} {one}, ptr {q}, align {self.align}")

    def _store_rows(self, ref: Ref, xs: Sequence[Register]) -> None:
        """Store short rows of which all numbers are known, whole vectors at a time."""
        w, kind = self.w, self.w.type(True)
        p = self._row_pointer(ref._replace(strides=()))
        for k, x in enumerate(w.side_by_side(xs)):
            q = w.new(f"getelementptr {w.real}, ptr {p}, i64 {k * w.lanes}", False).text
            w.lines.append(f"store {kind} {x.text}, ptr {q}, align {self.align}")

    def _row_pointer(self, ref: Ref) -> str:
        w, (base, start) = self.w, self._start(ref, self.outer.base)
        table = self._tables.get(ref.result)
        row = self.row if table is None else w.new(f"urem i64 {self.row}, {table.turn}", False).text
        step = row if ref.rows == 1 else w.new(f"mul nsw i64 {row}, {ref.rows}", False).text
        at = w.new(f"add nsw i64 {step}, {self.index(start, ref, 0)}", False).text
        return w.new(f"getelementptr {w.real}, ptr {base}, i64 {at}", False).text

    def _start(self, ref: Ref, pointer: Callable[[int], tuple[str, int] | None]) -> tuple[str, int]:
        """Where row 0 stands: a pointer, and how far behind it."""
        table, outer = self._tables.get(ref.result), pointer(ref.result)
        if table is not None:
            return "%v", self._to(ref.result, table.start) + (ref.place - table.start) % table.period
        return ("%v", self._to(ref.result, ref.place)) if outer is None else (outer[0], ref.place - outer[1])

    def _uniform(self, ref: Ref) -> Register:
        """A number that is the same in all rounds, read before the loop."""
        key = self._start(ref, self.outer.whole)
        known = self._hoisted.get(key)
        if known is None:
            p, x = self.w.name(), self.w.name()
            self.first.append(f"{p} = getelementptr {self.w.real}, ptr {key[0]}, i64 {key[1]}")
            self.first.append(f"{x} = load {self.w.real}, ptr {p}, align {self.align}")
            known = self._hoisted[key] = Register(x)
        return known
