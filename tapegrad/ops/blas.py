"""Matrix products for compiled kernels: `gemm`, by the BLAS that SciPy ships.

SciPy's BLAS is wanted for its `beta`: a reverse sweep accumulates in place. Importing SciPy's linear algebra takes
longer than a first gradient, so compiled code calls through a table of two addresses, found by name when the code
is loaded from the cache. The table first holds stand-ins that import SciPy, put the real addresses in their own
place, and pass the call on.
"""

import ctypes
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

_TABLE_NAME = "tapegrad_gemm_table"
_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)
_NAMES = ("dgemm", "sgemm")


def _stand_in(row: int) -> Any:
    def load_and_call(*pointers):
        for i, name in enumerate(_NAMES):
            _addresses[i] = get_cython_function_address("scipy.linalg.cython_blas", name)
        _SIGNATURE(int(_addresses[row]))(*pointers)

    return _SIGNATURE(load_and_call)


_stand_ins = [_stand_in(row) for row in range(len(_NAMES))]
_addresses = np.array([ctypes.cast(f, ctypes.c_void_p).value for f in _stand_ins], np.int64)
llvmlite.binding.add_symbol(_TABLE_NAME, _addresses.ctypes.data)


@intrinsic
def _gemm(typingctx, ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc):
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
        table = builder.module.globals.get(_TABLE_NAME)
        if table is None:
            table = ir.GlobalVariable(builder.module, ir.ArrayType(i64, len(_NAMES)), _TABLE_NAME)
        entry = builder.gep(table, [ir.Constant(i64, 0), ir.Constant(i64, row)])
        builder.call(builder.inttoptr(builder.load(entry), kind.as_pointer()), pointers)
        return context.get_dummy_value()

    return signature, generate


def _matrix(x, offset, rows, columns, ld):
    # Column-major, as BLAS has it: element (i, j) stands at offset + i + j * leading dimension.
    return np.lib.stride_tricks.as_strided(x[offset:], (rows, columns), (x.itemsize, ld * x.itemsize))


def _gemm_in_numpy(ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc):
    op_a = _matrix(a, ao, k, m, lda).T if ta else _matrix(a, ao, m, k, lda)
    op_b = _matrix(b, bo, n, k, ldb).T if tb else _matrix(b, bo, k, n, ldb)
    out = _matrix(c, co, m, n, ldc)
    out[...] = op_a @ op_b + (beta * out if beta else 0.0)


# C = op(A) op(B) + beta C, column-major. Arrays come with the offset of their first element.
gemm = _gemm_in_numpy if config.DISABLE_JIT else _gemm
