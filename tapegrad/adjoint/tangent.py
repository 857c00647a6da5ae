"""Forward mode, written as instructions: the instructions of a region are walked from the first to the last.

Compiled code writes the tangents of scalar instructions; for all others the operation's rule is run on Values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapegrad.adjoint.flows import Flows, partials, shown_as, times
from tapegrad.adjoint.instruction import Instruction
from tapegrad.adjoint.region import NOWHERE, Region
from tapegrad.errors import UnsupportedError
from tapegrad.layout import Layout
from tapegrad.ops import Elementwise
from tapegrad.sweeps import callbacks
from tapegrad.tape.lines import on_behalf
from tapegrad.value import Value, contiguous, view


def push_forward(inputs: Sequence[Value], tangents: Sequence[Any], outputs: Sequence[Value]) -> list[Value | None]:
    """Write the derivative of each output along the tangents of the inputs; None where it is zero.

    Inputs are dense and were recorded before everything that depends on them. Tangents are Values or numbers, in the
    shapes of the inputs, or None for zero. Raises UnsupportedError for an operation that lacks the rules for this.
    """
    (tape,) = {x._tape for x in inputs} or {outputs[0]._tape}
    region = Region(tape, inputs, outputs, tangents)
    known = _Tangents(region)
    for j, t in enumerate(tangents):
        known.set(region.input(j), t)
    for low, high in region.stretches():
        for first, end, line in region.by_line(low, high) if low < high else ():
            with on_behalf(line):
                known.expand(first, end, back=False)
        if high < len(region):
            with region.on_behalf_of(high):
                _propagate(known, high)
    results: list[Value | None] = []
    for y, (node, offset) in zip(outputs, region.found, strict=True):
        own = node != NOWHERE and region.scalar[node]
        t = known.result(node) if own else known.of(node, offset, y._layout)
        results.append(None if t is None else shown_as(t, y.shape, region))
    return results


class _Tangents(Flows):
    """The tangents of all nodes so far."""

    def __init__(self, region: Region) -> None:
        super().__init__(region)
        self._arrays: dict[int, Any] = {}

    def set(self, node: int, tangent: Any) -> None:
        """Set the tangent of all that a node made, None for zero."""
        if tangent is None:
            return
        if self.region.scalar[node]:
            self.put(node, tangent)
            return
        self._arrays[node] = tangent
        for element in range(*self.region.elements(node)):
            self.put(element, self.of(node, self.region.offset(element), None))

    def of(self, node: int, offset: int, layout: Layout | None) -> Any:
        """The tangent of a view of what a node made: a number or a Value; None for zero."""
        if node == NOWHERE:
            return None
        if self.region.scalar[node]:
            return self.get(node)
        t = self._arrays.get(node)
        if t is None or isinstance(t, int | float) or (t._layout is None and layout is None):
            return t
        whole = self._arrays[node] = contiguous(t)
        return view(whole, whole._slot + offset, layout)


def _propagate(known: _Tangents, i: int) -> None:
    """Run the rule of an instruction on Values, if any of its operands has a tangent."""
    region = known.region
    instruction = region.instruction(i)
    found = [known.of(x.source, x.offset, x.value._layout) for x in instruction.operands]
    if all(t is None for t in found):
        return
    row = instruction.row
    if isinstance(row, Elementwise):
        terms = [times(t, p) for t, p in zip(found, partials(row, instruction), strict=True)]
        terms = [t for t in terms if t is not None]
        if not terms:
            return
        total = sum(terms[1:], terms[0])
    else:
        total = _pushed(instruction, found, region)
    if total is not None and instruction.result._layout is not None:
        total = shown_as(total, instruction.result.shape, region)
    known.set(i, total)


def _pushed(instruction: Instruction, tangents: list[Any], region: Region) -> Any:
    row = instruction.row
    shown = [
        None if t is None else shown_as(t, x.value.shape, region)
        for t, x in zip(tangents, instruction.operands, strict=True)
    ]
    if row.opaque:
        return callbacks.call_of(instruction.params[0]).pushforward(instruction, shown)
    if row.pushforward is None:
        raise UnsupportedError(f"a tangent through {row.name} needs its rule `pushforward`")
    # `shown` has an entry for each operand, None for an operand without a tangent. At least one has a tangent.
    return row.pushforward(instruction.params, instruction.result, [x.value for x in instruction.operands], shown)
