"""The reverse sweep, written as instructions: each one's rule, last first, run on Values.

Adjoints are not accumulated in place: what reaches the result of an instruction is gathered first, and put together
when its turn comes, by additions where it covers the whole of it, else by one `assemble`. So every slot is still
written once, and an adjoint program is an ordinary tape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.adjoint.region import NOWHERE, Operand, Region, partials, shown_as, times
from tapegrad.errors import UnsupportedError
from tapegrad.layout import Layout, dense, dense_strides, is_dense
from tapegrad.ops import BY_NAME, Elementwise, Structured
from tapegrad.ops.record import STRUCTURED
from tapegrad.sweeps import callbacks
from tapegrad.tape import Tape
from tapegrad.value import Value, handle, operand, view


class _Part(NamedTuple):
    """An adjoint that reaches a view of a source: its numbers, and the view's offset and layout."""

    value: Any
    offset: int
    layout: Layout


def pull_back(inputs: Sequence[Value], outputs: Sequence[Value], seeds: Sequence[Any]) -> list[Value | None]:
    """Write the derivative of sum(seeds * outputs) with respect to each input, of its shape; None where it is zero.

    Inputs are dense and were recorded before all that depends on them; seeds are Values or numbers of the outputs'
    shapes. Raises UnsupportedError for an operation without the rules that this takes.
    """
    (tape,) = {x._tape for x in inputs} or {outputs[0]._tape}
    region = Region(tape, inputs, outputs)
    parts: dict[int, list[_Part]] = {}
    for y, seed in zip(outputs, seeds, strict=True):
        found, offset = region.source(y)
        if found != NOWHERE and y.size:
            _add(parts, found, seed, offset, y._layout_or_scalar())
    for i in range(len(region) - 1, -1, -1):
        if i in parts:
            adjoint = _put_together(region, i, parts.pop(i))
            _propagate(region, i, adjoint, parts)
    results: list[Value | None] = []
    for j, x in enumerate(inputs):
        own = parts.get(-1 - j)
        results.append(None if not own else shown_as(_put_together(region, -1 - j, own), x.shape, tape))
    return results


def _add(parts: dict[int, list[_Part]], source: int, value: Any, offset: int, layout: Layout) -> None:
    if value is not None and source != NOWHERE:
        parts.setdefault(source, []).append(_Part(value, offset, layout))


def _propagate(region: Region, i: int, adjoint: Any, parts: dict[int, list[_Part]]) -> None:
    instruction = region.instruction(i)
    row = instruction.row
    if isinstance(row, Elementwise):
        if instruction.result._layout is not None:
            adjoint = shown_as(adjoint, instruction.result.shape, region.tape)
        found: Sequence[Any] = [times(adjoint, p) if x.source != NOWHERE else None
                 for x, p in zip(instruction.operands, partials(row, instruction), strict=True)]
    else:
        found = _pulled(row, instruction, shown_as(adjoint, instruction.result.shape, region.tape))
    for x, contribution in zip(instruction.operands, found, strict=True):
        _add(parts, x.source, contribution, x.offset, x.layout)


def _pulled(row: Structured, instruction: Any, adjoint: Value) -> Sequence[Any]:
    if row.opaque:
        return callbacks.call_of(instruction.params[0]).pullback(instruction, adjoint)
    if row.pullback is None:
        raise UnsupportedError(f"a second derivative through {row.name} needs its rule `pullback`")
    operands: list[Operand] = instruction.operands
    return row.pullback(instruction.params, instruction.result, adjoint, *[x.value for x in operands])


def _put_together(region: Region, source: int, parts: list[_Part]) -> Any:
    """The whole adjoint of a source: a number or scalar Value, or a Value of one axis."""
    tape, n = region.tape, region.size(source)
    if region.is_scalar(source):
        total: Any = None
        for value, _, _ in parts:
            if isinstance(value, Value) and value._layout is not None:
                value = view(value, value._slot, None) if value.size == 1 else np.sum(value)
            total = value if total is None else total + value
        return total
    whole: Any = None
    others = []
    for part in parts:
        value, offset, layout = part
        if offset == 0 and is_dense(layout.shape, layout.strides) and layout.size == n:
            value = shown_as(value, layout.shape, tape).reshape(n)
            whole = value if whole is None else whole + value
        else:
            others.append(part)
    if not others:
        return whole
    if whole is not None:
        others.append(_Part(whole, 0, dense((n,))))
    return _assemble(tape, n, others)


def _assemble(tape: Tape, n: int, parts: list[_Part]) -> Value:
    operands, params = [], [n]
    for value, offset, layout in parts:
        shape, strides = layout.shape or (1,), layout.strides or (0,)
        value = shown_as(value, shape, tape)
        own = value._layout_or_scalar().strides or dense_strides(shape)
        operands.append(operand(value))
        params += [len(shape), offset, *shape, *own, *strides]
    slot = tape.run(BY_NAME["assemble"].opcode, STRUCTURED, n, operands, params)
    return handle(tape, slot, dense((n,)))
