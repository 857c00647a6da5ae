"""The slots of adjoints or tangents of scalar nodes: compiled code and rules that are run on Values both use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tapegrad.adjoint.expand import written
from tapegrad.adjoint.instruction import Instruction
from tapegrad.adjoint.region import Region
from tapegrad.ops import BY_NAME, Elementwise
from tapegrad.ops.record import OPCODE, OUT
from tapegrad.ops.rules import partials_on
from tapegrad.tape import LEAF
from tapegrad.tape.writing import extend
from tapegrad.value import Value, as_value, handle, view

_CHAIN, _TIMES = BY_NAME["chain"], BY_NAME["multiply"]


class Flows:
    """For each scalar node of a region the slot of its adjoint or tangent, -1 for none. Nodes that are arrays have -1:
    their adjoints and tangents are kept by the subclasses."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.slots = np.full(len(region.sizes), -1, np.int64)
        # A tape forgets slots whose page is gone. `slots` are only numbers, so their pages are held here.
        self._pages: list[Any] = []

    def keep(self, value: Value) -> Value:
        """Keep a Value's numbers on the tape for as long as this object lives. Returns the Value."""
        self._pages.append(value._page)
        return value

    def put(self, node: int, x: Any) -> None:
        """Set the adjoint or tangent of a scalar node: a number, or a Value of one element."""
        value = self.keep(as_value(x, self.region.tape, "a derivative"))
        self.slots[node] = value._slot

    def get(self, node: int) -> Any:
        """The adjoint or tangent of a scalar node, as a Value; None where there is none."""
        slot = int(self.slots[node])
        return None if slot < 0 else handle(self.region.tape, slot, None)

    def result(self, node: int) -> Any:
        """As `get`, for a caller who keeps the Value: it holds the page of its slot, which need not be the open one."""
        found = self.get(node)
        if found is not None:
            found._page = self.region.tape.pin(found._slot)
        return found

    def expand(self, low: int, high: int, *, back: bool) -> None:
        """Have compiled code write the derivatives of the scalar instructions from number `low` up to `high`."""
        region, tape = self.region, self.region.tape
        rows, numbers = written(region.given, region.templates.tables, self.slots, low, high, tape.top, back)
        if len(rows):
            self._pages.append(extend(tape, rows, numbers))
            region.learn(rows[rows[:, OPCODE] == LEAF, OUT], numbers)


def partials(row: Elementwise, instruction: Instruction) -> tuple[Any, ...]:
    """The partial derivatives of an elementwise instruction, as Values or numbers."""
    return partials_on(row, *[x.value for x in instruction.operands], instruction.result)


def times(adjoint: Any, partial: Any) -> Any:
    """An adjoint or tangent times a partial derivative; None where it is zero. A zero adjoint or tangent gives zero
    even if the partial derivative is infinite or NaN."""
    if adjoint is None or (isinstance(partial, int | float) and partial == 0.0):
        return None
    if isinstance(adjoint, int | float):
        adjoint, partial = partial, adjoint
    if isinstance(partial, int | float | np.number):
        return adjoint if partial == 1.0 else -adjoint if partial == -1.0 else _once(_TIMES, adjoint, float(partial))
    return _once(_CHAIN, adjoint, partial)


def _once(operation: Elementwise, *args: Any) -> Any:
    """The result of an elementwise operation. Where every operand is one number broadcast to an array, it is computed
    once, and the result is broadcast."""
    shape = max((x.shape for x in args if isinstance(x, Value)), key=len)
    if any(isinstance(x, Value) and x._layout is not None and (any(x._layout.strides) or not x.size) for x in args):
        return operation(*args)
    one = operation(*[view(x, x._slot, None) if isinstance(x, Value) else x for x in args])
    return np.broadcast_to(one, shape) if shape and isinstance(one, Value) else one


def shown_as(x: Any, shape: Sequence[int], region: Region) -> Value:
    """A number or a Value as a Value of a shape, broadcast without a copy."""
    value: Any = as_value(x, region.tape, "a derivative")
    if value.shape == tuple(shape):
        return value
    if value.size == 1 or value.ndim == len(shape):
        return cast(Value, np.broadcast_to(value, shape))
    return cast(Value, value.reshape(shape))
