"""Reverse mode, written as instructions: the instructions of a region are walked from the last to the first.

Compiled code does this for scalar instructions; for all others the operation's rule is run on Values. Contributions to
the adjoint of a scalar are added up as they arrive. Those to the adjoint of an array are gathered, and put together
when the walk comes to the instruction that made the array: contributions to the whole array are added, and those to
parts of it are joined by one `assemble`. So every slot is still written once, and an adjoint program is an ordinary
tape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.adjoint.flows import Flows, partials, shown_as, times
from tapegrad.adjoint.instruction import SCALAR, Instruction
from tapegrad.adjoint.region import NOWHERE, Region
from tapegrad.errors import UnsupportedError
from tapegrad.layout import Layout, dense, dense_strides, is_dense
from tapegrad.ops import BY_NAME, Elementwise, Structured
from tapegrad.ops.record import STRUCTURED
from tapegrad.sweeps import callbacks
from tapegrad.tape.lines import on_behalf
from tapegrad.value import Value, handle, operand, view


class _Part(NamedTuple):
    """An adjoint that reaches a view of an array: its numbers, and the view's offset and layout."""

    value: Any
    offset: int
    layout: Layout


def pull_back(inputs: Sequence[Value], outputs: Sequence[Value], seeds: Sequence[Any]) -> list[Value | None]:
    """Write the derivative of sum(seeds * outputs) with respect to each input, in its shape; None where it is zero.

    Inputs are dense and were recorded before everything that depends on them. Seeds are Values or numbers, in the
    shapes of the outputs. Raises UnsupportedError for an operation that lacks the rules for this.
    """
    (tape,) = {x._tape for x in inputs} or {outputs[0]._tape}
    region = Region(tape, inputs, outputs, seeds)
    adjoints = _Adjoints(region)
    for y, seed, (node, offset) in zip(outputs, seeds, region.found, strict=True):
        adjoints.add(node, seed, offset, y._layout_or_scalar())
    for low, high in reversed(list(region.stretches())):
        if high < len(region):
            with region.on_behalf_of(high):
                _propagate(adjoints, high)
        for first, end, line in reversed(region.by_line(low, high)):
            if (adjoints.slots[first:end] >= 0).any():
                with on_behalf(line):
                    adjoints.expand(first, end, back=True)
    results: list[Value | None] = []
    for j, x in enumerate(inputs):
        node = region.input(j)
        if region.scalar[node]:
            results.append(adjoints.result(node))
        else:
            whole = adjoints.whole(node)
            results.append(None if whole is None else shown_as(whole, x.shape, region))
    return results


class _Adjoints(Flows):
    """What has reached each node so far."""

    def __init__(self, region: Region) -> None:
        super().__init__(region)
        self._parts: dict[int, list[_Part]] = {}

    def add(self, node: int, value: Any, offset: int, layout: Layout) -> None:
        """Add an adjoint of a view of what a node made."""
        if value is None or node == NOWHERE:
            return
        if not self.region.scalar[node]:
            self._parts.setdefault(node, []).append(_Part(value, offset, layout))
            return
        if isinstance(value, Value) and value._layout is not None:
            value = view(value, value._slot, None) if value.size == 1 else np.sum(value)
        known = self.get(node)
        self.put(node, value if known is None else known + value)

    def whole(self, node: int) -> Any:
        """The adjoint of all that a node made: a scalar Value, or a Value or number for an array; None for nothing."""
        if self.region.scalar[node]:
            return self.get(node)
        parts = self._parts.pop(node, [])
        for element in range(*self.region.elements(node)):
            if self.slots[element] >= 0:
                parts.append(_Part(self.get(element), self.region.offset(element), SCALAR))
        return _put_together(self.region, node, parts) if parts else None


def _propagate(adjoints: _Adjoints, i: int) -> None:
    """Run the rule of an instruction on Values, if anything has reached its result."""
    region = adjoints.region
    adjoint = adjoints.whole(i)
    if adjoint is None:
        return
    instruction = region.instruction(i)
    row = instruction.row
    if isinstance(row, Elementwise):
        if instruction.result._layout is not None:
            adjoint = shown_as(adjoint, instruction.result.shape, region)
        found: Sequence[Any] = [
            times(adjoint, p) if x.source != NOWHERE else None
            for x, p in zip(instruction.operands, partials(row, instruction), strict=True)
        ]
    else:
        found = _pulled(row, instruction, shown_as(adjoint, instruction.result.shape, region))
    for x, contribution in zip(instruction.operands, found, strict=True):
        adjoints.add(x.source, contribution, x.offset, x.layout)


def _pulled(row: Structured, instruction: Instruction, adjoint: Value) -> Sequence[Any]:
    if row.opaque:
        return callbacks.call_of(instruction.params[0]).pullback(instruction, adjoint)
    if row.pullback is None:
        raise UnsupportedError(f"a second derivative through {row.name} needs its rule `pullback`")
    return row.pullback(instruction.params, instruction.result, adjoint, *[x.value for x in instruction.operands])


def _put_together(region: Region, node: int, parts: list[_Part]) -> Any:
    """The whole adjoint of an array, as a Value of one axis."""
    n = int(region.sizes[node])
    whole: Any = None
    others = []
    for part in parts:
        value, offset, layout = part
        if offset == 0 and is_dense(layout.shape, layout.strides) and layout.size == n:
            value = shown_as(value, layout.shape, region).reshape(n)
            whole = value if whole is None else whole + value
        else:
            others.append(part)
    if not others:
        return whole
    if whole is not None:
        others.append(_Part(whole, 0, dense((n,))))
    return _assemble(region, n, others)


def _assemble(region: Region, n: int, parts: list[_Part]) -> Value:
    operands, params = [], [n]
    for value, offset, layout in parts:
        if layout is SCALAR and isinstance(value, Value) and value._layout is None:
            # The adjoint of one element of an array. There may be thousands of these, so this is the short way.
            operands.append((value._slot, 0, 1))
            params += [1, offset, 1, 1, 0]
            continue
        shape, strides = layout.shape or (1,), layout.strides or (0,)
        value = shown_as(value, shape, region)
        own = value._layout_or_scalar().strides or dense_strides(shape)
        operands.append(operand(value))
        params += [len(shape), offset, *shape, *own, *strides]
    slot = region.tape.run(BY_NAME["assemble"].opcode, STRUCTURED, n, operands, params)
    return handle(region.tape, slot, dense((n,)))
