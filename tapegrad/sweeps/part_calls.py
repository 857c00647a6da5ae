"""Calling parts of kernels from compiled code, by address. Imported only when something is compiled."""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tapegrad.ops.windows import FILL, INPUT, KERNEL, OUTPUT, PARTS
from tapegrad.sweeps.kernel_calls import call_by_address
from tapegrad.sweeps.kernels import PARTS_AT


def _part(which):
    arguments = PARTS[which][1]

    def typed(given):
        # Whole numbers that are written as such have types of their own.
        kinds = [types.int64 if letter == "i" else kind for letter, kind in zip(arguments, given, strict=True)]
        dtype = given[arguments.rindex("v")].dtype.name

        def generate(context, builder, signature, args):
            index = ir.Constant(ir.IntType(64), PARTS_AT + which)
            return call_by_address(context, builder, dtype, index, types.void, signature.args, args)

        return types.boolean(*kinds), generate

    return typed


_fill, _output, _input, _kernel = (_part(which) for which in (FILL, OUTPUT, INPUT, KERNEL))


@intrinsic
def fill(
    typingctx, v, a, channels, e1, e2, e3, n1, n2, n3, f1, f2, f3, s1, s2, s3, q1, q2, q3, l1, l2, l3, to, at, size
):  # fmt: skip
    given = v, a, channels, e1, e2, e3, n1, n2, n3, f1, f2, f3, s1, s2, s3, q1, q2, q3, l1, l2, l3, to, at, size
    return _fill(given)


@intrinsic
def add_output(typingctx, side, p, xs, x, ws, w, ys, y, begin):
    return _output((side, p, xs, x, ws, w, ys, y, begin))


@intrinsic
def add_input(typingctx, side, p, ys, y, ws, w, xs, x):
    return _input((side, p, ys, y, ws, w, xs, x))


@intrinsic
def add_kernel(typingctx, side, p, xs, x, ys, y, ws, w):
    return _kernel((side, p, xs, x, ys, y, ws, w))
