"""The Numba types of recorded numbers, and how compiled code appends to a tape. Imports Numba.

A recorded number is its value, the number of its row on the tape, and the address of the tape's header; that address is
0 where the number does not depend on what is differentiated. An array of recorded numbers is an ordinary Numba array
whose elements are recorded numbers, so Numba's own slices, views, item assignment and copies work on it as they are;
memory filled with zeros is numbers 0.0 that depend on nothing.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typeconv import Conversion
from numba.extending import (
    intrinsic,
    lower_cast,
    make_attribute_wrapper,
    models,
    register_model,
    typeof_impl,
    unbox,
)

from tapegrad.njit.memory import CAPACITY, GROW, LENGTH, LINKS, NUMBERS
from tapegrad.sweeps.marks import LEAF

_I64, _I32, _F64 = ir.IntType(64), ir.IntType(32), ir.DoubleType()

# The row of a number that is given, on a tape of operations.
_CONSTANT = [_I32(0), _I32(0), _I32(0), _I32(LEAF)]

FULL = "the tape of a Numba function has no more room: see tg.set_memory_limit"


class Recorded(types.Type):
    """A recorded number. `partials` says what its tape holds: for each row the partial derivatives; else operations,
    from which a program is made."""

    def __init__(self, partials: bool) -> None:
        self.partials = partials
        super().__init__(name=f"recorded({'partials' if partials else 'operations'})")

    def unify(self, typingctx: Any, other: Any) -> Any:
        """Where a name is bound to a plain number on one way and to a recorded one on another, it is a recorded one."""
        return self if is_plain(other) else None

    def can_convert_from(self, typingctx: Any, other: Any) -> Any:
        return Conversion.unsafe if is_plain(other) else None


def is_plain(t: Any) -> bool:
    """Whether a type is a real number, whatever its width; also a truth value."""
    return isinstance(types.unliteral(t), types.Integer | types.Float | types.Boolean)


PARTIALS, OPERATIONS = Recorded(True), Recorded(False)


@register_model(Recorded)
class _Model(models.StructModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        members = [("value", types.float64), ("row", types.int64), ("tape", types.int64)]
        super().__init__(manager, fe_type, members)


make_attribute_wrapper(Recorded, "value", "_value")
make_attribute_wrapper(Recorded, "row", "_row")
make_attribute_wrapper(Recorded, "tape", "_tape")


def _struct(context: Any, builder: Any, of: Any, value: Any = None) -> Any:
    return cgutils.create_struct_proxy(of)(context, builder, value=value)


def _made(context: Any, builder: Any, of: Any, value: Any, row: Any, tape: Any) -> Any:
    made = _struct(context, builder, of)
    made.value, made.row, made.tape = value, row, tape
    return made._getvalue()


@lower_cast(types.Integer, Recorded)
@lower_cast(types.Float, Recorded)
@lower_cast(types.Boolean, Recorded)
def _constant(context: Any, builder: Any, fromty: Any, toty: Any, value: Any) -> Any:
    number = context.cast(builder, value, types.unliteral(fromty), types.float64)
    return _made(context, builder, toty, number, _I64(0), _I64(0))


@lower_cast(types.IntegerLiteral, Recorded)
def _literal(context: Any, builder: Any, fromty: Any, toty: Any, value: Any) -> Any:
    return _made(context, builder, toty, _F64(float(fromty.literal_value)), _I64(0), _I64(0))


class Kind(types.Type):
    """Says in a call which type of recorded number is meant: the type of `PLAIN_KIND` objects, which hold nothing."""

    def __init__(self, of: Recorded) -> None:
        self.of = of
        super().__init__(name=f"kind({of.name})")


class KindOf:
    """The object of Python that a `Kind` is the type of."""

    def __init__(self, of: Recorded) -> None:
        self.of = of


OF_PARTIALS, OF_OPERATIONS = KindOf(PARTIALS), KindOf(OPERATIONS)
register_model(Kind)(models.OpaqueModel)


@typeof_impl.register(KindOf)
def _typeof(value: Any, context: Any) -> Any:
    return Kind(value.of)


@unbox(Kind)
def _unbox(kind: Any, thing: Any, c: Any) -> Any:
    from numba.extending import NativeValue

    return NativeValue(c.context.get_dummy_value())


@intrinsic
def number(typingctx: Any, kind: Any, value: Any, row: Any, tape: Any) -> Any:
    """A recorded number of its three parts."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _made(context, builder, signature.return_type, *args[1:])

    return kind.of(kind, types.float64, types.int64, types.int64), code


def _meant(like: Any) -> Any:
    """The type of recorded number that an operand shows: one, an array of such, or a `Kind`."""
    return like.of if isinstance(like, Kind) else like.dtype if isinstance(like, types.Array) else like


