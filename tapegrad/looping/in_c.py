"""Loops in C: a function for a step, and the statements that call it in turn.

What stands between operands and results of a loop is room behind the arena: arenas of the steps, and states that the
way back needs. Where a loop was recorded to keep few of these, those before blocks of about sqrt(n) steps are kept, and
those of one block at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from tapegrad.export.c_calls import call_in_c
from tapegrad.looping.instruction import Loop, LoopBack
from tapegrad.program import Program

# Makes a function of C of the program of a step: returns its name, how much room it takes with its arena, and a table
# of its constants with their place and number.
Write = Callable[[Program], tuple[str, int, tuple[str, int, int] | None]]


class _Arena:
    """The arena of a step, at a place behind the arena of the program that has the loop."""

    def __init__(self, name: str, at: int, program: Program, write: Write) -> None:
        self.name, self.at = name, at
        self.function, self.room, self.constants = write(program)
        self.inputs = program.code.spans
        self.outputs = [(int(o.place), int(o.layout.size)) for o in program.code.outputs]  # type: ignore[arg-type]

    def begun(self) -> list[str]:
        """Declares the arena, with its constants in place."""
        lines = [f"real *{self.name} = v + {self.at};"]
        if self.constants is not None:
            table, place, count = self.constants
            lines.append(_copied(f"{self.name}[{place} + i]", f"{table}[i]", count))
        return lines

    def put(self, number: int, source: str) -> str:
        """Sets an input."""
        place, count = self.inputs[number]
        return _copied(f"{self.name}[{place} + i]", f"{source}[i]", count)

    def get(self, place: tuple[int, int], target: str, sign: str = "=") -> str:
        """Takes numbers from a place."""
        at, count = place
        return _copied(f"{target}[i]", f"{self.name}[{at} + i]", count, sign)

    def taken(self, carried: Sequence[tuple[int, int]]) -> list[str]:
        """One step; then outputs become inputs, all of them at once, for which there is room at `t`."""
        lines = [f"if ((status = {self.function}({self.name}))) return status;"]
        starts = list(itertools.accumulate((self.outputs[out][1] for out, _ in carried), initial=0))
        lines += [self.get(self.outputs[out], f"(t + {at})") for (out, _), at in zip(carried, starts, strict=False)]
        lines += [self.put(to, f"(t + {at})") for (_, to), at in zip(carried, starts, strict=False)]
        return lines


def _copied(to: str, of: str, count: int, sign: str = "=") -> str:
    if count == 1:
        return f"{to} {sign} {of};".replace("[i]", "[0]").replace(" + i]", "]")
    return f"for (long i = 0; i < {count}; i++) {to} {sign} {of};"


class _Steps:
    """What both kinds of loops share: where operands stand, and how a step of the loop itself is taken."""

    def __init__(self, loop: Any, operands: Sequence[str], write: Write, at: int) -> None:
        self.loop, self.own = loop, loop.body.signature
        k, m = len(self.own.consts), len(self.own.consts) + len(self.own.xs)
        self.consts, self.xs, self.carry = operands[:k], operands[k:m], operands[m : m + len(self.own.carry)]
        self.on = _Arena("s", at, loop.body.program, write)
        self.end = at + self.on.room

    def of_step(self, arena: _Arena) -> list[str]:
        """The inputs of step number k that are its own."""
        lines = []
        if self.own.numbered:
            place, _ = arena.inputs[len(self.own.consts)]
            lines.append(f"{arena.name}[{place}] = (real)({self.loop.start} + k);")
        for j, (part, x) in enumerate(zip(self.own.xs, self.xs, strict=True)):
            lines.append(arena.put(self.own.first_x + j, f"(v + {x} + {part.size} * k)"))
        return lines

    def on_by_one(self) -> list[str]:
        """One step of the loop itself."""
        return [*self.of_step(self.on), *self.on.taken(self.carried())]

    def carried(self) -> list[tuple[int, int]]:
        return [(j, self.own.first_carry + j) for j in range(len(self.own.carry))]

    def begun(self, arenas: Sequence[_Arena]) -> list[str]:
        """Everything that is set before the first step."""
        lines = ["int status;"]
        for arena in arenas:
            lines += arena.begun()
            lines += [arena.put(j, f"(v + {x})") for j, x in enumerate(self.consts)]
        return lines + [self.on.put(self.own.first_carry + j, f"(v + {x})") for j, x in enumerate(self.carry)]

    def state(self) -> list[tuple[tuple[int, int], int]]:
        """For each part of the state where it stands in the arena, and where in a state that is kept."""
        starts = itertools.accumulate((part.size for part in self.own.carry), initial=0)
        return [(self.on.inputs[self.own.first_carry + j], at) for j, at in zip(range(len(self.own.carry)), starts)]


def _loop(call: Any, out: str, operands: Sequence[str], program: Any) -> list[str]:
    """The statements that carry out a loop, or its gradient. `out` and `operands` are places."""
    make, at = _back if isinstance(call, LoopBack) else _forward, program.code.size
    lines, end = make(call, out, operands, program.step, at)
    program.has_room_for(end - at)
    return ["{", *(f"    {line}" for line in lines if line), "}"]


def _forward(loop: Any, out: str, operands: Sequence[str], write: Write, at: int) -> tuple[list[str], int]:
    steps = _Steps(loop, operands, write, at)
    own, s = steps.own, steps.on
    inner, to = steps.of_step(s), own.state
    first, *rest = s.taken(steps.carried())
    inner.append(first)
    for j, part in enumerate(own.ys):
        inner.append(s.get(s.outputs[len(own.carry) + j], f"(v + {out} + {to} + {part.size} * k)"))
        to += loop.count * part.size
    turns = _for(f"long k = 0; k < {loop.count}; k++", inner + rest)
    lines = [*steps.begun([s]), f"real *t = v + {steps.end};", *turns]
    return [*lines, *(s.get(place, f"(v + {out} + {n})") for place, n in steps.state())], steps.end + own.state


def _back(call: Any, out: str, operands: Sequence[str], write: Write, at: int) -> tuple[list[str], int]:
    steps = _Steps(call, operands[:-1], write, at)
    own, s, cotangent = steps.own, steps.on, operands[-1]
    k, m = len(own.consts), len(own.consts) + len(own.xs)
    wanted = call.wanted[:k], call.wanted[k:m], call.wanted[m:]
    r = _Arena("r", steps.end, call.body.pulled(tuple(wanted[0]), tuple(wanted[1])), write)
    count, state = call.count, own.state
    few = call.states is not None and call.states < count
    block = math.isqrt(max(1, count) - 1) + 1 if few else max(1, count)
    blocks = max(1, -(-count // block))
    kept = steps.end + r.room
    room = kept + (blocks + block) * state
    end = room + max(state, sum(part.size for part in own.carry if part.smooth))
    seeds = [part for part in own.carry if part.smooth]

    # Where the result has each gradient, and which output of a step back it is.
    to, number = 0, len(seeds) + sum(map(bool, wanted[1]))
    zeros, sums = list[str](), list[str]()
    for part, w in zip(own.consts, wanted[0], strict=True):
        if w:
            zeros.append(f"for (long i = 0; i < {part.size}; i++) v[{out} + {to} + i] = 0;")
            sums.append(r.get(r.outputs[number], f"(v + {out} + {to})", "+="))
            to, number = to + part.size, number + 1
    number = len(seeds)
    for part, w in zip(own.xs, wanted[1], strict=True):
        if w:
            sums.append(r.get(r.outputs[number], f"(v + {out} + {to} + {part.size} * k)"))
            to, number = to + count * part.size, number + 1
    last, first_seed, from_ = list[str](), len(own.inputs), 0
    number, begun = first_seed, list[str]()
    for part, w in zip(own.carry, wanted[2], strict=True):
        if part.smooth:
            begun.append(r.put(number, f"(v + {cotangent} + {from_})"))
            if w:
                last.append(r.get(r.inputs[number], f"(v + {out} + {to})"))
                to += part.size
            number += 1
        from_ += part.size
    inner = steps.of_step(r)
    for j, (_, n) in enumerate(steps.state()):
        inner.append(r.put(own.first_carry + j, f"(inner + {state} * (k - first) + {n})"))
    for part in own.ys:
        if part.smooth:
            inner.append(r.put(number, f"(v + {cotangent} + {from_} + {part.size} * k)"))
            number += 1
        from_ += count * part.size
    step, *rest = r.taken([(j, first_seed + j) for j in range(len(seeds))])
    keep = [s.get(place, f"(kept + {state} * b + {n})") for place, n in steps.state()]
    take = [s.put(own.first_carry + j, f"(kept + {state} * b + {n})") for j, (_, n) in enumerate(steps.state())]
    hold = [s.get(place, f"(inner + {state} * (k - first) + {n})") for place, n in steps.state()]
    lines = [
        *steps.begun([s, r]), f"real *kept = v + {kept}, *inner = kept + {blocks * state}, *t = v + {room};",
        *begun, *zeros,
        *_for(f"long b = 0; b < {blocks}; b++", [
            *keep, *_for(f"long k = {block} * b; k < {block} * (b + 1) && b + 1 < {blocks}; k++", steps.on_by_one()),
        ]),
        *_for(f"long b = {blocks - 1}; b >= 0; b--", [
            f"const long first = {block} * b, end = first + {block} < {count} ? first + {block} : {count};", *take,
            *_for("long k = first; k < end; k++", [*hold, *steps.on_by_one()]),
            *_for("long k = end - 1; k >= first; k--", [*inner, step, *sums, *rest]),
        ]),
        *last,
    ]  # fmt: skip
    return lines, end


def _for(head: str, body: Sequence[str]) -> list[str]:
    return [f"for ({head}) {{", *(f"    {line}" for line in body if line), "}"]


call_in_c(Loop, _loop)
call_in_c(LoopBack, _loop)
