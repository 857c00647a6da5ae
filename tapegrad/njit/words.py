"""What compiled code does with memory that it has only the address of. Imports Numba.

An address is a whole number. Memory comes from Numba's runtime, which every library that Numba compiles is linked to.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I64, _I8 = ir.IntType(64), ir.IntType(8)
_POINTER = _I8.as_pointer()


def _at(builder: Any, address: Any, of: Any) -> Any:
    return builder.inttoptr(address, of.as_pointer())


def _runtime(builder: Any, name: str, returns: Any, *takes: Any) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(returns, takes), name)


@intrinsic
def word(typingctx: Any, address: Any) -> Any:
    """The whole number at an address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], _I64))

    return types.int64(types.int64), code


@intrinsic
def set_word(typingctx: Any, address: Any, value: Any) -> Any:
    """Make a whole number the one at an address."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], _at(builder, args[0], _I64))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def exchange(typingctx: Any, address: Any, value: Any) -> Any:
    """Make a whole number the one at an address, and return the one before: one step, that no thread comes between."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("xchg", _at(builder, args[0], _I64), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), code


@intrinsic
def put_if_zero(typingctx: Any, address: Any, value: Any) -> Any:
    """Make a whole number the one at an address, where that is 0; returns whether it was. One step as well."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _at(builder, args[0], _I64)
        found = builder.cmpxchg(pointer, _I64(0), args[1], "acq_rel", "monotonic")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64), code


@intrinsic
def allocate(typingctx: Any, size: Any) -> Any:
    """The address of so many bytes of memory, 0 where there are none left."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = _runtime(builder, "NRT_Allocate", _POINTER, _I64)
        return builder.ptrtoint(builder.call(function, args), _I64)

    return types.int64(types.int64), code


@intrinsic
def release(typingctx: Any, address: Any) -> Any:
    """Give memory back."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.call(_runtime(builder, "NRT_Free", ir.VoidType(), _POINTER), [_at(builder, args[0], _I8)])
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def copy_bytes(typingctx: Any, to: Any, source: Any, size: Any) -> Any:
    """Copy so many bytes from one address to another."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cgutils.raw_memcpy(builder, _at(builder, args[0], _I8), _at(builder, args[1], _I8), args[2], _I64(1))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), code


@intrinsic
def zero_bytes(typingctx: Any, address: Any, size: Any) -> Any:
    """Set so many bytes to zero."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cgutils.memset(builder, _at(builder, args[0], _I8), args[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
def call_program(typingctx: Any, function: Any, values: Any, table: Any) -> Any:
    """Call the machine code of a program; see `tapegrad.native`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_I64, [_POINTER, _POINTER])
        function, *given = args
        return builder.call(_at(builder, function, kind), [_at(builder, x, _I8) for x in given])

    return types.int64(types.int64, types.int64, types.int64), code
