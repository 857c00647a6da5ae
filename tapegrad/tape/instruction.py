"""One instruction read back from the arrays of a tape or program, for Python code that inspects them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad.layout import Layout, dense_strides
from tapegrad.ops import RUN, TABLE, Elementwise, Structured
from tapegrad.ops.record import operand_spans, parameters
from tapegrad.sweeps.marks import EXPECT, LEAF

_ONE = Layout((), ())


@dataclass(frozen=True)
class Operand:
    """An operand of an instruction: the place of its first element, and its layout, which for one number has shape ().
    """

    place: int
    layout: Layout

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.layout.size

    @property
    def axes(self) -> list[tuple[int, int]]:
        """Length and stride of each axis."""
        return list(zip(self.layout.shape, self.layout.strides, strict=True))

    def places(self) -> np.ndarray:
        """The places of the elements, in row-major order."""
        return self.place + self.layout.offsets()


@dataclass(frozen=True)
class Instruction:
    """One row of a tape or program.

    Attributes:
        row: its number among the rows that it was read from.
        operation: the row of the table.
        out: the place where its result begins.
        count: how many numbers the result has.
        operands: what it reads, with the layouts that the operation's rule `views` states; where there is no such rule,
            each is a vector of all places from the lowest to the highest that it touches.
        params: the parameters in its record.
        shape: of the result, as `views` states it; (count,) where there is no such rule.
        wants_grad: of a leaf, whether a gradient is wanted.
    """

    row: int
    operation: Any
    out: int
    count: int
    operands: tuple[Operand, ...]
    params: tuple[int, ...]
    shape: tuple[int, ...]
    wants_grad: bool = False

    @property
    def is_leaf(self) -> bool:
        """Whether it computes nothing: its numbers are given."""
        return bool(self.operation.opcode == LEAF)

    @property
    def is_guard(self) -> bool:
        """Whether it checks that a replay goes the way that was recorded."""
        return bool(self.operation.opcode == EXPECT)

    @property
    def results(self) -> slice:
        """The places of its result."""
        return slice(self.out, self.out + self.count)

    @property
    def title(self) -> str:
        """The name of the operation, which for some depends on the parameters."""
        title = self.operation.title if isinstance(self.operation, Structured) else None
        return title(self.params) if title else str(self.operation.name)

    @property
    def note(self) -> str:
        """What the parameters of an operation over whole arrays say, in words; "" where there is nothing to say."""
        note = self.operation.note if isinstance(self.operation, Structured) else None
        return note(self.params) if note else ""


def views_of(operation: Any, params: Any) -> tuple[list[Layout], tuple[int, ...]] | None:
    """The layouts of the operands of an operation over many elements, and the shape of its result; None where the
    operation has no rule `views`."""
    if isinstance(operation, Elementwise):
        ndim = params[0]
        shape = tuple(params[1 : 1 + ndim])
        starts = [2 + ndim + j * (1 + ndim) for j in range(operation.arity)]
        return [Layout(shape, tuple(params[at : at + ndim])) for at in starts], shape
    if operation.views is None:
        return None
    views, shape = operation.views(list(params))
    return [Layout(tuple(n), dense_strides(n) if s is None else tuple(s)) for n, s in views], tuple(shape)


def instruction(rows: np.ndarray, side: np.ndarray, row: int) -> Instruction:
    """Instruction number `row`."""
    op, out, a, b, c = (int(x) for x in rows[row])
    operation = TABLE[op % RUN]
    if op == LEAF:
        return Instruction(row, operation, out, b, (), (), (b,), a == 1)
    if op < RUN:
        read = tuple(Operand(place, _ONE) for place in (a, b, c)[: operation.arity])
        return Instruction(row, operation, out, 1, read, (), ())
    spans, params = operand_spans(side, a), tuple(parameters(side, a))
    said = views_of(operation, params)
    if said is None:
        touched = tuple(Operand(low, Layout((high - low,), (1,))) for _, low, high in spans)
        return Instruction(row, operation, out, b, touched, params, (b,))
    layouts, shape = said
    read = tuple(Operand(slot, layout) for (slot, _, _), layout in zip(spans, layouts, strict=True))
    return Instruction(row, operation, out, b, read, params, shape)
