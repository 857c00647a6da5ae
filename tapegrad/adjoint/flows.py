"""Adjoints or tangents of scalar nodes, by their slots, between compiled code and rules that are run on Values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tapegrad.adjoint.expand import written
from tapegrad.adjoint.instruction import Instruction
from tapegrad.adjoint.region import Region
from tapegrad.ops import BY_NAME, Elementwise
from tapegrad.ops.rules import partials_on
from tapegrad.tape.writing import extend
from tapegrad.value import Value, as_value, handle, view

_CHAIN, _TIMES = BY_NAME["chain"], BY_NAME["multiply"]


class Flows:
    """For each node of a region the slot of its adjoint or tangent, -1 for none. Arrays have none here."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.slots = np.full(len(region.sizes), -1, np.int64)
        # Only slots are kept, so the pages that keep them on the tape must be.
        self._pages: list[Any] = []

    def keep(self, value: Value) -> Value:
        """Have a Value's numbers stay on the tape for as long as this is used."""
        self._pages.append(value._page)
        return value

    def put(self, node: int, x: Any) -> None:
        """Set what flows at a scalar node: a number, or a Value of one element."""
        value = self.keep(as_value(x, self.region.tape, "a derivative"))
        self.slots[node] = value._slot

    def get(self, node: int) -> Any:
        """What flows at a scalar node, as a Value; None for nothing."""
        slot = int(self.slots[node])
        return None if slot < 0 else handle(self.region.tape, slot, None)

    def result(self, node: int) -> Any:
        """The same, to be handed out: the slot may be older than the page that is open now."""
        found = self.get(node)
        if found is not None:
            found._page = self.region.tape.pin(found._slot)
        return found

    def expand(self, low: int, high: int, *, back: bool) -> None:
        """Write the derivatives of the scalar instructions from one number up to another by compiled code."""
        region, tape = self.region, self.region.tape
        rows, numbers = written(region.given, region.templates.tables, self.slots, low, high, tape.top, back)
        if len(rows):
            self._pages.append(extend(tape, rows, numbers))


def partials(row: Elementwise, instruction: Instruction) -> tuple[Any, ...]:
    """The partial derivatives of an elementwise instruction, as Values or numbers."""
    return partials_on(row, *[x.value for x in instruction.operands], instruction.result)


def times(adjoint: Any, partial: Any) -> Any:
    """An adjoint or tangent times a partial derivative; None for nothing. A zero adjoint stays zero, whatever the
    partial derivative is."""
    if adjoint is None or (isinstance(partial, int | float) and partial == 0.0):
        return None
    if isinstance(adjoint, int | float):
        adjoint, partial = partial, adjoint
    if isinstance(partial, int | float | np.number):
        return adjoint if partial == 1.0 else -adjoint if partial == -1.0 else _once(_TIMES, adjoint, float(partial))
    return _once(_CHAIN, adjoint, partial)


def _once(operation: Elementwise, *args: Any) -> Any:
    """An operation whose operands are each one number shown many times, carried out once and shown as often."""
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
