"""Calling BLAS from compiled code. Imported only when something is compiled."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tapegrad.sweeps.blas import NAMES, TABLE_NAME


@intrinsic
def blas(typingctx, ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc):
    size = types.intp
    signature = types.void(types.boolean, types.boolean, size, size, size, a, size, size, b, size, size,
                           a.dtype, c, size, size)

    def generate(context, builder, signature, args):
        ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc = args
        real = context.get_data_type(signature.args[5].dtype)
        i8, i32, i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
        row = 0 if isinstance(real, ir.DoubleType) else 1

        def reference(value):
            return cgutils.alloca_once_value(builder, value)

        def letter(flag):
            return reference(builder.select(flag, ir.Constant(i8, ord("T")), ir.Constant(i8, ord("N"))))

        def integer(value):
            return reference(builder.trunc(value, i32))

        def element(kind, array, offset):
            data = context.make_array(kind)(context, builder, array).data
            return builder.gep(data, [offset])

        pointers = [
            letter(ta), letter(tb), integer(m), integer(n), integer(k), reference(ir.Constant(real, 1.0)),
            element(signature.args[5], a, ao), integer(lda),
            element(signature.args[8], b, bo), integer(ldb), reference(beta),
            element(signature.args[12], c, co), integer(ldc),
        ]
        kind = ir.FunctionType(ir.VoidType(), [p.type for p in pointers])
        table = builder.module.globals.get(TABLE_NAME)
        if table is None:
            table = ir.GlobalVariable(builder.module, ir.ArrayType(i64, len(NAMES)), TABLE_NAME)
        entry = builder.gep(table, [ir.Constant(i64, 0), ir.Constant(i64, row)])
        builder.call(builder.inttoptr(builder.load(entry), kind.as_pointer()), pointers)
        return context.get_dummy_value()

    return signature, generate
