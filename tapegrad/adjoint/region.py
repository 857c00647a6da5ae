"""The instructions between inputs and outputs on a tape, and their operands as Values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from tapegrad.errors import UnsupportedError
from tapegrad.layout import Layout, dense, dense_strides
from tapegrad.ops import BY_NAME, RUN, TABLE, Elementwise, passive_rows
from tapegrad.ops.record import operand_places, parameters, record_length
from tapegrad.ops.rules import partials_on
from tapegrad.sweeps.analysis import activate, reach
from tapegrad.tape import LEAF, Tape
from tapegrad.value import Value, as_value, handle, view

_CHAIN, _TIMES = BY_NAME["chain"], BY_NAME["multiply"]


class Operand(NamedTuple):
    """What an instruction reads: a view into what instruction number `source` of the region made."""

    value: Value
    source: int
    offset: int
    layout: Layout


class Instruction(NamedTuple):
    """An instruction with its operands and result as Values."""

    row: Any
    operands: list[Operand]
    result: Value
    params: list[int]


class Region:
    """The instructions that lead from inputs to outputs. Inputs are sources too: number j is source -1 - j."""

    def __init__(self, tape: Tape, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
        self.tape = tape
        self.inputs = inputs
        tape.derived = True
        tape.flush()
        places = [tape.locate(x._slot) for x in inputs if x.size]
        start = tape.row_of(max(places)) + 1 if places else tape.length
        stop = tape.length
        code, side = _copied(tape, start, stop)
        self.active = np.zeros(len(tape.values), np.uint8)
        for x in inputs:
            if x.size:
                place = tape.locate(x._slot)
                self.active[place : place + x.size] = 1
        flags = np.zeros(len(side), np.uint8)
        activate(code, side, flags, self.active, passive_rows(), 0, len(code))
        mark = np.zeros(len(tape.values), np.uint8)
        for y in outputs:
            if y.size:
                mark[y._places()] = 1
        rows = np.empty(len(code), np.int64)
        rows = rows[reach(code, side, mark, self.active, len(code), rows) :]
        # A tape may move what it keeps while the derivative is written: from here on only slots are used, which stay.
        self.code, self.side = code[rows].astype(np.int64), side
        of = tape.addresses.slots_of
        starts = np.array([x._slot for x in inputs] + of(self.code[:, 1]).tolist(), np.int64)
        self._outs = starts[len(inputs) :].tolist()
        self._ops = self.code[:, 0].tolist()
        self._order = np.argsort(starts, kind="stable")
        self._starts = starts[self._order]
        self._sizes = np.array([x.size for x in inputs] + np.where(self.code[:, 0] >= RUN, self.code[:, 3], 1).tolist())
        # Scalar instructions: the slots of their operands, and the sources of those.
        scalar = np.flatnonzero(self.code[:, 0] < RUN)
        self._scalars: list[dict[int, tuple[int, int]]] = []
        for column in (2, 3, 4):
            slots = of(self.code[scalar, column])
            found = self._find(slots, self.active[self.code[scalar, column]] != 0)
            pairs = zip(slots.tolist(), found.tolist(), strict=True)
            self._scalars.append(dict(zip(scalar.tolist(), pairs, strict=True)))
        # Wide instructions: the same for each operand in their records.
        runs = self.code[self.code[:, 0] >= RUN, 2]
        self._wide: dict[int, tuple[int, int]] = {}
        if len(runs):
            at, _ = operand_places(self.side, runs)
            slots = of(self.side[at])
            found = self._find(slots, flags[at] != 0)
            self._wide = dict(zip(at.tolist(), zip(slots.tolist(), found.tolist(), strict=True), strict=True))

    def __len__(self) -> int:
        return len(self._ops)

    def _find(self, slots: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """For each slot the source that made it; NOWHERE where it is not wanted."""
        if not len(self._starts):
            return np.full(len(slots), NOWHERE)
        at = self._order[np.maximum(np.searchsorted(self._starts, slots, "right") - 1, 0)]
        n = len(self.inputs)
        return np.where(wanted, np.where(at < n, -1 - at, at - n), NOWHERE)

    def source(self, value: Value) -> tuple[int, int]:
        """Which source made a Value, and where in it its first element stands."""
        slot = np.array([value._slot])
        at = np.searchsorted(self._starts, slot, "right") - 1
        inside = at[0] >= 0 and value._slot < self._starts[at[0]] + self._sizes[self._order[at[0]]]
        found = int(self._find(slot, np.array([inside]))[0])
        return found, value._slot - self.start(found) if found != NOWHERE else 0

    def start(self, source: int) -> int:
        """The first slot of a source."""
        return self.inputs[-1 - source]._slot if source < 0 else self._outs[source]

    def size(self, source: int) -> int:
        """The number of elements of a source."""
        return int(self._sizes[-1 - source if source < 0 else len(self.inputs) + source])

    def is_scalar(self, source: int) -> bool:
        """Whether a source is one scalar instruction, or a scalar input."""
        return self.inputs[-1 - source]._layout is None if source < 0 else self._ops[source] < RUN

    def instruction(self, i: int) -> Instruction:
        """Instruction number i of the region."""
        op, tape = self._ops[i], self.tape
        if op >= RUN:
            return self._run(i)
        row = TABLE[op]
        operands = [self._operand(self._scalars[j][i], None) for j in range(row.arity)]
        return Instruction(row, operands, handle(tape, self._outs[i], None), [])

    def _operand(self, found: tuple[int, int], layout: Layout | None) -> Operand:
        slot, source = found
        offset = slot - self.start(source) if source != NOWHERE else 0
        return Operand(handle(self.tape, slot, layout), source, offset, layout or _SCALAR)

    def _run(self, i: int) -> Instruction:
        op, k = int(self.code[i, 0]), int(self.code[i, 2])
        row: Any = TABLE[op - RUN]
        params = parameters(self.side, k)
        layouts, shape = views_of(row, params, "a second derivative through")
        at, _ = operand_places(self.side, np.array([k]))
        found = [self._wide[place] for place in at.tolist()]
        operands = [self._operand(f, layout) for f, layout in zip(found, layouts, strict=True)]
        return Instruction(row, operands, handle(self.tape, self._outs[i], dense(shape)), params)


_SCALAR = Layout((), ())
# The source of what does not depend on the inputs.
NOWHERE = -(2**62)


def _copied(tape: Tape, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Instructions and their records, leaves among them as constants, to be marked without touching the tape's own."""
    code = tape.code[start:stop].copy()
    code[code[:, 0] == LEAF, 2] = 0
    runs = np.flatnonzero(code[:, 0] >= RUN)
    if not len(runs):
        return code, tape.side[:1].copy()
    first, last = int(code[runs[0], 2]), int(code[runs[-1], 2])
    side = tape.side[first : last + int(record_length(tape.side, last))].copy()
    code[runs, 2] -= first
    return code, side