@intrinsic
def constant(typingctx: Any, like: Any, value: Any) -> Any:
    """A number that depends on nothing, of the type that `like` shows."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _made(context, builder, signature.return_type, args[1], _I64(0), _I64(0))

    return _meant(like)(like, types.float64), code


@intrinsic
def element_type(typingctx: Any, like: Any) -> Any:
    """The type of a recorded number, as np.empty takes it."""
    dtype = types.DType(_meant(like))

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return dtype(like), code


def _pointer(builder: Any, header: Any, word: int, of: Any) -> Any:
    address = builder.load(builder.gep(header, [_I64(word)]))
    return builder.inttoptr(address, of.as_pointer())


def append(context: Any, builder: Any, tape: Any, links: list[Any], numbers: list[Any]) -> Any:
    """Write one row; returns its number. Where there is no room the tape's own function makes some, in Python."""
    header = builder.inttoptr(tape, _I64.as_pointer())
    row = builder.load(builder.gep(header, [_I64(LENGTH)]))
    room = builder.load(builder.gep(header, [_I64(CAPACITY)]))
    with cgutils.if_unlikely(builder, builder.icmp_signed(">=", row, room)):
        grow = _pointer(builder, header, GROW, ir.FunctionType(_I64, [_I64]))
        grown = builder.call(grow, [tape])
        with cgutils.if_unlikely(builder, builder.icmp_signed("==", grown, _I64(0))):
            context.call_conv.return_user_exc(builder, MemoryError, (FULL,))
    to = _pointer(builder, header, LINKS, _I32)
    at = builder.mul(row, _I64(len(links)))
    for i, link in enumerate(links):
        link = link if link.type == _I32 else builder.trunc(link, _I32)
        builder.store(link, builder.gep(to, [builder.add(at, _I64(i))]))
    to = _pointer(builder, header, NUMBERS, _F64)
    at = builder.mul(row, _I64(len(numbers)))
    for i, x in enumerate(numbers):
        builder.store(x, builder.gep(to, [builder.add(at, _I64(i))]))
    builder.store(builder.add(row, _I64(1)), builder.gep(header, [_I64(LENGTH)]))
    return row


@intrinsic
def given(typingctx: Any, kind: Any, tape: Any, value: Any) -> Any:
    """A number that is differentiated: a row of its own."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, tape, value = args
        partials = signature.return_type.partials
        links = [_I32(0)] * 2 if partials else _CONSTANT
        row = append(context, builder, tape, links, [value, value] if partials else [value])
        return _made(context, builder, signature.return_type, value, row, tape)

    return kind.of(kind, types.int64, types.float64), code


@intrinsic(prefer_literal=True)
def result(typingctx: Any, selects: Any, operands: Any, value: Any, partials: Any) -> Any:
    """The result of an operation, with its partial derivatives by one or two operands.

    Where none of the operands depends on anything, neither does the result. Of operations that choose, operands whose
    partial derivative is 0 were not chosen, and nothing reaches them.
    """
    of, count, chooses = operands[0], len(operands), selects.literal_value

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = [_struct(context, builder, of, builder.extract_value(args[1], i)) for i in range(count)]
        slopes = [builder.extract_value(args[3], i) for i in range(count)]
        rows = [p.row for p in parts]
        tape = parts[0].tape
        for p in parts[1:]:
            tape = builder.or_(tape, p.tape)
        if chooses:
            rows = [builder.select(builder.fcmp_unordered("!=", s, _F64(0.0)), r, _I64(0))
                    for s, r in zip(slopes, rows, strict=True)]  # fmt: skip
        found = cgutils.alloca_once_value(builder, _I64(0))
        with cgutils.if_likely(builder, builder.icmp_signed("!=", tape, _I64(0))):
            more = 2 - count
            row = append(context, builder, tape, [*rows, *[_I64(0)] * more], [*slopes, *[_F64(0.0)] * more])
            builder.store(row, found)
        return _made(context, builder, of, args[2], builder.load(found), tape)

    return of(types.literal(chooses), operands, types.float64, partials), code


@intrinsic(prefer_literal=True)
def operation(typingctx: Any, opcode: Any, operands: Any, value: Any) -> Any:
    """The result of an operation, which is written on the tape with its operands."""
    of, count, op = operands[0], len(operands), opcode.literal_value

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = [_struct(context, builder, of, builder.extract_value(args[1], i)) for i in range(count)]
        tape = parts[0].tape
        for p in parts[1:]:
            tape = builder.or_(tape, p.tape)
        found = cgutils.alloca_once_value(builder, _I64(0))
        with cgutils.if_likely(builder, builder.icmp_signed("!=", tape, _I64(0))):
            rows = []
            for p in parts:
                rows.append(cgutils.alloca_once_value(builder, p.row))
                with cgutils.if_unlikely(builder, builder.icmp_signed("==", p.tape, _I64(0))):
                    # A constant: a row that holds a number.
                    builder.store(append(context, builder, tape, _CONSTANT, [p.value]), rows[-1])
            links = [builder.load(r) for r in rows]
            links += [links[-1]] * (3 - count)
            builder.store(append(context, builder, tape, [*links, _I32(op)], [args[2]]), found)
        return _made(context, builder, of, args[2], builder.load(found), tape)

    return of(types.literal(op), operands, types.float64), code


def is_recorded(t: Any) -> bool:
    """Whether a type is that of a recorded number."""
    return isinstance(t, Recorded)


def recorded_array(t: Any) -> Any:
    """The type of the elements of an array of recorded numbers; None for other types."""
    return t.dtype if isinstance(t, types.Array) and isinstance(t.dtype, Recorded) else None


jit: Any = numba.njit
