"""Where a NaN or an infinity in a derivative of forward mode came from: the instruction that made it on the way there.

The tangents of all numbers are computed along the direction that was asked for, and searched as numbers themselves are:
of a wrong tangent, those of operands that are wrong have made it so, and where there are none, the instruction has. To
go back from the results, as for gradients, would be another derivative: what cancels there may be wrong here, and what
is zero along this direction may be infinite there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tapegrad.debugging.describe import Scene, blame_forward, index_of, numbers_of, one_of
from tapegrad.debugging.forward import first_fault
from tapegrad.debugging.report import Blame, Numbers
from tapegrad.inspect.listing import statement
from tapegrad.inspect.replays import Replay
from tapegrad.layout import Layout
from tapegrad.ops import Elementwise
from tapegrad.program.flow import flags_of
from tapegrad.sweeps import TANGENT, callbacks, scratch, sweeps_for
from tapegrad.tape import Operand

# Directions: for each the tangents of inputs by their numbers.
Directions = Callable[[], Iterator[dict[int, np.ndarray]]]
# So many columns of a Jacobian are searched.
_MOST = 10_000


def one_by_one(replay: Replay, wrt: tuple[int, ...]) -> Iterator[dict[int, np.ndarray]]:
    """The directions of a Jacobian: a one at each number of the inputs in turn."""
    spans = replay.program.code.spans
    for number, at in itertools.islice(((w, i) for w in wrt for i in range(spans[w][1])), _MOST):
        direction = np.zeros(spans[number][1], replay.values.dtype)
        direction[at] = 1.0
        yield {number: direction}


def swept_along(replay: Replay, along: dict[int, np.ndarray]) -> np.ndarray:
    """The tangents of all numbers of a replay, by place; each instruction is swept by itself."""
    program, values = replay
    code, t = program.code, np.zeros_like(values)
    for number, tangent in along.items():
        start, n = code.spans[number]
        t[start : start + n] = np.reshape(tangent, -1)
    flags = flags_of(code, np.zeros(len(code.side), np.uint8), tuple(sorted(along)))
    program.prepare(TANGENT)
    room = scratch(values.dtype)
    sweeps_for(values.dtype).tangent(code.steps, code.side, flags, values, t, room)
    callbacks.check(room)
    return t


def blame_along(scene: Scene, replay: Replay, along: dict[int, np.ndarray], places: np.ndarray) -> Blame | None:
    """What has made the tangents at some places NaN or infinite; None where they are neither."""
    t = swept_along(replay, along)
    shown = scene.reader.shown
    found = first_fault(shown.rows, shown.side, scene.values, places, scene.nan_only, t)
    if found is None:
        return None
    reader, values = scene.reader, scene.values
    one, at = reader.instruction(found.row), int(found.at[0])
    known, by_element = reader.shapes([one]).get(one.row), isinstance(one.operation, Elementwise)
    read = [one_of(x, at) if by_element else x for x in one.operands]
    result, cause = Operand(one.out + at, Layout((), ())), None
    for x in [*read, result]:
        cause = cause or blame_forward(scene, x.places())
    tangents = [numbers_of(reader, t, x) for x in read]
    own = numbers_of(reader, values, result)
    return Blame(
        what="NaN" if np.isnan(t[one.out + at]) else "infinity", sweep="tangents", given=found.given,
        name=f"the tangent of {reader.name(one.out, one.count)}" if found.given else own.name,
        index=index_of(at, one, known), row=one.row, operation=one.title, text=statement(reader, one, known),
        operands=tuple(numbers_of(reader, values, x) for x in read), result=own,
        tangents=(*(Numbers(x.name or "a constant", x.numbers) for x in tangents),
                  Numbers("the result", float(t[one.out + at]))),
        line=scene.lines(found.row), cause=cause, of=scene.of,
    )  # fmt: skip


def directions_of(asked: Any, replay: Replay, wrt: tuple[int, ...]) -> Iterator[dict[int, np.ndarray]]:
    """The directions that a derivative was asked along: one that is given, or those of a Jacobian."""
    return one_by_one(replay, wrt) if asked is None else iter([asked])
