"""The graph of a value or a recording, as it is drawn: which instructions, and what stands in their boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tapegrad.errors import GraphError
from tapegrad.inspect.algebra import symbol
from tapegrad.inspect.fold import folded, nearest
from tapegrad.inspect.listing import statement
from tapegrad.inspect.picture import CONSTANT, LEAF, MORE, OPERATION, PLAIN, RESULT, VALUE, Edge, Node, Picture
from tapegrad.inspect.reading import Reader, Shape, program_shown, tape_shown
from tapegrad.inspect.recorded import argument_names
from tapegrad.inspect.text import fixed, number, rows
from tapegrad.recording import Recording
from tapegrad.sweeps.analysis import EACH, reach
from tapegrad.tape import Instruction, Operand
from tapegrad.value import Value

# Data, and gradient where one is wanted.
Numbers = tuple[np.ndarray, np.ndarray | None]


def rows_of(reader: Reader, places: np.ndarray, depth: int | None) -> np.ndarray:
    """The instructions that numbers at some places depend on, up to `depth` operations back, in the order of the
    tape."""
    shown = reader.shown
    roots = {reader.row_of(int(place)) for place in places}
    if depth is None:
        stop = max(roots) + 1
        mark = np.zeros(len(shown.values), np.uint8)
        mark[places] = 1
        # With a mask of slots that gradients flow through, `reach` leaves guards out, which compute nothing that is
        # drawn. Here all slots are in the mask.
        everything = np.ones(len(shown.values), np.uint8)
        found = np.empty(stop, np.int64)
        first = int(reach(shown.rows, shown.side, *EACH, mark, everything, stop, found))
        return found[first:]
    seen = level = roots
    for _ in range(depth):
        level = {row for r in level for row in _operand_rows(reader, r)} - seen
        seen = seen | level
    return np.array(sorted(seen))


def _operand_rows(reader: Reader, row: int) -> Iterator[int]:
    for operand in reader.instruction(row).operands:
        if operand.size:
            yield reader.row_of(operand.place)


class Graph:
    """What is drawn of a value, or of what a recording returns.

    Of more than `max_nodes` values blocks that repeat are drawn once; of what is still more than that only the
    operations nearest to the result are drawn. Raises GraphError where there is nothing to draw.
    """

    def __init__(self, subject: Value | Recording, max_nodes: int, depth: int | None, fold: bool | None) -> None:
        self.value = subject if isinstance(subject, Value) else None
        places = self._open_value(subject) if isinstance(subject, Value) else self._open_recording(subject)
        reader, shown = self.reader, self.reader.shown
        found = rows_of(reader, places, depth)
        self.fold = len(found) > max_nodes if fold is None else fold
        self.folded = every = folded(shown.rows, shown.side, found, self.fold)
        roots = {reader.row_of(int(place)) for place in places}
        at = np.searchsorted(found, sorted(roots))
        kept = every.shown
        if len(kept) > max_nodes:
            kept = nearest(every, at.tolist(), max_nodes)
        self.total, self.left_out = len(found), len(every.shown) - len(kept)
        self.roots = {int(found[i]) for i in every.first[at]}
        self.instructions = {int(found[i]): reader.instruction(int(found[i])) for i in kept}
        self._position = {int(found[i]): int(i) for i in kept}
        self._links: dict[int, list[tuple[int, int]]] = {row: [] for row in self.instructions}
        for reader_at, operand, owner in every.links[np.isin(every.links[:, 0], kept)].tolist():
            self._links[int(found[reader_at])].append((operand, int(found[owner])))
        self.shapes = reader.shapes(self.instructions.values())
        if isinstance(subject, Recording):
            self.shapes |= dict(enumerate(subject.program.shapes))
        self.part = ""
        if self.value is not None:
            self._see_as(self.value)

    def _open_value(self, value: Value) -> np.ndarray:
        if value.size == 0:
            raise GraphError(f"a Value of shape {value.shape} has no elements, and so no graph to draw")
        value.tape.evaluate()
        self.reader = Reader(tape_shown(value.tape))
        return value._places()

    def _open_recording(self, recording: Recording) -> np.ndarray:
        program = recording.program
        self.reader = Reader(program_shown(program), argument_names(recording))
        # Where a gradient was computed, the adjoint of a result is not 0.
        self._swept_back = bool(self.reader.shown.grads.any())
        places = np.unique(program.code.output_places)
        if not len(places):
            raise GraphError(f"nothing to draw: what {recording.name} returns does not depend on its arguments")
        return places

    def _see_as(self, value: Value) -> None:
        # The value may be a view of an instruction's result. A view of some of its elements gets a box of its own; a
        # view of all of them is drawn as the result, in the shape of the view.
        root = self.instructions[max(self.roots)]
        self.seen_as = Operand(value.tape.locate(value._slot), value._layout_or_scalar())
        self.part = self._part(self.seen_as, root)
        if not self.part and value.size == root.count:
            self.shapes[root.row] = value.shape

    def _part(self, operand: Operand, owner: Instruction) -> str:
        if owner.count == 1:
            return ""
        label, of_it = self.reader.within(operand, owner)
        if label:
            return label + of_it
        shape = self.shapes.get(owner.row)
        return self.reader.part(operand, owner, shape)

    @property
    def operations(self) -> int:
        """How many operations are drawn."""
        return sum(1 for i in self.instructions.values() if not i.is_leaf)

    def picture(self, direction: str) -> Picture:
        """The nodes and arrows."""
        picture = Picture(direction, note=self._note())
        for i in self.instructions.values():
            for part in self._drawn(i):
                (picture.nodes if isinstance(part, Node) else picture.edges).append(part)  # type: ignore[arg-type]
        if self.part:
            picture.nodes.append(self._view())
            picture.edges.append(Edge(f"v{max(self.roots)}", "view", self.part))
        return picture

    def _note(self) -> str:
        said = []
        if self.fold and len(self.folded.shown) < self.total:
            said.append(f"{self.total:,} values; what repeats is drawn once, with ×n for n times")
        if self.left_out:
            said.append(f"{self.left_out:,} more, further from the result, are not drawn")
        return "; ".join(said)

    # Boxes

    def _drawn(self, i: Instruction) -> Iterator[Node | Edge]:
        # A constant is drawn beside each operation that uses it: one box for all uses of the number 1 would have arrows
        # across the whole picture.
        times = self._times(i)
        is_root = i.row in self.roots
        if not self.reader.is_constant(i) or is_root:
            look = RESULT if is_root and not self.part else LEAF if i.is_leaf else PLAIN
            yield self._box(f"v{i.row}", i, look, times)
        if i.is_leaf:
            return
        # What is read from the same round, or from before; and what a block that repeats reads of the round before.
        read = [(j, row) for j, row in self._links[i.row] if row < i.row]
        carried = [(j, row) for j, row in self._links[i.row] if row >= i.row]
        reads_more = len({j for j, _ in self._links[i.row]}) < sum(1 for x in i.operands if x.size)
        if reads_more or any(row not in self.instructions for _, row in read):
            yield Node(f"more{i.row}", MORE, ("…",))
            yield Edge(f"more{i.row}", f"v{i.row}")
            return
        tip = statement(self.reader, i, self.shapes.get(i.row))
        sign = symbol(i.operation) if i.title == i.operation.name else i.title
        yield Node(f"op{i.row}", OPERATION, (sign,), times=times, tip=tip)
        yield Edge(f"op{i.row}", f"v{i.row}")
        for j, row in read:
            owner, operand = self.instructions[row], i.operands[j]
            if self.reader.is_constant(owner):
                yield Node(f"c{i.row}_{j}", CONSTANT, tuple(self._constant(owner)))
                yield Edge(f"c{i.row}_{j}", f"op{i.row}")
                continue
            yield Edge(f"v{row}", f"op{i.row}", self._part(operand, owner))
        for row in sorted({row for _, row in carried if row in self.instructions}):
            yield Edge(f"v{row}", f"op{i.row}", carried=True)

    def _times(self, i: Instruction) -> int:
        return int(self.folded.times[self._position[i.row]])

    def _box(self, name: str, i: Instruction, look: str, times: int) -> Node:
        shape = self.shapes.get(i.row)
        first = self._contents(i)
        label = self.reader.title(i)
        if times == 1:
            return self._value(name, label, first, first, shape, look)
        end = self.reader.instruction(int(self.folded.rows[self.folded.last[self._position[i.row]]]))
        other = self.reader.title(end)
        label = f"{label} … {other}" if other and label and other != label else label or other
        return self._value(name, label, first, self._contents(end), shape, look, times)

    def _value(
        self, name: str, label: str, first: Numbers, last: Numbers, shape: Shape | None, look: str, times: int = 1
    ) -> Node:
        fields = tuple(
            (what, tuple(_numbers(x, shape) if times == 1 or len(x) > 1 else [f"{fixed(x[0])} → {fixed(y[0])}"]))
            for what, x, y in zip(("data", "grad"), first, last, strict=True)
            if x is not None and y is not None
        )
        head = [label] if label else []
        if shape != ():
            # An array's numbers stand below its name and shape.
            head.append(str(shape) if shape else f"{len(first[0])} numbers")
        return Node(name, VALUE, tuple(head), fields, shape != (), look, times)

    def _contents(self, i: Instruction) -> Numbers:
        shown, end = self.reader.shown, i.out + i.count
        # A Value's gradient is 0 before `backward`; a recording has none before one is asked for.
        if self.value is None and not self._swept_back:
            return shown.values[i.out : end], None
        grads = shown.grads[i.out : end] if len(shown.grads) >= end else np.zeros(i.count)
        return shown.values[i.out : end], grads if shown.active[i.out : end].any() else None

    def _view(self) -> Node:
        value: Any = self.value
        grad = value.grad
        numbers = value.numpy().reshape(-1), None if grad is None else np.asarray(grad).reshape(-1)
        return self._value("view", value.label, numbers, numbers, value.shape, RESULT)

    def _constant(self, leaf: Instruction) -> list[str]:
        numbers = self.reader.shown.values[leaf.out : leaf.out + leaf.count]
        whole = len(numbers) == 1 or bool(np.all(numbers == np.rint(numbers)))
        return _numbers(numbers, self.shapes.get(leaf.row), number if whole else fixed)


def _numbers(numbers: np.ndarray, shape: Shape | None, write: Callable[[float], str] = fixed) -> list[str]:
    return [write(numbers[0])] if len(numbers) == 1 else rows(numbers.reshape(shape or -1), write)
