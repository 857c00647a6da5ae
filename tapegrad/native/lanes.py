"""A loop over rows as a function of LLVM, with a vector of rows in place of each number."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tapegrad.native.ir import ADD, COMPUTE, MAX, NEUTRAL, SET, Item, Loop, Ref
from tapegrad.native.rows import Rows, carried, lags
from tapegrad.native.rules import value
from tapegrad.native.writer import Register, Writer

# What rounding loses of a sum over rows is added up as well, where the sums are at most so many.
_EXACT = 64
# So many vectors of one result at most stand on the stack; beyond, they stand in the arena.
_ON_STACK = 256
# Loops of so many rounds are written out.
_WRITTEN_OUT = 8


@dataclass
class Store:
    """Where the numbers of a result stand for the rows of one round: one vector for each offset from `low` on.

    Attributes:
        dropped: of so many outer loops every round uses the same vectors again.
        over_rows: whether it is one sum, or the like, for all rows.
    """

    low: int
    size: int
    dropped: int = 0
    over_rows: bool = False
    pointer: str = ""
    lost: str = ""


@dataclass
class _Use:
    item: Item
    ref: Ref
    path: tuple[Loop, ...]
    writes: bool


@dataclass
class _Scope:
    """A loop that is being written: its counter, and what is known in its body."""

    counter: str | int
    known: dict[tuple[int, int, int, tuple[int, ...]], Register] = field(default_factory=dict)


class RowsWriter:
    """Writes the function of a loop over rows.

    Args:
        node: the loop.
        writer: an empty one, whose lanes are rows.
        to: the place in the compiled program's arena of a place of the program's own; for results that stand in it.
        kept: whether others read a result, so that it is to be stored in the arena.
        scratch: the place in the arena where there is room for vectors.
        constants: the numbers of constants that are scalars, by place.
    """

    def __init__(
        self, node: Rows, writer: Writer, to: Callable[[int, int], int], kept: Callable[[int], bool], scratch: int,
        constants: dict[int, float],
    ) -> None:  # fmt: skip
        self.node, self.w, self._to, self._kept, self._constants = node, writer, to, kept, constants
        self.body = node.body()
        self.bases = node.bases()
        self.rounds = node.rounds
        self._scopes = [_Scope(0)]
        self._uses: dict[int, list[_Use]] = {}
        self._find_uses(self.body, ())
        self._stores: dict[int, Store] = {}
        self._first: list[str] = []
        self._hoisted: dict[int, Register] = {}
        self._next_scratch = scratch
        self._masks: dict[tuple[int, int], Register] = {}
        # Vectors of the round before, with those of this round; and what was made of both.
        self._before: dict[int, tuple[str, str]] = {}
        self._shifted: dict[tuple[int, int], Register] = {}

    @property
    def scratch_end(self) -> int:
        """The place behind the room that was used."""
        return self._next_scratch

    # What is stored

    def _find_uses(self, body: Sequence[Loop | Item], path: tuple[Loop, ...]) -> None:
        for node in body:
            if isinstance(node, Loop):
                self._find_uses(node.body, (*path, node))
                continue
            for ref, writes in ((node.out, True), *((r, False) for r in node.operands)):
                if ref.result in self.node.items and not (not writes and lags(node, ref, self.bases)):
                    self._uses.setdefault(ref.result, []).append(_Use(node, ref, path, writes))

    def _needs_store(self, uses: Sequence[_Use]) -> bool:
        writers = [use for use in uses if use.writes]
        if len(writers) > 1 or writers[0].item.kind != COMPUTE:
            return True
        (of,) = writers
        known = _trimmed(of.ref)
        return any(
            use.path[: len(of.path)] != of.path or use.ref.place != of.ref.place or _trimmed(use.ref) != known
            for use in uses
        )

    def _make_store(self, result: int, uses: Sequence[_Use]) -> None:
        over_rows = result not in self.bases
        common = 0
        paths, refs = [use.path for use in uses], [use.ref for use in uses]
        if not over_rows and not (self._kept(result) and uses[0].item.kind != COMPUTE):
            while (
                all(len(p) > common for p in paths)
                and len({id(p[common]) for p in paths}) == 1
                and len({r.at(common) for r in refs}) == 1
            ):
                common += 1
        lows = [use.ref.place + use.item.bottom(use.ref, common) for use in uses]
        highs = [use.ref.place + use.item.top(use.ref, common) for use in uses]
        if over_rows:
            # All of the result, since there may be numbers to which nothing is added.
            whole = self.node.items[result][0]
            lows, highs = [whole.out.place], [whole.out.place + whole.top(whole.out, 0)]
        low, size = min(lows), max(highs) + 1 - min(lows)
        store = self._stores[result] = Store(low, size, common, over_rows)
        store.pointer = self._room(size)
        adds = any(use.item.kind == ADD for use in uses if use.writes)
        rounds = self.rounds * max((_product(use.item.dims) for use in uses if use.writes), default=1)
        if over_rows and adds and size <= _EXACT and rounds > 4 * self.w.lanes:
            store.lost = self._room(size)

    def _room(self, size: int) -> str:
        """A pointer to room for so many vectors."""
        name = self.w.name()
        kind = self.w.type(True)
        if size <= _ON_STACK:
            self._first.append(f"{name} = alloca [{size} x {kind}], align 64")
        else:
            self._first.append(f"{name} = getelementptr {self.w.real}, ptr %v, i64 {self._next_scratch}")
            self._next_scratch += size * self.w.lanes
        return name

    # The function

    def write(self, name: str) -> str:
        """The text of the function."""
        w = self.w
        for result, uses in self._uses.items():
            if result not in self.bases or self._needs_store(uses):
                self._make_store(result, uses)
        begin, loop, after = w.label("begin"), w.label("rows"), w.label("after")
        w.open(begin)
        for result, store in self._stores.items():
            if store.over_rows:
                self._start_over_rows(self.node.items[result][0], store)
        entry = w.label("entry")
        w.lines += [f"br label %{entry}", f"{entry}:", f"br label %{loop}"]
        w.open(loop)
        at = len(w.lines)
        last = {item.out.result: i for i, node in enumerate(self.body) for item in self._items([node])}
        for i, node in enumerate(self.body):
            self._body([node], 0)
            # What later nodes read of earlier rows, they read from the arena.
            self._flush([result for result in self._stores if last[result] == i])
        latch, following = w.label("latch"), w.name()
        w.lines += [f"br label %{latch}", f"{latch}:", f"{following} = add nuw nsw i64 %t, {w.lanes}"]
        phi = f"%t = phi i64 [0, %{entry}], [{following}, %{latch}]"
        go = w.name()
        w.lines += [f"{go} = icmp ult i64 {following}, {self.rounds}", f"br i1 {go}, label %{loop}, label %{after}"]
        kind = w.type(True)
        phis = [
            f"{name} = phi {kind} [zeroinitializer, %{entry}], [{now}, %{latch}]" for name, now in self._before.values()
        ]
        w.lines[at:at] = [phi, *phis]
        w.open(after)
        self._finish_over_rows()
        head = ['define internal void @NAME(ptr noalias %v) "prefer-vector-width"="512" {'.replace("NAME", name)]
        return "\n".join([*head, *self._first, f"br label %{begin}", *w.lines, "ret void", "}"])

    def _items(self, body: Sequence[Loop | Item]) -> Iterator[Item]:
        for node in body:
            if isinstance(node, Loop):
                yield from node.items()
            else:
                yield node

    def _start_over_rows(self, item: Item, store: Store) -> None:
        zero = self.w.wide(self.w.constant(item.number))
        with self._loop(store.size) as k:
            self._put(store.pointer, k, zero)
            if store.lost:
                self._put(store.lost, k, self.w.wide(self.w.constant(0.0)))

    @contextmanager
    def _loop(self, trip: int) -> Iterator[str | int]:
        """Write a loop around what is written inside. Gives its counter."""
        w = self.w
        before, head, latch, after = (w.label(x) for x in ("before", "loop", "next", "behind"))
        k, following, go = w.name(), w.name(), w.name()
        w.lines += [f"br label %{before}", f"{before}:", f"br label %{head}"]
        w.open(head)
        w.lines.append(f"{k} = phi i64 [0, %{before}], [{following}, %{latch}]")
        self._scopes.append(_Scope(k))
        yield k
        self._scopes.pop()
        w.lines += [f"br label %{latch}", f"{latch}:", f"{following} = add nuw nsw i64 {k}, 1"]
        w.lines += [f"{go} = icmp ult i64 {following}, {trip}", f"br i1 {go}, label %{head}, label %{after}"]
        w.open(after)

    def _body(self, body: Sequence[Loop | Item], depth: int) -> None:
        for node in body:
            if isinstance(node, Item):
                self._item(node, depth)
                continue
            self._forget(node)
            if node.trip <= _WRITTEN_OUT and len(node.body) * node.trip <= 64 and not _has_loops(node):
                for k in range(node.trip):
                    self._scopes.append(_Scope(k))
                    self._body(node.body, depth + 1)
                    self._scopes.pop()
            else:
                with self._loop(node.trip):
                    self._body(node.body, depth + 1)
            self._masks.clear()

    def _forget(self, loop: Loop) -> None:
        """What is taken into a result in a loop is not known after it, nor at the beginning of each round."""
        results = {item.out.result for item in loop.items() if item.kind in NEUTRAL}
        for scope in self._scopes:
            for key in [key for key in scope.known if key[0] in results]:
                del scope.known[key]

    def _item(self, item: Item, depth: int) -> None:
        w = self.w
        if item.kind == SET:
            self._define(item, w.constant(item.number), depth)
        elif item.kind == COMPUTE:
            assert item.row is not None
            xs = [self._operand(item, j, depth) for j in range(len(item.operands))]
            self._define(item, value(w, item.row, xs), depth)
        else:
            x = self._get(item, item.operands[0], depth)
            x = self._masked(item, x)
            store = self._stores[item.out.result]
            if store.lost:
                self._add_exactly(item, store, x, depth)
                return
            before = self._get(item, item.out, depth)
            self._define(item, self._taken(item.kind, before, x), depth)

    def _operand(self, item: Item, j: int, depth: int) -> Any:
        """An operand of an operation; a number where the operation holds it constant."""
        ref = item.operands[j]
        if item.row is not None and j in item.row.held and not ref.rows and not any(ref.strides):
            known = self._constants.get(ref.place)
            if known is not None:
                return known
        return self._get(item, ref, depth)

    def _taken(self, kind: str, before: Register, x: Register) -> Register:
        w = self.w
        if kind == ADD:
            return w.binary("fadd", before, x)
        better = w.compare("ogt" if kind == MAX else "olt", x, before)
        # What is no number is taken, and stays.
        return w.select(w.binary("or", better, w.compare("uno", x, x)), x, before)

    def _masked(self, item: Item, x: Register) -> Register:
        """A number that is taken in, in the rows that have it, and in others what changes nothing."""
        w, rounded = self.w, -(-self.rounds // self.w.lanes) * self.w.lanes
        if item.first == 0 and item.count >= rounded:
            return x
        if item.out.result in self.bases and item.first == item.shift and item.count == item.height:
            return x
        mask = self._masks.get((item.first, item.count))
        if mask is None:
            lanes = ", ".join(f"i64 {i - item.first}" for i in range(w.lanes))
            kind = f"<{w.lanes} x i64>"
            one = w.new(f"insertelement {kind} poison, i64 %t, i32 0", True).text
            zeros = f"<{w.lanes} x i32> zeroinitializer"
            all_t = w.new(f"shufflevector {kind} {one}, {kind} poison, {zeros}", True).text
            at = w.new(f"add {kind} {all_t}, <{lanes}>", True).text
            end = ", ".join([f"i64 {item.count}"] * w.lanes)
            mask = w.new(f"icmp ult {kind} {at}, <{end}>", True, True)
            if len(self._scopes) == 1:
                self._masks[item.first, item.count] = mask
        return w.select(mask, x, w.constant(NEUTRAL[item.kind]))

    def _add_exactly(self, item: Item, store: Store, x: Register, depth: int) -> None:
        # As Knuth finds what rounding loses of a sum; it is added up, and added at the end.
        w, at = self.w, self._offset(store, item.out, depth)
        before = self._take(store.pointer, at)
        total = w.binary("fadd", before, x)
        part = w.binary("fsub", total, before)
        lost = w.binary(
            "fadd", w.binary("fsub", before, w.binary("fsub", total, part)), w.binary("fsub", x, part)
        )
        self._put(store.pointer, at, total)
        self._put(store.lost, at, w.binary("fadd", self._take(store.lost, at), lost))

    # Numbers by reference

    def _key(self, ref: Ref) -> tuple[int, int, int, tuple[int, ...]]:
        """What tells numbers apart: strides of loops that are written out are part of the place."""
        place, strides = ref.place, []
        for d, scope in enumerate(self._scopes[1:]):
            if isinstance(scope.counter, int):
                place += ref.at(d) * scope.counter
                strides.append(0)
            else:
                strides.append(ref.at(d))
        while strides and not strides[-1]:
            strides.pop()
        return ref.result, place, ref.rows, tuple(strides)

    def _define(self, item: Item, x: Register, depth: int) -> None:
        ref, store = item.out, self._stores.get(item.out.result)
        accumulates = store is not None and item.kind != COMPUTE
        if not (accumulates and store is not None and store.over_rows):
            self._scopes[-1].known[self._key(ref)] = x
        if store is not None:
            self._put(store.pointer, self._offset(store, ref, depth), self.w.wide(x))
        if item.kind == COMPUTE and self._kept(ref.result):
            self._to_arena(ref, x)

    def _get(self, item: Item, ref: Ref, depth: int) -> Register:
        own = ref.result in self.node.items
        if own and lags(item, ref, self.bases):
            back = carried(item, ref, self.bases, self.node.items, self.w.lanes)
            return self._from_arena(ref) if back is None else self._carried(ref, back)
        key = self._key(ref)
        of = self._scopes if not own or item.out.result != ref.result else self._scopes[-1:]
        for scope in reversed(of):
            if key in scope.known:
                return scope.known[key]
        if own:
            store = self._stores[ref.result]
            found = self._take(store.pointer, self._offset(store, ref, depth))
        else:
            found = self._from_arena(ref)
        if own and item.out.result == ref.result:
            return found
        # It is known in the innermost loop that it depends on, but is read here, so others may use it from here on.
        self._scopes[-1].known[key] = found
        return found

    def _carried(self, ref: Ref, back: int) -> Register:
        """What was computed so many rounds ago: the end of the vector of the round before, and the beginning of this
        one's."""
        w, kind, key = self.w, self.w.type(True), (ref.result, back)
        if key in self._shifted:
            return self._shifted[key]
        out = self.node.items[ref.result][0].out
        now = w.wide(self._scopes[0].known[ref.result, self.bases[ref.result], out.rows, ()])
        before = self._before.get(ref.result)
        if before is None:
            before = self._before[ref.result] = w.name(), now.text
        mask = ", ".join(f"i32 {i}" for i in range(w.lanes - back, 2 * w.lanes - back))
        text = f"shufflevector {kind} {before[0]}, {kind} {now.text}, <{w.lanes} x i32> <{mask}>"
        found = w.new(text, True)
        if len(self._scopes) == 1:
            self._shifted[key] = found
        return found

    def _offset(self, store: Store, ref: Ref, depth: int) -> str:
        return self._index(ref.place - store.low, ref, store.dropped)

    def _index(self, start: int, ref: Ref, first: int) -> str:
        """A place, with the strides of the loops from depth `first` on."""
        w, text = self.w, str(start)
        for d, scope in enumerate(self._scopes[1:]):
            stride = ref.at(d)
            if d < first or not stride:
                continue
            if isinstance(scope.counter, int):
                start += stride * scope.counter
        text = str(start)
        for d, scope in enumerate(self._scopes[1:]):
            stride = ref.at(d)
            if d < first or not stride or isinstance(scope.counter, int):
                continue
            step = scope.counter if stride == 1 else w.new(f"mul nsw i64 {scope.counter}, {stride}", False).text
            text = w.new(f"add nsw i64 {step}, {text}", False).text
        return text

    def _put(self, pointer: str, at: str | int, x: Register) -> None:
        w, kind = self.w, self.w.type(True)
        p = w.new(f"getelementptr {kind}, ptr {pointer}, i64 {at}", False).text
        w.lines.append(f"store {kind} {w.wide(x).text}, ptr {p}, align {self._align}")

    def _take(self, pointer: str, at: str | int) -> Register:
        w, kind = self.w, self.w.type(True)
        p = w.new(f"getelementptr {kind}, ptr {pointer}, i64 {at}", False).text
        return w.new(f"load {kind}, ptr {p}, align {self._align}", True)

    @property
    def _align(self) -> int:
        return self.w.dtype.itemsize

    # The arena

    def _from_arena(self, ref: Ref) -> Register:
        w, start = self.w, self._to(ref.result, ref.place)
        if not ref.rows:
            if not any(ref.at(d) for d in range(len(self._scopes) - 1)):
                return self._uniform(start)
            p = w.new(f"getelementptr {w.real}, ptr %v, i64 {self._index(start, ref, 0)}", False).text
            return w.new(f"load {w.real}, ptr {p}, align {self._align}", False)
        p = self._row_pointer(start, ref)
        kind = w.type(True)
        if ref.rows == 1:
            return w.new(f"load {kind}, ptr {p}, align {self._align}", True)
        return w.gather(p, ref.rows)

    def _to_arena(self, ref: Ref, x: Register) -> None:
        w, x = self.w, self.w.wide(x)
        p = self._row_pointer(self._to(ref.result, ref.place), ref)
        kind = w.type(True)
        if ref.rows == 1:
            w.lines.append(f"store {kind} {x.text}, ptr {p}, align {self._align}")
            return
        for i in range(w.lanes):
            one = w.new(f"extractelement {kind} {x.text}, i32 {i}", False).text
            q = w.new(f"getelementptr {w.real}, ptr {p}, i64 {i * ref.rows}", False).text
            w.lines.append(f"store {w.real} {one}, ptr {q}, align {self._align}")

    def _row_pointer(self, start: int, ref: Ref) -> str:
        w = self.w
        step = "%t" if ref.rows == 1 else w.new(f"mul nsw i64 %t, {ref.rows}", False).text
        at = w.new(f"add nsw i64 {step}, {self._index(start, ref, 0)}", False).text
        return w.new(f"getelementptr {w.real}, ptr %v, i64 {at}", False).text

    def _uniform(self, place: int) -> Register:
        """A number that is the same in all rounds, read before the loop."""
        known = self._hoisted.get(place)
        if known is None:
            p, x = self.w.name(), self.w.name()
            self._first.append(f"{p} = getelementptr {self.w.real}, ptr %v, i64 {place}")
            self._first.append(f"{x} = load {self.w.real}, ptr {p}, align {self._align}")
            known = self._hoisted[place] = Register(x)
        return known

    # Ends

    def _flush(self, results: Sequence[int]) -> None:
        """Store what was put together in a row and is read by others."""
        for result in results:
            found, store = self.node.items[result], self._stores[result]
            if store.over_rows or not self._kept(result) or found[0].kind == COMPUTE:
                continue
            item = next(i for i in self._items(self.body) if i.out.result == result and i.kind == SET)
            ref = item.out
            self._flush_loops(item, ref, store, 0)

    def _flush_loops(self, item: Item, ref: Ref, store: Store, depth: int) -> None:
        if depth == len(item.dims):
            self._to_arena(ref, self._take(store.pointer, self._offset(store, ref, depth)))
            return
        with self._loop(item.dims[depth]):
            self._flush_loops(item, ref, store, depth + 1)

    def _finish_over_rows(self) -> None:
        w = self.w
        for result, store in self._stores.items():
            if not store.over_rows:
                continue
            kind = next(i.kind for i in self.node.items[result] if i.kind != SET)
            with self._loop(store.size) as k:
                found = self._across(kind, self._take(store.pointer, k))
                if store.lost:
                    finite = w.compare("olt", w.call("abs", found), w.constant(float("inf")))
                    more = w.binary("fadd", found, self._across(ADD, self._take(store.lost, k)))
                    found = w.select(finite, more, found)
                at = w.new(f"add nsw i64 {k}, {self._to(result, store.low)}", False).text
                p = w.new(f"getelementptr {w.real}, ptr %v, i64 {at}", False).text
                w.lines.append(f"store {w.real} {found.text}, ptr {p}, align {self._align}")

    def _across(self, kind: str, x: Register) -> Register:
        """All lanes taken together, in their order."""
        w, whole = self.w, self.w.type(True)
        each = [w.new(f"extractelement {whole} {x.text}, i32 {i}", False) for i in range(w.lanes)]
        found = each[0]
        for y in each[1:]:
            found = self._taken(kind, found, y)
        return found


def _trimmed(ref: Ref) -> tuple[int, ...]:
    strides = list(ref.strides)
    while strides and not strides[-1]:
        strides.pop()
    return tuple(strides)


def _has_loops(loop: Loop) -> bool:
    return any(isinstance(node, Loop) for node in loop.body)


def _product(dims: Sequence[int]) -> int:
    size = 1
    for n in dims:
        size *= n
    return size
