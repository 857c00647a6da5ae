"""Calls of Python functions that the tape cannot look into: black boxes, solvers, parts that are to be recomputed.

The kernels are callbacks into Python; see `tapegrad.sweeps.callbacks`. Operands are dense; the parameters in the record
are the number under which the call is known, the size of the output, and those of the operands.
"""

from collections.abc import Callable

from tapegrad.ops.spec import structured


def not_compiled(side, k, v):
    return False


def nothing(side, k, v, d):
    pass


# Says by the number of a call what it is called in listings; set by `sweeps.callbacks`, which knows the calls.
naming: list[Callable[[int], str]] = []


def title(params):
    return naming[0](params[0]) if naming else "external"


external = structured("external", "z = f(operands), a Python function", arity=-1, opaque=True, title=title,
    forward=not_compiled, reverse=nothing, tangent=nothing,
    accepts=lambda p: len(p) >= 2 and min(p) >= 0,
    views=lambda p: ([((n,), None) for n in p[2:]], (p[1],)))
