"""In which step of a loop a NaN or an infinity began."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.looping.instruction import Loop
from tapegrad.looping.stepping import go_on
from tapegrad.native import choice
from tapegrad.sweeps import VALUES, callbacks

# So many steps are taken at once before it is looked whether what is carried is still finite.
_STRETCH = 1024


class Step(NamedTuple):
    """A step of a loop.

    Attributes:
        number: of the step, from 0 on.
        body: the program of a step.
        values: its numbers in that step, by place.
    """

    number: int
    body: Any
    values: np.ndarray


def step_of(call: Any, operands: Sequence[np.ndarray]) -> Step | None:
    """The first step of a loop after which something is NaN or infinite; None where there is none, or what an
    instruction calls is no loop."""
    if type(call) is not Loop:
        return None
    own, sizes = call.body.signature, [part.size for part in call.body.signature.xs]
    consts, xs, carry = call._groups([np.asarray(x).reshape(-1) for x in operands])
    first, carried = 0, list(carry)
    while first < call.count:
        n = min(_STRETCH, call.count - first)
        given = [x[first * size : (first + n) * size] for x, size in zip(xs, sizes, strict=True)]
        made = go_on(call.body, n, call.start + first, choice.NEVER, consts, given, carried)
        if not np.isfinite(made).all():
            break
        carried, at = [], 0
        for part in own.carry:
            carried.append(made[at : at + part.size])
            at += part.size
        first += n
    else:
        return None
    program = call.body.program
    workspace = program.take()
    try:
        for number in range(first, call.count):
            taken = [x[number * size : (number + 1) * size] for x, size in zip(xs, sizes, strict=True)]
            index = [np.array([float(call.start + number)])] if own.numbered else []
            for (window, _), numbers in zip(workspace.feeds, [*consts, *index, *taken, *carried], strict=True):
                window[...] = np.reshape(numbers, window.shape)
            program.sweep(workspace, VALUES, -1, None)
            callbacks.check(workspace.scratch)
            outputs = [output.read(workspace.values) for output in program.code.outputs]
            if not all(np.isfinite(y).all() for y in outputs):
                return Step(number, program, workspace.values.copy())
            carried = outputs[: len(own.carry)]
    finally:
        program.give(workspace)
    return None
