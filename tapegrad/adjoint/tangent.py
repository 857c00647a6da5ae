"""The tangent sweep, written as instructions: each one's rule, first to last, run on Values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapegrad.adjoint.region import NOWHERE, Operand, Region, partials, shown_as, times
from tapegrad.errors import UnsupportedError
from tapegrad.layout import Layout
from tapegrad.ops import Elementwise
from tapegrad.sweeps import callbacks
from tapegrad.value import Value, contiguous, view


def push_forward(inputs: Sequence[Value], tangents: Sequence[Any], outputs: Sequence[Value]) -> list[Value | None]:
    """Write the derivative of each output along the tangents of the inputs; None where it is zero.

    Inputs are dense and were recorded before all that depends on them; tangents are Values or numbers of their shapes,
    or None. Raises UnsupportedError for an operation without the rules that this takes.
    """
    (tape,) = {x._tape for x in inputs} or {outputs[0]._tape}
    region = Region(tape, inputs, outputs)
    known: dict[int, Any] = {-1 - j: t for j, t in enumerate(tangents) if t is not None}

    def tangent(source: int, offset: int, layout: Layout | None) -> Any:
        t = known.get(source)
        if t is None or isinstance(t, int | float) or (t._layout is None and layout is None):
            return t
        whole = contiguous(t)
        return view(whole, whole._slot + offset, layout)

    for i in range(len(region)):
        instruction = region.instruction(i)
        found = [
            tangent(x.source, x.offset, x.value._layout) if x.source != NOWHERE else None
            for x in instruction.operands
        ]
        if all(t is None for t in found):
            continue
        row = instruction.row
        if isinstance(row, Elementwise):
            terms = [times(t, p) for t, p in zip(found, partials(row, instruction), strict=True)]
            terms = [t for t in terms if t is not None]
            if not terms:
                continue
            total = sum(terms[1:], terms[0])
        else:
            total = _pushed(instruction, found, region)
        if instruction.result._layout is not None:
            total = shown_as(total, instruction.result.shape, tape)
        if total is not None:
            known[i] = total
    results: list[Value | None] = []
    for y in outputs:
        source, offset = region.source(y)
        t = tangent(source, offset, y._layout) if source != NOWHERE else None
        results.append(None if t is None else shown_as(t, y.shape, tape))
    return results


def _pushed(instruction: Any, tangents: list[Any], region: Region) -> Any:
    row = instruction.row
    operands: list[Operand] = instruction.operands
    shown = [
        None if t is None else shown_as(t, x.value.shape, region.tape)
        for t, x in zip(tangents, operands, strict=True)
    ]
    if row.opaque:
        return callbacks.call_of(instruction.params[0]).pushforward(instruction, shown)
    if row.pushforward is None:
        raise UnsupportedError(f"a tangent through {row.name} needs its rule `pushforward`")
    # A rule of one operand is called with its tangent; of several, those without a tangent are None.
    return row.pushforward(instruction.params, instruction.result, [x.value for x in operands], shown)
