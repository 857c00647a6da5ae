"""What compiled code does with addresses. Imported only when something is compiled."""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from tapegrad.compiled.elements import ROOM


def _cast_to(element):
    @intrinsic
    def cast(typingctx, address):
        def generate(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate

    return cast


pointer_float64 = _cast_to(types.float64)
pointer_float32 = _cast_to(types.float32)
pointer_int64 = _cast_to(types.int64)
pointer_int32 = _cast_to(types.int32)
pointer_uint32 = _cast_to(types.uint32)
pointer_uint8 = _cast_to(types.uint8)


def _array(pointer, lengths):
    # An array that lies at a pointer, row by row. Numba's own `carray` does the same, and takes a quarter second to
    # compile wherever it is used.
    kind = types.Array(pointer.dtype, len(lengths), "C")

    def generate(context, builder, signature, args):
        array = context.make_array(kind)(context, builder)
        size = context.get_abi_sizeof(context.get_data_type(kind.dtype))
        strides = [ir.Constant(ir.IntType(64), size)]
        for length in reversed(args[2:]):
            strides.insert(0, builder.mul(strides[0], length))
        data = builder.bitcast(args[0], array.data.type)
        populate_array(array, data=data, shape=args[1:], strides=strides, itemsize=size, meminfo=None)
        return array._getvalue()

    return kind(pointer, *lengths), generate


@intrinsic
def array_of(typingctx, pointer, n):
    """The n elements from a pointer on, as an array."""
    return _array(pointer, (n,))


@intrinsic
def matrix_of(typingctx, pointer, n, m):
    """The n rows of m elements from a pointer on, as an array."""
    return _array(pointer, (n, m))


@intrinsic
def room(typingctx, v):
    """Room for ROOM numbers of an array's dtype, for as long as the function that asks for it runs."""
    kind = types.Array(v.dtype, 1, "C")

    def generate(context, builder, signature, args):
        array = context.make_array(kind)(context, builder)
        real = context.get_data_type(v.dtype)
        n, size = (ir.Constant(ir.IntType(64), x) for x in (ROOM, context.get_abi_sizeof(real)))
        data = cgutils.alloca_once(builder, real, size=n)
        populate_array(array, data=data, shape=(n,), strides=(size,), itemsize=size, meminfo=None)
        return array._getvalue()

    return kind(v), generate


@intrinsic
def read(typingctx, v, p):
    """The element of an array at a position that is known to be in it."""

    def generate(context, builder, signature, args):
        return builder.load(_element(context, builder, signature, args))

    return v.dtype(v, types.int64), generate


@intrinsic
def write(typingctx, v, p, x):
    """Make x the element of an array at a position that is known to be in it."""

    def generate(context, builder, signature, args):
        value = context.cast(builder, args[2], signature.args[2], signature.args[0].dtype)
        builder.store(value, _element(context, builder, signature, args))
        return context.get_dummy_value()

    return types.void(v, types.int64, x), generate


def _element(context, builder, signature, args):
    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    return builder.gep(data, [args[1]])


@intrinsic
def add_up(typingctx, total, x):
    """A step of a sum whose terms may be added in any order."""

    def generate(context, builder, signature, args):
        return builder.fadd(*args, flags=("reassoc",))

    return total(total, total), generate


@intrinsic
def float_of_bits(typingctx, bits):
    """The float64 whose bits are those of an integer."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), generate


@intrinsic
def float_bits(typingctx, x):
    """The integer whose bits are those of a float64."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def call_frame(typingctx, address, words):
    """Call an entry point, as `callable.Compiled.run` does."""

    def generate(context, builder, signature, args):
        data = context.make_array(signature.args[1])(context, builder, args[1]).data
        i64 = ir.IntType(64)
        kind = ir.FunctionType(ir.IntType(32), [data.type] * 3)
        function = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(function, [data, *(builder.gep(data, [ir.Constant(i64, n)]) for n in (1, 2))])
        return builder.load(data)

    return types.int64(types.int64, words), generate


# The control word of the processor's arithmetic, which says among others whether subnormal numbers are taken for zero.
# Other processors than x86 keep it elsewhere; there, nothing is read and nothing is changed.
_X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")


def _control(builder, name, slot):
    pointer = ir.IntType(8).as_pointer()
    function = builder.module.declare_intrinsic(f"llvm.x86.sse.{name}", (), ir.FunctionType(ir.VoidType(), [pointer]))
    builder.call(function, [builder.bitcast(slot, pointer)])


@intrinsic
def control_word(typingctx):
    """The control word."""

    def generate(context, builder, signature, args):
        slot = builder.alloca(ir.IntType(32))
        builder.store(ir.Constant(ir.IntType(32), 0), slot)
        if _X86:
            _control(builder, "stmxcsr", slot)
        return builder.zext(builder.load(slot), ir.IntType(64))

    return types.int64(), generate


@intrinsic
def set_control_word(typingctx, word):
    """Another control word."""

    def generate(context, builder, signature, args):
        slot = builder.alloca(ir.IntType(32))
        builder.store(builder.trunc(args[0], ir.IntType(32)), slot)
        if _X86:
            _control(builder, "ldmxcsr", slot)
        return context.get_constant(types.int64, 0)

    return types.int64(types.int64), generate
