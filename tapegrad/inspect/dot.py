"""A value's graph in the DOT language: boxes for values, ellipses for operations, left to right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from tapegrad.errors import GraphError
from tapegrad.inspect.algebra import symbol
from tapegrad.inspect.listing import statement
from tapegrad.inspect.reading import Reader, Shape, tape_shown
from tapegrad.inspect.text import fixed, number, rows
from tapegrad.sweeps.analysis import EACH, reach
from tapegrad.tape import Instruction, Operand
from tapegrad.value import Value

_FONT = "Helvetica,Arial,sans-serif"
_HEAD = f"""\
  graph [rankdir=%s, bgcolor=white, pad=0.2, nodesep=0.22, ranksep=0.32, fontname="{_FONT}"]
  node [fontname="{_FONT}", fontsize=11, fontcolor="#1f2933", color="#7b8794", style=filled, penwidth=0.8]
  edge [fontname="{_FONT}", fontsize=9, fontcolor="#52606d", color="#7b8794", arrowsize=0.6, penwidth=0.8]"""
_RECORD = 'shape=record, height=0.3, margin="0.1,0.04"'
_CONSTANT = (
    'shape=box, style="filled,rounded", fillcolor="#f0f2f4", color="#cbd2d9", height=0.25, width=0.3, '
    'margin="0.07,0.03"'
)
_OPERATION = (
    'shape=ellipse, fillcolor="#334e68", fontcolor=white, color="#334e68", height=0.3, width=0.4, margin="0.05,0.02"'
)
_MORE = 'label="…", shape=plaintext, style="", height=0, width=0, margin="0.05,0"'
_LEAF_FILL, _RESULT_FILL = "#e3f0fb", "#fdf1d3"

_SIDES = {"LR": "e", "RL": "w", "TB": "s", "BT": "n"}

# Data, and gradient where one is wanted.
Numbers = tuple[np.ndarray, np.ndarray | None]


def escape(text: str) -> str:
    """Text as part of a record label between quotes.

    >>> print(escape('a|b {c} <d> "e" \\\\f & g'))
    a\\|b \\{c\\} \\<d\\> \\"e\\" \\\\f &amp; g
    """
    out = []
    for c in text:
        if c in '\\{}|<>"':
            out.append("\\" + c)
        elif c == "&":
            out.append("&amp;")
        elif c == "\n":
            out.append("\\n")
        elif c.isprintable() or c.isspace():
            # Records fold blanks; no-break ones stay.
            out.append("\u00a0" if c.isspace() and (not out or out[-1].isspace()) else " " if c.isspace() else c)
        else:
            out.append("\ufffd")
    return "".join(out)


def rows_of(value: Value, reader: Reader, depth: int | None) -> list[int]:
    """The instructions that a value depends on, up to `depth` operations back, in the order of the tape."""
    tape = value.tape
    root = reader.row_of(tape.locate(value._slot))
    if depth is None:
        mark = np.zeros(len(tape.values), np.uint8)
        mark[value._places()] = 1
        # With a mask of slots that gradients flow through, `reach` leaves guards out, which compute nothing that is
        # drawn. Here all slots are in the mask.
        everything = np.ones(len(tape.values), np.uint8)
        found = np.empty(root + 1, np.int64)
        first = int(reach(tape.code, tape.side, *EACH, mark, everything, root + 1, found))
        return [int(row) for row in found[first:]]
    seen = level = {root}
    for _ in range(depth):
        level = {row for r in level for row in _operand_rows(reader, r)} - seen
        seen = seen | level
    return sorted(seen)


def _operand_rows(reader: Reader, row: int) -> Iterator[int]:
    for operand in reader.instruction(row).operands:
        if operand.size:
            yield reader.row_of(operand.place)


class Graph:
    """What is drawn of a value: its instructions, and how each looks.

    Raises GraphError where there is nothing to draw or there are more than `max_nodes` values.
    """

    def __init__(self, value: Value, direction: str, max_nodes: int, depth: int | None) -> None:
        if value.size == 0:
            raise GraphError(f"a Value of shape {value.shape} has no elements, and so no graph to draw")
        tape = value.tape
        tape.evaluate()
        self.reader = reader = Reader(tape_shown(tape))
        self.value = value
        self.direction = direction
        found = rows_of(value, reader, depth)
        if len(found) > max_nodes:
            raise GraphError(
                f"the graph has {len(found):,} values, and at most max_nodes={max_nodes:,} are drawn: draw the "
                "last few operations with draw(v, depth=4), a value nearer to the leaves, or raise max_nodes"
            )
        self.instructions = {row: reader.instruction(row) for row in found}
        self.shapes = reader.shapes(self.instructions.values())
        layout = value._layout_or_scalar()
        self.root = self.instructions[max(found)]
        self.seen_as = Operand(tape.locate(value._slot), layout)
        # The value may be a view of an instruction's result. A view of some of its elements gets a box of its own; a
        # view of all of them is drawn as the result, in the shape of the view.
        self.part = self._part(self.seen_as, self.root)
        if not self.part and value.size == self.root.count:
            self.shapes[self.root.row] = value.shape

    def _part(self, operand: Operand, owner: Instruction) -> str:
        if owner.count == 1:
            return ""
        shape = self.shapes.get(owner.row)
        return self.reader.part(operand, owner, shape)

    @property
    def operations(self) -> int:
        """How many operations are drawn."""
        return sum(1 for i in self.instructions.values() if not i.is_leaf)

    def source(self) -> str:
        """The DOT text."""
        lines = ["digraph {", _HEAD % self.direction]
        for i in self.instructions.values():
            lines += self._drawn(i)
        if self.part:
            lines += self._view()
        return "\n".join([*lines, "}", ""])

    # Boxes

    def _drawn(self, i: Instruction) -> Iterator[str]:
        # A constant is drawn beside each operation that uses it: one box for all uses of the number 1 would have arrows
        # across the whole picture.
        if not self.reader.is_constant(i) or i is self.root:
            fill = _RESULT_FILL if i is self.root and not self.part else _LEAF_FILL if i.is_leaf else "white"
            yield self._box(f"v{i.row}", i.out, self._contents(i), self.shapes.get(i.row), fill)
        if i.is_leaf:
            return
        owners = [self.reader.row_of(x.place) if x.size else -1 for x in i.operands]
        if any(row >= 0 and row not in self.instructions for row in owners):
            yield f"  more{i.row} [{_MORE}]"
            yield f"  more{i.row} -> v{i.row}"
            return
        tip = escape(statement(self.reader, i, self.shapes.get(i.row)))
        sign = symbol(i.operation) if i.title == i.operation.name else i.title
        size = "" if sign.isidentifier() else "fontsize=14, "
        yield f'  op{i.row} [label="{escape(sign)}", {_OPERATION}, {size}tooltip="{tip}"]'
        yield f"  op{i.row} -> v{i.row}"
        for j, (row, operand) in enumerate(zip(owners, i.operands, strict=True)):
            if row < 0:
                continue
            owner = self.instructions[row]
            if self.reader.is_constant(owner):
                yield f'  c{i.row}_{j} [label="{self._constant(owner)}", {_CONSTANT}]'
                yield f"  c{i.row}_{j} -> op{i.row}"
                continue
            part = escape(self._part(operand, owner))
            yield f"  {self._out(row)} -> op{i.row}" + (f' [label="{part}"]' if part else "")

    def _out(self, row: int) -> str:
        # Arrows leave a box in the direction of the graph, or they would start anywhere along its side.
        return f"v{row}:{_SIDES[self.direction]}"

    def _box(self, name: str, place: int, numbers: Numbers, shape: Shape | None, fill: str) -> str:
        label = self.reader.labels.get(place)
        head = [escape(label)] if label else []
        fields = [
            _field(what, _numbers(x, shape)) for what, x in zip(("data", "grad"), numbers, strict=True) if x is not None
        ]
        if shape == ():
            text = f"{{{' | '.join(head + fields)}}}"
        else:
            # An array's numbers stand below its name and shape.
            head.append(str(shape) if shape else f"{len(numbers[0])} numbers")
            text = f"{{{' | '.join(head)}}} | {' | '.join(fields)}"
        # The fields of a record stand below each other in a graph that runs sideways, and beside each other in
        # braces; in one that runs up or down it is the other way round.
        if self.direction in ("TB", "BT"):
            text = text[1:-1] if shape == () else f"{{{text}}}"
        return f'  {name} [label="{text}", {_RECORD}, fillcolor="{fill}"]'

    def _contents(self, i: Instruction) -> Numbers:
        shown, end = self.reader.shown, i.out + i.count
        grads = shown.grads[i.out : end] if len(shown.grads) >= end else np.zeros(i.count)
        return shown.values[i.out : end], grads if shown.active[i.out : end].any() else None

    def _view(self) -> Iterator[str]:
        grad = self.value.grad
        numbers = self.value.numpy().reshape(-1), None if grad is None else np.asarray(grad).reshape(-1)
        yield self._box("view", self.seen_as.place, numbers, self.value.shape, _RESULT_FILL)
        yield f'  {self._out(self.root.row)} -> view [label="{escape(self.part)}"]'

    def _constant(self, leaf: Instruction) -> str:
        numbers = self.reader.shown.values[leaf.out : leaf.out + leaf.count]
        whole = len(numbers) == 1 or bool(np.all(numbers == np.rint(numbers)))
        return _numbers(numbers, self.shapes.get(leaf.row), number if whole else fixed)


def _field(what: str, numbers: str) -> str:
    # The lines of a matrix start below each other, and below what they are.
    return what + ("\\l" if numbers.endswith("\\l") else " ") + numbers


def _numbers(numbers: np.ndarray, shape: Shape | None, write: Callable[[float], str] = fixed) -> str:
    if len(numbers) == 1:
        return write(numbers[0])
    lines = rows(numbers.reshape(shape or -1), write)
    return escape(lines[0]) if len(lines) == 1 else "".join(escape(line) + "\\l" for line in lines)
