"""The derivatives of a program as programs of flat arrays: what exported code computes.

Inputs of the program come first, then tangents of those that are floats, or cotangents of the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import pull_back, push_forward
from tapegrad.layout import dense
from tapegrad.program import Code, Program, write
from tapegrad.program.build import code_of
from tapegrad.tape import Tape, recording_on
from tapegrad.value import Value, contiguous, handle

Inputs = Sequence[Value]
# From a function of Values: the inputs of the program, those that come besides, the outputs that are Values.
Derive = Callable[[Inputs, Inputs, list[Value]], list[Value | None]]


class Derivative(NamedTuple):
    """The code of a derivative, for each result whether it is not zero (zeros are left out), and the functions that the
    code calls, which live as long as somebody holds them."""

    code: Code
    kept: list[bool]
    calls: dict[int, Any]


def derivative(program: Program, more: Sequence[int], derive: Derive) -> Derivative:
    """The code of what `derive` returns.

    `more` are the sizes of inputs besides those of the program.
    """
    code = program.code
    sizes = [n for _, n in code.spans]
    tape = Tape(code.dtype, recording=True)
    with recording_on(tape):
        values = []
        for number, n in enumerate([*sizes, *more]):
            smooth = number in program.floats or number >= len(sizes)
            values.append(handle(tape, tape.leaf(np.zeros(n), n, smooth), dense((n,)) if n != 1 else None))
        given, extra = values[: len(sizes)], values[len(sizes) :]
        results = [y for y in pytree.flatten(write(program, tape, given))[0] if isinstance(y, Value)]
        found = derive(given, extra, results)
        kept = [y for y in found if y is not None]
        return Derivative(code_of(tape, len(values), kept), [y is not None for y in found], tape.calls)


def gradient(program: Program) -> Derivative:
    """The only result, and the derivative of it with respect to each input that is a float."""
    return derivative(program, (), lambda given, _, ys: [*ys, *_pulled(program, given, ys, [1.0])])


def vjp(program: Program) -> Derivative:
    """The derivative of <w, results> with respect to each input that is a float, for cotangents w."""
    outputs = [o for o in program.code.outputs if o.place is not None]

    def derive(given: Inputs, extra: Inputs, ys: list[Value]) -> list[Value | None]:
        return _pulled(program, given, ys, [_like(w, y) for w, y in zip(extra, ys, strict=True)])

    return derivative(program, [o.layout.size for o in outputs], derive)


def jvp(program: Program) -> Derivative:
    """The results, and the derivative of each along tangents of the inputs that are floats."""

    def derive(given: Inputs, extra: Inputs, ys: list[Value]) -> list[Value | None]:
        return [*ys, *push_forward(_floats(program, given), list(extra), ys)]

    return derivative(program, _sizes(program), derive)


def hessian_product(program: Program) -> Derivative:
    """The derivative of the gradient along tangents of the inputs that are floats."""

    def derive(given: Inputs, extra: Inputs, ys: list[Value]) -> list[Value | None]:
        grads = _pulled(program, given, ys, [1.0])
        some = [g for g in grads if g is not None]
        along = iter(push_forward(_floats(program, given), list(extra), some) if some else ())
        return [None if g is None else next(along) for g in grads]

    return derivative(program, _sizes(program), derive)


def _floats(program: Program, given: Inputs) -> list[Value]:
    return [given[w] for w in program.floats]


def _sizes(program: Program) -> list[int]:
    return [program.code.spans[w][1] for w in program.floats]


def _pulled(program: Program, given: Inputs, ys: list[Value], seeds: list[Any]) -> list[Value | None]:
    seeds = [np.full(y.shape, s) if isinstance(s, float) and y.shape else s for s, y in zip(seeds, ys, strict=True)]
    return pull_back(_floats(program, given), ys, seeds)


def _like(w: Value, y: Value) -> Value:
    return contiguous(w).reshape(y.shape) if y.shape and w.shape else w.reshape(y.shape)
