"""Loops in files: the program of a step, and how the steps follow each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input, Spec
from tapegrad.errors import DataError
from tapegrad.looping.body import Body, Part, Signature
from tapegrad.looping.instruction import Loop, LoopBack
from tapegrad.storage import kind_of_call, plain

_GROUPS = ("consts", "xs", "carry", "ys")
_NAMES = ("program", "count", "start", "states", "numbered", *_GROUPS)
# Steps are numbered by floats, which are exact up to here.
_MOST = 1 << 53


def _to_json(loop: Any, writer: Any) -> dict[str, Any]:
    own = loop.body.signature
    groups = {name: [[part.size, part.smooth] for part in getattr(own, name)] for name in _GROUPS}
    return {
        "program": writer.program(loop.body.program), "count": loop.count, "start": loop.start, "states": loop.states,
        "numbered": own.numbered, **groups,
    }  # fmt: skip


def _back_to_json(back: LoopBack, writer: Any) -> dict[str, Any]:
    return {**_to_json(back, writer), "wanted": list(back.wanted)}


def _from_json(entries: dict[str, Any], reader: Any) -> Loop:
    return Loop(*_steps(plain.fields(entries, "a loop", *_NAMES), reader))


def _back_from_json(entries: dict[str, Any], reader: Any) -> LoopBack:
    *given, wanted = plain.fields(entries, "a loop", *_NAMES, "wanted")
    steps = _steps(given, reader)
    own = steps[0].signature
    flags = plain.items(wanted, "wanted", len(own.consts) + len(own.xs) + len(own.carry))
    if not all(type(flag) is bool for flag in flags):
        raise DataError("what is wanted of a loop is said by truth values")
    return LoopBack(flags, *steps)


def _steps(given: list[Any], reader: Any) -> tuple[Body, int, int, int | None]:
    program, count, start, states, numbered, *groups = given
    number = plain.whole(program, "the program of a step", 0, len(reader.stored) - 1)
    if type(numbered) is not bool:
        raise DataError("whether steps are numbered is a truth value")
    consts, xs, carry, ys = (_parts(group, reader.most) for group in groups)
    own = Signature(consts, numbered, xs, carry, ys)
    steps = plain.whole(count, "a number of steps", 0, _MOST)
    kept = None if states is None else plain.whole(states, "a number of states", 2, _MOST)
    if (steps if kept is None else min(kept, steps)) * max(1, own.state) > reader.most:
        raise DataError(f"the states of {steps} steps are more than may be kept")
    body = _body(reader, number, own)
    return body, steps, plain.whole(start, "the first step", -_MOST, _MOST), kept


def _parts(x: Any, most: int) -> tuple[Part, ...]:
    found = []
    for part in plain.items(x, "parts of a step"):
        size, smooth = plain.items(part, "a part of a step", 2)
        if type(smooth) is not bool:
            raise DataError("whether there are derivatives is a truth value")
        found.append(Part(plain.whole(size, "a size", 1, most), smooth))
    return tuple(found)


def _body(reader: Any, number: int, own: Signature) -> Body:
    """The body with a signature: one for a loop and its gradient, which share what is made of it."""
    known: Body | None = reader.bodies.get((number, own))
    if known is not None:
        return known
    stored = reader.stored[number]
    code, parts = stored.code, (*own.carry, *own.ys)
    sizes = [n for _, n in code.spans]
    fits = sizes == [part.size for part in own.inputs] and len(code.outputs) == len(parts)
    for output, part in zip(code.outputs, parts, strict=False):
        fits = fits and output.place is not None and output.layout.dense and output.layout.size == part.size
    if not fits or stored.structure != pytree.flatten([0.0] * len(parts))[1]:
        raise DataError(f"program {number} is no step with {len(sizes)} operands and {len(parts)} results")
    spec = Spec(
        pytree.flatten(tuple([0.0] * len(sizes)))[1],
        tuple([Input((n,) if n > 1 else (), np.dtype(code.dtype), n == 1) for n in sizes]),
    )
    body = reader.bodies[number, own] = Body(stored.program(spec), own)
    return body


def _sizes(loop: Any) -> tuple[int, list[int]]:
    return loop.size, [part.size for part in loop.given]


kind_of_call("loop", Loop, _to_json, _from_json, _sizes)
kind_of_call("gradient of a loop", LoopBack, _back_to_json, _back_from_json, _sizes)