def views_of(row: Any, params: list[int], what: str) -> tuple[list[Layout], tuple[int, ...]]:
    """The operands of an instruction over many elements as layouts, and the shape of its result.

    Raises UnsupportedError for a structured one without the rule.
    """
    if isinstance(row, Elementwise):
        ndim = params[0]
        shape = tuple(params[1 : 1 + ndim])
        starts = [2 + ndim + j * (1 + ndim) for j in range(row.arity)]
        return [Layout(shape, tuple(params[at : at + ndim])) for at in starts], shape
    if row.views is None:
        raise UnsupportedError(f"{what} {row.name} needs its rules `views`, `pullback` and `pushforward`")
    views, shape = row.views(params)
    return [Layout(tuple(n), dense_strides(n) if s is None else tuple(s)) for n, s in views], tuple(shape)


def partials(row: Elementwise, instruction: Instruction) -> tuple[Any, ...]:
    """The partial derivatives of an elementwise instruction, as Values or numbers."""
    return partials_on(row, *[x.value for x in instruction.operands], instruction.result)


def times(adjoint: Any, partial: Any) -> Any:
    """An adjoint or tangent times a partial derivative; None for nothing. A zero adjoint stays zero, whatever the
    partial derivative is."""
    if adjoint is None or (isinstance(partial, int | float) and partial == 0.0):
        return None
    values = isinstance(adjoint, Value) and isinstance(partial, Value)
    if values and adjoint._layout is None and partial._layout is None:
        # Scalars are most of what derivative programs of scalar code are made of.
        tape = adjoint._tape
        return handle(tape, tape.scalar(_CHAIN.opcode, adjoint._slot, partial._slot, partial._slot), None)
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


def shown_as(x: Any, shape: tuple[int, ...], tape: Tape) -> Value:
    """A number or a Value as a Value of a shape, broadcast without a copy."""
    value = as_value(x, tape, "a derivative")
    if value.shape == shape:
        return value
    if value.size == 1 or value.ndim == len(shape):
        return cast(Value, np.broadcast_to(value, shape))
    return value.reshape(shape)
