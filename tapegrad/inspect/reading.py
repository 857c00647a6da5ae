"""The tape's arrays read back as instructions, operands with shapes, and names.

Listings and pictures read a tape through `Reader`, which computes nothing: it shows the numbers that are in the arena.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tapegrad.inspect.places import part
from tapegrad.inspect.text import as_word, number
from tapegrad.layout import dense_strides
from tapegrad.ops import passive_rows
from tapegrad.program import Program
from tapegrad.tape import Instruction, Operand, Tape, instruction

Shape = tuple[int, ...]


def _without_ones(shape: Shape) -> Shape | None:
    # A shape as a record has it, as far as it can be relied on: views add and drop axes of length 1, and a single axis
    # may be several axes that were merged.
    kept = tuple(n for n in shape if n != 1)
    return kept if len(kept) > 1 else None


@dataclass(frozen=True)
class Shown:
    """The arrays of a tape or of a recorded program, to be read.

    Attributes:
        rows, side: the instructions; see `ops.record`.
        values, grads: numbers and gradients by place; `grads` may be shorter.
        active: which places a gradient can flow to.
        labels: names by place and size.
        slots: numbers in the arena.
        evaluated: how many instructions have been computed.
    """

    rows: np.ndarray
    side: np.ndarray
    values: np.ndarray
    grads: np.ndarray
    active: np.ndarray
    labels: dict[tuple[int, int], str]
    slots: int
    evaluated: int

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype


def tape_shown(tape: Tape) -> Shown:
    """A tape as it stands. Raises ThreadError where another thread has instructions that are not written down yet."""
    tape.flush()
    tape.activate()
    places = tape.addresses
    labels = {(places.place(slot), n): label for (slot, n), label in tape.labels.items() if places.holds(slot)}
    rows = tape.code[: tape.length]
    return Shown(rows, tape.side, tape.values, tape.grads, tape.active, labels, tape.slots, tape.evaluated)


def program_shown(program: Program) -> Shown:
    """A program, with the numbers of a replay that is over."""
    workspace = program.latest()
    return shown_with(program, workspace.values, workspace.adjoints if workspace.swept_back else None)


def shown_with(program: Program, values: np.ndarray, adjoints: np.ndarray | None = None) -> Shown:
    """A program, with numbers and adjoints by place."""
    code, grads = program.code, np.zeros(0) if adjoints is None else adjoints
    active = program.flow(code.steps, program.places_of(code.wanted), passive_rows())[0]
    return Shown(code.rows, code.side, values, grads, active, code.labels, code.size, len(code.rows))


def shape_of(i: Instruction) -> Shape | None:
    """The shape of a result as far as its instruction tells; () for one number."""
    if i.count == 1:
        return ()
    return None if i.is_leaf else _without_ones(i.shape)


class Reader:
    """A tape or program seen as instructions.

    Args:
        shown: what to read.
        names: names of places in the arena, which win over labels.
    """

    def __init__(self, shown: Shown, names: Mapping[int, str] | None = None) -> None:
        self.shown = shown
        self.code = shown.rows
        self._outs = self.code[:, 1].astype(np.int64)
        # Labels of all that an instruction writes, by its place; and those of parts of it, as (place, size, label).
        self.labels: dict[int, str] = {}
        self._parts: dict[int, list[tuple[int, int, str]]] = {}
        self._read_labels()
        self.labels.update(names or {})
        self._twice = {label for label, n in Counter(self.labels.values()).items() if n > 1}

    def _read_labels(self) -> None:
        found: dict[int, list[tuple[int, int, str]]] = {}
        ends: dict[int, int] = {}
        for (place, n), label in self.shown.labels.items():
            if not label or not n or not len(self.code):
                continue
            owner = self.instruction(self.row_of(place))
            if (owner.out, owner.count) == (place, n):
                self.labels[place] = label
            elif place + n <= owner.out + owner.count:
                found.setdefault(owner.out, []).append((place, n, label))
                ends[owner.out] = owner.out + owner.count
        for out, parts in found.items():
            # Of a label only the first place and the size are known, and a view may leave elements out. Labels that
            # stand side by side from end to end, as those of parameters do, leave none out; nor does that of a number.
            at, tiles = out, []
            for tile in sorted(parts, key=lambda part: (part[0], -part[1])):
                if tile[0] == at:
                    tiles.append(tile)
                    at += tile[1]
            self._parts[out] = tiles if at == ends[out] else [part for part in parts if part[1] == 1]

    def row_of(self, place: int) -> int:
        """The instruction that writes a place of the arena."""
        return int(np.searchsorted(self._outs, place, "right")) - 1

    def instruction(self, row: int) -> Instruction:
        """One row, taken apart."""
        return instruction(self.code, self.shown.side, row)

    # Names

    def name(self, place: int, count: int = 1) -> str:
        """The name of what one instruction writes: its label, or its slots.

        A label that several values bear is told apart by the slot.
        """
        label = self.labels.get(place)
        if label and count:
            return f"{as_word(label)}@{place}" if label in self._twice else as_word(label)
        return f"v{place}" if count == 1 else f"v[{place}:{place + count}]"

    def title(self, owner: Instruction) -> str:
        """What stands above the numbers of an instruction: their label; or the labels of the parts that they consist
        of, the first three; "" where there are none."""
        parts = self._parts.get(owner.out, [])
        if owner.out in self.labels or sum(n for _, n, _ in parts) < owner.count:
            return self.labels.get(owner.out, "")
        names = [label for _, _, label in parts]
        return ", ".join(names if len(names) <= 4 else [*names[:3], "…"])

    def within(self, operand: Operand, owner: Instruction) -> tuple[str, str]:
        """Of an operand that is taken from a labelled part of an array: the label, and which part of that it is. Two
        empty texts where the array has a label itself, or none covers the operand."""
        if owner.out not in self.labels and operand.size:
            low, high = (operand.place + x for x in operand.layout.reach)
            for place, n, label in self._parts.get(owner.out, ()):
                if place <= low and high <= place + n:
                    return label, part((n,), operand.place - place, operand.axes) if n > 1 else ""
        return "", ""

    def is_constant(self, leaf: Instruction) -> bool:
        """Whether a leaf is a plain number or array: without a label, and no gradient wanted."""
        labelled = leaf.out in self.labels or leaf.out in self._parts
        return leaf.is_leaf and not leaf.wants_grad and not labelled

    def operand(self, operand: Operand) -> str:
        """An operand by the name of what it is taken from: `a`, `x[1]`, `v[10:16]`, `x.T`; a constant's number."""
        if operand.size == 0:
            return "[]"
        owner = self.instruction(self.row_of(operand.place))
        if owner.count == 1:
            return number(self.shown.values[owner.out]) if self.is_constant(owner) else self.name(owner.out)
        if owner.out in self.labels:
            return self.name(owner.out, owner.count) + self.part(operand, owner)
        label, of_it = self.within(operand, owner)
        if label:
            return as_word(label) + of_it
        if all(n == 1 or stride == 0 for n, stride in operand.axes):
            return self.name(operand.place)
        return "v" + part((self.shown.slots,), operand.place, operand.axes, bounds=True)

    def part(self, operand: Operand, owner: Instruction, shape: Shape | None = None) -> str:
        """What to write behind the name of an operand's array: which part of it, nothing for the whole."""
        return part(shape or shape_of(owner) or (owner.count,), operand.place - owner.out, operand.axes)

    # Shapes

    def shapes(self, instructions: Iterable[Instruction]) -> dict[int, Shape]:
        """The shapes of results by row, as far as they can be found; one number has shape ().

        The tape keeps only counts. A shape is found from the record of the instruction itself, from the shapes in which
        other instructions read its result, or from the operands of the instruction.
        """
        rows = {i.row: i for i in instructions}
        known = {i.row: shape for i in rows.values() if (shape := shape_of(i)) is not None}
        for i in rows.values():
            for operand in i.operands:
                owner = rows.get(self.row_of(operand.place)) if operand.size else None
                if owner and owner.row not in known and (shape := _as_stored(operand, owner)):
                    known[owner.row] = shape
        for row in sorted(rows):
            i = rows[row]
            for operand in i.operands:
                owner = rows.get(self.row_of(operand.place)) if operand.size else None
                if owner is None or row in known or operand.size != i.count:
                    continue
                own = operand.layout
                same = own.strides == dense_strides(own.shape) and owner.count == i.count
                if same and owner.row in known and len(own.shape) == 1:
                    known[row] = known[owner.row]
        return known


def _as_stored(operand: Operand, owner: Instruction) -> Shape | None:
    """The shape of the array that an operand is the whole of, its axes put back in order."""
    if operand.place != owner.out or operand.size != owner.count:
        return None
    axes = [(s, n) for n, s in operand.axes if n != 1]
    axes.sort(reverse=True)
    shape = tuple(n for _, n in axes)
    return shape if len(axes) > 1 and tuple(s for s, _ in axes) == dense_strides(shape) else None
