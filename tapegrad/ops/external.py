"""Calls of Python functions that the tape cannot look into: black boxes, solvers, parts that are to be recomputed.

The kernels are callbacks into Python; see `tapegrad.sweeps.callbacks`. Operands are dense; the parameters in the record
are the number under which the call is known, the size of the output, and those of the operands.
"""

from tapegrad.ops.spec import structured


def not_compiled(side, k, v):
    return False


def nothing(side, k, v, d):
    pass


external = structured("external", "z = f(operands), a Python function", arity=-1, opaque=True,
    forward=not_compiled, reverse=nothing, tangent=nothing,
    views=lambda p: ([((n,), None) for n in p[2:]], (p[1],)))
