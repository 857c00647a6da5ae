"""Calling kernels from compiled code, by address. Imported only when something is compiled."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tapegrad.compiled.pointers import array_of as as_array  # noqa: F401  (named by generated code)
from tapegrad.sweeps.kernels import COPIES, NAMES, RUNS, TABLE_SIZE


@intrinsic
def at(typingctx, v, p):
    """The address of element p of an array."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.gep(data, [args[1]])

    return types.CPointer(v.dtype)(v, types.int64), generate


def call_by_address(context, builder, dtype, index, returned, kinds, args):
    """Call the function in entry `index` of the table of a dtype; whether it returned anything but 0.

    A function that returns nothing counts as having returned 1, and an empty entry as having returned 0.
    """
    i64 = ir.IntType(64)
    table = builder.module.globals.get(NAMES[dtype])
    if table is None:
        table = ir.GlobalVariable(builder.module, ir.ArrayType(i64, TABLE_SIZE), NAMES[dtype])
    address = builder.load(builder.gep(table, [ir.Constant(i64, 0), index]))
    out = builder.alloca(i64)
    builder.store(ir.Constant(i64, 0), out)
    with builder.if_then(builder.icmp_unsigned("!=", address, ir.Constant(i64, 0))):
        kind = context.call_conv.get_function_type(returned, kinds)
        function = builder.inttoptr(address, kind.as_pointer())
        _, value = context.call_conv.call_function(builder, function, returned, kinds, args)
        if returned == types.void:
            value = ir.Constant(i64, 1)
        elif returned == types.boolean:
            value = builder.zext(value, i64)
        builder.store(value, out)
    return builder.icmp_unsigned("!=", builder.load(out), ir.Constant(i64, 0))


@intrinsic
def call_run(typingctx, index, n, z, x, y, w, dz, dx, dy, dw):
    def generate(context, builder, signature, args):
        kinds = signature.args[1:]
        return call_by_address(context, builder, z.dtype.name, args[0], types.void, kinds, args[1:])

    return types.boolean(types.int64, types.int64, z, z, z, z, z, z, z, z), generate


@intrinsic
def call_runs(typingctx, kind, flat, i, side, flags, v, d, scratch):
    def generate(context, builder, signature, args):
        index = builder.add(args[0], ir.Constant(ir.IntType(64), RUNS))
        kinds = signature.args[1:]
        return call_by_address(context, builder, v.dtype.name, index, types.boolean, kinds, args[1:])

    return types.boolean(types.int64, flat, types.int64, side, flags, v, v, v), generate


@intrinsic
def call_copy(typingctx, which, side, k, j, v, scratch, start, m):
    def generate(context, builder, signature, args):
        index = builder.add(args[0], ir.Constant(ir.IntType(64), COPIES))
        kinds = signature.args[1:]
        return call_by_address(context, builder, v.dtype.name, index, types.boolean, kinds, args[1:])

    whole = types.int64
    return types.boolean(whole, side, whole, whole, v, scratch, whole, whole), generate


@intrinsic
def call_structured(typingctx, index, side, k, flags, v, d):
    def generate(context, builder, signature, args):
        index, side_, k_, flags_, v_, d_ = args
        sides, marks, values, others = (
            context.make_array(kind)(context, builder, array)
            for kind, array in ((side, side_), (flags, flags_), (v, v_), (d, d_))
        )
        given = [sides.data, sides.nitems, k_, marks.data, values.data, others.data, values.nitems]
        real, whole = types.CPointer(v.dtype), types.int64
        kinds = [types.CPointer(whole), whole, whole, types.CPointer(types.uint8), real, real, whole]
        return call_by_address(context, builder, v.dtype.name, index, whole, kinds, given)

    return types.boolean(types.int64, side, types.int64, flags, v, d), generate
