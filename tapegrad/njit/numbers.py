"""The Numba types of recorded numbers, and how compiled code appends to a tape. Imports Numba.

A recorded number is its value, the number of its row on the tape, and the address of the tape's header; that address is
0 where the number does not depend on what is differentiated. An array of recorded numbers is an ordinary Numba array
whose elements are recorded numbers, so Numba's own slices, views, item assignment and copies work on it as they are;
memory filled with zeros is numbers 0.0 that depend on nothing.

On a tape of partial derivatives a number has a slope besides: its derivative by its row. So what is computed of one
number alone, however many operations that takes, is that number's row with another slope, and takes no row of its own.
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

_I64, _I32, _I1, _F64 = ir.IntType(64), ir.IntType(32), ir.IntType(1), ir.DoubleType()

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
        # A tape of operations has a row for each of them.
        super().__init__(manager, fe_type, [*members, ("slope", types.float64)] if fe_type.partials else members)


make_attribute_wrapper(Recorded, "value", "_value")
make_attribute_wrapper(Recorded, "row", "_row")
make_attribute_wrapper(Recorded, "tape", "_tape")
make_attribute_wrapper(Recorded, "slope", "_slope")


def _struct(context: Any, builder: Any, of: Any, value: Any = None) -> Any:
    return cgutils.create_struct_proxy(of)(context, builder, value=value)


def _made(context: Any, builder: Any, of: Any, value: Any, row: Any, tape: Any, slope: Any = None) -> Any:
    made = _struct(context, builder, of)
    made.value, made.row, made.tape = value, row, tape
    if of.partials:
        made.slope = _F64(1.0) if slope is None else slope
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


def _apart(builder: Any, instruction: Any, header: bool) -> Any:
    """Tell LLVM that the rows of a tape do not lie in its header, so that it need not read the header after each."""
    module = builder.module
    domain = module.add_metadata(["tapegrad tapes"])
    scope = module.add_metadata([module.add_metadata(["header", domain])])
    instruction.set_metadata("alias.scope" if header else "noalias", scope)
    return instruction


def _word(builder: Any, header: Any, word: int) -> Any:
    return _apart(builder, builder.load(builder.gep(header, [_I64(word)])), True)


def _pointer(builder: Any, header: Any, word: int, of: Any) -> Any:
    return builder.inttoptr(_word(builder, header, word), of.as_pointer())


def append(context: Any, builder: Any, tape: Any, links: list[Any], numbers: list[Any]) -> Any:
    """Write one row; returns its number. Where there is no room the tape's own function makes some, in Python."""
    header = builder.inttoptr(tape, _I64.as_pointer())
    row, room = _word(builder, header, LENGTH), _word(builder, header, CAPACITY)
    with cgutils.if_unlikely(builder, builder.icmp_signed(">=", row, room)):
        grow = _pointer(builder, header, GROW, ir.FunctionType(_I64, [_I64]))
        grown = builder.call(grow, [tape])
        with cgutils.if_unlikely(builder, builder.icmp_signed("==", grown, _I64(0))):
            context.call_conv.return_user_exc(builder, MemoryError, (FULL,))
    links = [link if link.type == _I32 else builder.trunc(link, _I32) for link in links]
    for word, parts, of in ((LINKS, links, _I32), (NUMBERS, numbers, _F64)):
        to, at = _pointer(builder, header, word, of), builder.mul(row, _I64(len(parts)))
        for i, x in enumerate(parts):
            _apart(builder, builder.store(x, builder.gep(to, [builder.add(at, _I64(i))])), False)
    _apart(builder, builder.store(builder.add(row, _I64(1)), builder.gep(header, [_I64(LENGTH)])), True)
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


# Slopes outside of these bounds are not multiplied with others: products might leave the range of a float64, and 0
# times infinity would be NaN where the way back passes nothing on. The bits of floats are ordered as the floats are.
_LEAST, _MOST = ((1023 - 100) << 52), ((1023 + 100) << 52)


def _moderate(builder: Any, slope: Any) -> Any:
    """Whether a slope may be multiplied with others."""
    bits = builder.and_(builder.bitcast(slope, _I64), _I64(2**63 - 1))
    return builder.icmp_unsigned("<", builder.sub(bits, _I64(_LEAST)), _I64(_MOST - _LEAST))


def _settled(context: Any, builder: Any, x: Any) -> Any:
    """The row of a number that depends on something, in which its slope is 1: appended where it has none."""
    row = cgutils.alloca_once_value(builder, x.row)
    with cgutils.if_unlikely(builder, builder.fcmp_unordered("!=", x.slope, _F64(1.0))):
        builder.store(append(context, builder, x.tape, [x.row, _I64(0)], [x.slope, _F64(0.0)]), row)
    return builder.load(row)


@intrinsic
def settled(typingctx: Any, x: Any) -> Any:
    """The row of a number, in which its slope is 1; 0 for one that depends on nothing."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = _struct(context, builder, x, args[0])
        if not x.partials:
            return number.row
        row = cgutils.alloca_once_value(builder, _I64(0))
        with builder.if_then(builder.icmp_signed("!=", number.tape, _I64(0))):
            builder.store(_settled(context, builder, number), row)
        return builder.load(row)

    return types.int64(x), code


@intrinsic(prefer_literal=True)
def result(typingctx: Any, selects: Any, operands: Any, value: Any, partials: Any) -> Any:
    """The result of an operation, with its partial derivatives by one or two operands.

    Where none of the operands depends on anything, neither does the result. Of operations that choose, operands whose
    partial derivative is 0 were not chosen, and nothing reaches them. Where all operands have the same row, so has the
    result; else it has one of its own.
    """
    of, count, chooses = operands[0], len(operands), selects.literal_value

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        parts = [_struct(context, builder, of, builder.extract_value(args[1], i)) for i in range(count)]
        slopes = [builder.extract_value(args[3], i) for i in range(count)]
        tape = parts[0].tape
        for p in parts[1:]:
            tape = builder.or_(tape, p.tape)

        def chosen(row: Any, slope: Any) -> Any:
            if not chooses:
                return row
            return builder.select(builder.fcmp_unordered("!=", slope, _F64(0.0)), row, _I64(0))

        rows = [chosen(p.row, s) for s, p in zip(slopes, parts, strict=True)]
        whole = [builder.fmul(s, p.slope) for s, p in zip(slopes, parts, strict=True)]
        found = cgutils.alloca_once_value(builder, _I64(0))
        slope = cgutils.alloca_once_value(builder, _F64(1.0))
        with cgutils.if_likely(builder, builder.icmp_signed("!=", tape, _I64(0))):
            total, joins = whole[0], _I1(1)
            if count == 2:
                total, joins = builder.fadd(*whole), builder.icmp_signed("==", *rows)
            joins = builder.and_(joins, _moderate(builder, total))
            with builder.if_else(joins) as (then, otherwise):
                with then:
                    builder.store(rows[0], found)
                    builder.store(total, slope)
                with otherwise:
                    if count == 1:
                        # So that no partial derivative is multiplied with a slope that it does not go with.
                        rows = [chosen(_settled(context, builder, parts[0]), slopes[0]), _I64(0)]
                        whole = [slopes[0], _F64(0.0)]
                    builder.store(append(context, builder, tape, rows, whole), found)
        return _made(context, builder, of, args[2], builder.load(found), tape, builder.load(slope))

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
