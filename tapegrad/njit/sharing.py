"""Arrays that share memory with others, in code without Python: gradients copy what is differentiated, so a change of
such an array would not be seen. Imports Numba."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from tapegrad.njit.drivers import lower
from tapegrad.njit.numbers import jit
from tapegrad.njit.products import function_of


@intrinsic
def _address(typingctx, x):
    def code(context, builder, signature, args):
        array = context.make_array(x)(context, builder, args[0])
        return builder.ptrtoint(array.data, ir.IntType(64))

    return types.int64(x), code


def overlap(x, y):
    """Whether the memory of two arrays may overlap."""


@overload(overlap)
def _overlap(x, y):
    def impl(x, y):
        low, high = _span(x)
        from_, to = _span(y)
        return x.size > 0 and y.size > 0 and low < to and from_ < high

    return impl


@jit
def _span(x):
    low = _address(x)
    high = low + x.itemsize
    for n, stride in zip(x.shape, x.strides):
        if stride < 0:
            low += (n - 1) * stride
        else:
            high += (n - 1) * stride
    return low, high


def copy_if(x, shared):
    """A copy of an array; an array of nothing where it is not needed."""


@overload(copy_if)
def _copy_if(x, shared):
    shape = ", ".join(f"x.shape[{k}] if shared else 0" for k in range(x.ndim))
    lines = [f"out = np.empty(({shape},), x.dtype)", "if shared:", "    out[...] = x", "return out"]
    return function_of("x, shared", lines)


def changed(x, before):
    """Whether an array is another one than it was."""


@overload(changed)
def _changed(x, before):
    def impl(x, before):
        for now, then in zip(x.flat, before.flat):  # noqa: SIM110
            if now != then and (now == now or then == then):
                return True
        return False

    return impl


def stored_in(lifted, first):
    """Whether recorded numbers, which were put on rows from `first` on, were changed."""


@overload(stored_in)
def _stored_in(lifted, first):
    def impl(lifted, first):
        row = first
        for number in lifted.flat:
            if lower(number).row != row:
                return True
            row += 1
        return False

    return impl
