"""A loop over rows as a function of LLVM, with a vector of rows in place of each number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tapegrad.native import rounds
from tapegrad.native.ir import ADD, COMPUTE, MAX, NEUTRAL, SET, Item, Loop, Ref
from tapegrad.native.outer import Array, Pointers
from tapegrad.native.row_memory import RowMemory, Scope
from tapegrad.native.rows import Rows, carried, lags
from tapegrad.native.rules import value
from tapegrad.native.stores import Store, stores_of
from tapegrad.native.tables import Table
from tapegrad.native.writer import Register, Writer

# Loops of so many rounds are written out.
_WRITTEN_OUT = 8


class RowsWriter(RowMemory):
    """Writes the function of a loop over rows.

    Args:
        node: the loop.
        writer: an empty one, whose lanes are rows.
        to: the place in the compiled program's arena of a place of the program's own; for results that stand in it.
        kept: whether others read a result, so that it is to be stored in the arena.
        scratch: the place in the arena where there is room for vectors.
        constants: the numbers of constants that are scalars, by place.
        arrays: those that may stand outside of the arena.
        tables: what stands for long constants.
    """

    def __init__(
        self, node: Rows, writer: Writer, to: Callable[[int, int], int], kept: Callable[[int], bool], scratch: int,
        constants: dict[int, float], arrays: dict[int, Array], tables: dict[int, Table],
    ) -> None:  # fmt: skip
        super().__init__(writer, to, scratch, Pointers(node, writer, arrays), tables)
        self.node, self._kept, self._constants = node, kept, constants
        self.body = node.body()
        self.bases = node.bases()
        self.rounds = node.rounds
        self._stores: dict[int, Store] = {}
        self._masks: dict[tuple[int, int], Register] = {}
        # Vectors of the round before, with those of this round; and what was made of both.
        self._before: dict[int, tuple[str, str]] = {}
        self._shifted: dict[tuple[int, int], Register] = {}
        # Rows that are asked for, as the first and the one behind the last; and the rounds that are being written, if
        # they are those in between, in which nothing is asked.
        self._edges: set[tuple[int, int]] = set()
        self._middle: tuple[int, int] | None = None

    # The function

    def write(self, name: str) -> str:
        """The text of the function."""
        w = self.w
        self.outer.begin(self.first, self.room)
        found = stores_of(self.node, self.body, self._kept, w.lanes, w.dtype.itemsize)
        for result, (store, lossless) in found.items():
            self._stores[result] = store
            store.pointer = self.room(store.size)
            store.lost = self.room(store.size) if lossless else ""
        begin, entry, after = w.label("begin"), w.label("entry"), w.label("after")
        w.open(begin)
        for result, store in self._stores.items():
            if store.over_rows:
                self._start_over_rows(self.node.items[result][0], store)
        w.lines += [f"br label %{entry}", f"{entry}:"]
        self._write_rounds(entry, after)
        w.open(after)
        self.outer.end()
        self._finish_over_rows()
        head = [f'define internal void @{name}(ptr noalias %v, ptr %stop, ptr %outer) "prefer-vector-width"="512" {{']
        return "\n".join([*head, *self.first, f"br label %{begin}", *w.lines, "ret void", "}"])

    def _write_rounds(self, entry: str, after: str) -> None:
        """The loop over rows."""
        w, before, quick = self.w, self.w.lines, None
        ends = self._round("%t", ())
        middle = rounds.middle_of(self._edges, self.outer.inner(), w.lanes)
        if self._edges and rounds.pays(ends.lines, middle, w.lanes):
            self._middle = middle
            quick = self._round("%q", ends.carried)
        w.lines = before + rounds.loop(w, self.outer, ends, quick, middle, self.rounds, entry, after)

    def _round(self, row: str, carried: Iterable[int]) -> rounds.Round:
        """What is done in a round, where `carried` and what it reads of earlier rounds goes on to the next."""
        w, label = self.w, self.w.label("rows")
        self.row, self.scopes, w.lines = row, [Scope(0)], []
        self._masks, self._before, self._shifted = {}, {}, {}
        w.open(label)
        w.lines.clear()
        last = {item.out.result: i for i, node in enumerate(self.body) for item in self._items([node])}
        complete: list[list[int]] = [[] for _ in self.body]
        for result in self._stores:
            complete[last[result]].append(result)
        with self.outer.inside(self._middle is not None):
            for node, results in zip(self.body, complete, strict=True):
                self._body([node], 0)
                # What later nodes read of earlier rows, they read from the arena.
                self._flush(results)
        for result in carried:
            self._carry(result)
        return rounds.Round(label, row, w.lines, self._before)

    def _items(self, body: Sequence[Loop | Item]) -> Iterator[Item]:
        for node in body:
            if isinstance(node, Loop):
                yield from node.items()
            else:
                yield node

    def _start_over_rows(self, item: Item, store: Store) -> None:
        zero = self.w.wide(self.w.constant(item.number))
        with self._loop(store.size) as k:
            self.put(store.pointer, k, zero)
            if store.lost:
                self.put(store.lost, k, self.w.wide(self.w.constant(0.0)))

    @contextmanager
    def _loop(self, trip: int) -> Iterator[str | int]:
        """Write a loop around what is written inside. Gives its counter."""
        w = self.w
        before, head, latch, after = (w.label(x) for x in ("before", "loop", "next", "behind"))
        k, following, go = w.name(), w.name(), w.name()
        w.lines += [f"br label %{before}", f"{before}:", f"br label %{head}"]
        w.open(head)
        w.lines.append(f"{k} = phi i64 [0, %{before}], [{following}, %{latch}]")
        self.scopes.append(Scope(k))
        yield k
        self.scopes.pop()
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
                    self.scopes.append(Scope(k))
                    self._body(node.body, depth + 1)
                    self.scopes.pop()
            else:
                with self._loop(node.trip):
                    self._body(node.body, depth + 1)
            self._masks.clear()

    def _forget(self, loop: Loop) -> None:
        """What is taken into a result in a loop is not known after it, nor at the beginning of each round."""
        results = {item.out.result for item in loop.items() if item.kind in NEUTRAL}
        for scope in self.scopes:
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
        elif not self._has_none(item):
            x = self._get(item, item.operands[0], depth)
            x = self._masked(item, x)
            store = self._stores[item.out.result]
            if store.lost:
                self._add_exactly(item, store, x)
                return
            before = self._get(item, item.out, depth)
            self._define(item, self._taken(item.kind, before, x), depth)

    def _operand(self, item: Item, j: int, depth: int) -> Any:
        """An operand of an operation; a number where the operation holds it constant."""
        ref, w = item.operands[j], self.w
        known = None if ref.rows or any(ref.strides) else self._constants.get(ref.place)
        if known is not None and item.row is not None and j in item.row.held:
            return known
        x = self._get(item, ref, depth)
        # Of numbers so small that the processor may take them for zero nothing is said.
        tiny = known is not None and 0.0 < abs(known) < np.finfo(w.dtype).tiny
        return x if known is None or tiny else x._replace(known=known)

    def _taken(self, kind: str, before: Register, x: Register) -> Register:
        w = self.w
        if kind == ADD:
            return w.binary("fadd", before, x)
        better = w.compare("ogt" if kind == MAX else "olt", x, before)
        # What is no number is taken, and stays.
        return w.select(w.binary("or", better, w.compare("uno", x, x)), x, before)

    def _has_none(self, item: Item) -> bool:
        """Whether an item has no rows in the rounds that are being written."""
        return self._middle is not None and not (
            item.first < self._middle[1] and self._middle[0] < item.first + item.count
        )

    def _masked(self, item: Item, x: Register) -> Register:
        """A number that is taken in, in the rows that have it, and in others what changes nothing."""
        w, rounded = self.w, -(-self.rounds // self.w.lanes) * self.w.lanes
        if item.first == 0 and item.count >= rounded:
            return x
        if item.out.result in self.bases and item.first == item.shift and item.count == item.height:
            return x
        if self._middle is not None:
            return x
        self._edges.add((item.first, item.first + item.count))
        mask = self._masks.get((item.first, item.count))
        if mask is None:
            mask = w.rows_within(item.first, item.count)
            if len(self.scopes) == 1:
                self._masks[item.first, item.count] = mask
        return w.select(mask, x, w.constant(NEUTRAL[item.kind]))

    def _add_exactly(self, item: Item, store: Store, x: Register) -> None:
        # What rounding loses is added up, and added at the end.
        w, at = self.w, self._offset(store, item.out)
        total, lost = w.two_sum(self.take(store.pointer, at), x)
        self.put(store.pointer, at, total)
        self.put(store.lost, at, w.binary("fadd", self.take(store.lost, at), lost))

    # Numbers by reference

    def _key(self, ref: Ref) -> tuple[int, int, int, tuple[int, ...]]:
        """What tells numbers apart: strides of loops that are written out are part of the place."""
        place, strides = ref.place, []
        for d, scope in enumerate(self.scopes[1:]):
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
            self.scopes[-1].known[self._key(ref)] = x
        if store is not None:
            self.put(store.pointer, self._offset(store, ref), self.w.wide(x))
        if item.kind == COMPUTE and self._kept(ref.result):
            self.to_arena(ref, x, math.prod(item.dims) == ref.rows)

    def _get(self, item: Item, ref: Ref, depth: int) -> Register:
        own = ref.result in self.node.items
        if own and lags(item, ref, self.bases):
            back = carried(item, ref, self.bases, self.node.items, self.w.lanes)
            return self.from_arena(ref) if back is None else self._carried(ref, back)
        key = self._key(ref)
        of = self.scopes if not own or item.out.result != ref.result else self.scopes[-1:]
        for scope in reversed(of):
            if key in scope.known:
                return scope.known[key]
        if own:
            store = self._stores[ref.result]
            found = self.take(store.pointer, self._offset(store, ref))
        else:
            found = self.from_arena(ref)
        if own and item.out.result == ref.result:
            return found
        # It is known in the innermost loop that it depends on, but is read here, so others may use it from here on.
        self.scopes[-1].known[key] = found
        return found

    def _carried(self, ref: Ref, back: int) -> Register:
        """What was computed so many rounds ago: the end of the vector of the round before, and the beginning of this
        one's."""
        w, kind, key = self.w, self.w.type(True), (ref.result, back)
        if key in self._shifted:
            return self._shifted[key]
        before, now = self._carry(ref.result)
        mask = ", ".join(f"i32 {i}" for i in range(w.lanes - back, 2 * w.lanes - back))
        text = f"shufflevector {kind} {before}, {kind} {now}, <{w.lanes} x i32> <{mask}>"
        found = w.new(text, True)
        if len(self.scopes) == 1:
            self._shifted[key] = found
        return found

    def _carry(self, result: int) -> tuple[str, str]:
        """The name of what a result was in the round before, and what it is in this one."""
        if result not in self._before:
            out = self.node.items[result][0].out
            now = self.w.wide(self.scopes[0].known[result, self.bases[result], out.rows, ()])
            self._before[result] = self.w.name(), now.text
        return self._before[result]

    def _offset(self, store: Store, ref: Ref) -> str:
        return self.index(ref.place - store.low, ref, store.dropped)

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
            whole = math.prod(item.dims) == ref.rows
            self.to_arena(ref, self.take(store.pointer, self._offset(store, ref)), whole)
            return
        if math.prod(item.dims) <= _WRITTEN_OUT:
            for k in range(item.dims[depth]):
                self.scopes.append(Scope(k))
                self._flush_loops(item, ref, store, depth + 1)
                self.scopes.pop()
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
                found = self._across(kind, self.take(store.pointer, k))
                if store.lost:
                    finite = w.compare("olt", w.call("abs", found), w.constant(float("inf")))
                    more = w.binary("fadd", found, self._across(ADD, self.take(store.lost, k)))
                    found = w.select(finite, more, found)
                at = w.new(f"add nsw i64 {k}, {self._to(result, store.low)}", False).text
                p = w.new(f"getelementptr {w.real}, ptr %v, i64 {at}", False).text
                w.lines.append(f"store {w.real} {found.text}, ptr {p}, align {self.align}")

    def _across(self, kind: str, x: Register) -> Register:
        """All lanes taken together, in their order."""
        w, whole = self.w, self.w.type(True)
        each = [w.new(f"extractelement {whole} {x.text}, i32 {i}", False) for i in range(w.lanes)]
        found = each[0]
        for y in each[1:]:
            found = self._taken(kind, found, y)
        return found


def _has_loops(loop: Loop) -> bool:
    return any(isinstance(node, Loop) for node in loop.body)
