"""Loops as instructions: `Loop` takes all steps of a body, `LoopBack` goes back over them.

The two are closed under differentiation. With F(x) what a loop computes, and J its Jacobian, a tangent is that of the
loop over steps that carry their tangents along: F'(x, dx) = J(x) dx. A gradient is LoopBack: J(x)^T w. Both derivatives
of LoopBack follow from going back over F' with cotangents a of F and b of J dx, which gives

    x:  J^T a + sum_k b_k H_k dx        dx:  J^T b

where H_k are the matrices of second derivatives. They are symmetric, so along (dx, dw), J(x)^T w changes by the first
of these with a = dw and b = w. And <u, J^T w> = <w, J u>: its gradient is sum_k w_k H_k u, the first with a = 0,
b = w and dx = u, and J u. So no derivative, of any order, keeps more than the states of one loop.

Operands are flat: the consts, the xs of all steps, the first carry; of LoopBack besides the cotangent of the result.
The result of a loop is the last carry and the ys of all steps, one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.adjoint.region import NOWHERE
from tapegrad.layout import dense
from tapegrad.looping.body import Body, Part
from tapegrad.looping.slices import Slice
from tapegrad.looping.stepping import go_back, go_on
from tapegrad.native import choice
from tapegrad.ops.external import external
from tapegrad.ops.record import STRUCTURED
from tapegrad.sweeps import callbacks
from tapegrad.tape import Tape
from tapegrad.value import Value, as_value, contiguous, handle, operand


class _Steps:
    """What both instructions share. They are what `sweeps.callbacks` calls.

    Args:
        body: what a step does.
        count: how many steps there are.
        start: the number of the first.
        states: how many states are kept to go back over the steps; None for all.
        forced: whether the body is compiled; see `native.choice.mode`.
    """

    # Nothing but our own rules, which may be run on Values at any numbers; see `callbacks.Call`.
    exact = True

    def __init__(
        self, body: Body, count: int, start: int, states: int | None, forced: bool | None = None
    ) -> None:  # fmt: skip
        self.body, self.count, self.start, self.states, self.forced = body, count, start, states, forced
        own = body.signature
        # The sizes and the kinds of the operands.
        self.given = [*own.consts, *(Part(count * p.size, p.smooth) for p in own.xs), *own.carry]
        self.returned = [*own.carry, *(Part(count * p.size, p.smooth) for p in own.ys)]

    def _like(self, body: Body) -> tuple[Body, int, int, int | None, bool | None]:
        # A state of a body with tangents is twice as large.
        size, before = body.signature.state, max(1, self.body.signature.state)
        states = None if self.states is None else max(2, self.states * before // max(1, size))
        return body, self.count, self.start, states, self.forced

    def _groups(self, operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        """Of something for each operand that for the consts, the xs and the carry."""
        k = len(self.body.signature.consts)
        m = k + len(self.body.signature.xs)
        return operands[:k], operands[k:m], operands[m : m + len(self.body.signature.carry)]

    def _with_tangents(self, operands: Sequence[Any], tangents: Sequence[Any]) -> tuple[Body, list[Any]]:
        """The body that carries tangents along, and what it is given: operands, and their tangents, None for zero."""
        active = [t is not None and p.smooth for t, p in zip(tangents, self.given, strict=True)]
        consts, xs, _ = self._groups(active)
        primals, along, parts = self._groups(operands), self._groups(tangents), self._groups(self.given)
        given = [*primals[0], *(t for t, a in zip(along[0], consts, strict=True) if a)]
        given += [*primals[1], *(t for t, a in zip(along[1], xs, strict=True) if a), *primals[2]]
        given += [self._or_zeros(t, p.size) for t, p in zip(along[2], parts[2], strict=True) if p.smooth]
        return self.body.pushed(tuple(consts), tuple(xs)), given

    def _or_zeros(self, x: Any, size: int) -> Any:
        return np.zeros(size, self.body.program.code.dtype) if x is None else x

    def alike(self, other: Any) -> bool:
        """Whether another loop computes the same."""
        return (
            type(self) is type(other)
            and (self.count, self.start, self.states) == (other.count, other.start, other.states)
            and self.body.signature == other.body.signature
            and Slice(self.body.program, [], [], {}).alike(Slice(other.body.program, [], [], {}))
        )  # fmt: skip

    def pull(self, operands: Sequence[Any], result: Any, adjoint: Any, wanted: Sequence[bool]) -> list[Any]:
        """The gradient with respect to the operands that are wanted, by their positions; None for all others."""
        raise NotImplementedError

    def push(self, operands: Sequence[Any], result: Any, tangents: Sequence[Any]) -> Any:
        """The tangent of the result."""
        raise NotImplementedError

    # What the sweeps call, with arrays

    def reverse(
        self, operands: list[np.ndarray], result: np.ndarray, adjoint: np.ndarray, wanted: Sequence[bool]
    ) -> list[Any]:
        """For each operand its adjoint, None where it is not wanted."""
        return self.pull(operands, result, adjoint, wanted)

    def tangent(self, operands: list[np.ndarray], result: np.ndarray, tangents: list[np.ndarray]) -> Any:
        """The tangent of the result."""
        return self.push(operands, result, tangents)

    def certificate(self, operands: list[np.ndarray]) -> Any:
        """None: certificates are those of unrolled loops."""
        return None

    # What writes derivatives, with Values

    def pullback(self, instruction: Any, adjoint: Value) -> list[Any]:
        """The adjoints of the operands as Values, each of one axis."""
        operands = [x.value.reshape(-1) for x in instruction.operands]
        wanted = [x.source != NOWHERE for x in instruction.operands]
        found = self.pull(operands, instruction.result.reshape(-1), adjoint.reshape(-1), wanted)
        return [None if g is None else as_value(g, adjoint._tape, "a gradient").reshape(-1) for g in found]

    def pushforward(self, instruction: Any, tangents: list[Any]) -> Any:
        """The tangent of the result as a Value of one axis."""
        operands = [x.value.reshape(-1) for x in instruction.operands]
        along = [None if t is None else t.reshape(-1) for t in tangents]
        return self.push(operands, instruction.result.reshape(-1), along)


class Loop(_Steps):
    """All steps of a body, one after the other."""

    @property
    def size(self) -> int:
        """How many numbers the result has."""
        return sum(part.size for part in self.returned)

    def __str__(self) -> str:
        return f"loop of {self.count:,} steps"

    def forward(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        """The last carry and the ys."""
        return go_on(self.body, self.count, self.start, choice.mode(self.forced), *self._groups(operands))

    def pull(self, operands: Sequence[Any], result: Any, adjoint: Any, wanted: Sequence[bool]) -> list[Any]:
        """The gradient with respect to the operands that are said, by their positions; None for all others."""
        return LoopBack(wanted, *self._like(self.body)).parts([*operands, adjoint])

    def push(self, operands: Sequence[Any], result: Any, tangents: Sequence[Any]) -> Any:
        """The tangent of the result."""
        body, given = self._with_tangents(operands, tangents)
        return self._tangents_of(applied(Loop(*self._like(body)), given))

    def _tangents_of(self, flat: Any) -> Any:
        """Of the result of a loop that carries tangents along these alone, zeros for what has none."""
        carry, ys = (self.returned[: (m := len(self.body.signature.carry))], self.returned[m:])
        at, found = 0, []
        for parts in (carry, ys):
            at += sum(part.size for part in parts)
            for part in parts:
                found.append(self._or_zeros(flat[at : at + part.size] if part.smooth else None, part.size))
                at += part.size if part.smooth else 0
        return _joined(found, flat)

    def interleaved(self, primal: Any, tangent: Any) -> Any:
        """A cotangent of the result of the loop that carries tangents along, from those of the results of this one
        and of their tangents. None stands for zeros."""
        m, at, found = len(self.body.signature.carry), 0, []
        for parts in (self.returned[:m], self.returned[m:]):
            own, along = [], []
            for part in parts:
                own.append(self._or_zeros(None if primal is None else primal[at : at + part.size], part.size))
                if part.smooth:
                    along.append(self._or_zeros(None if tangent is None else tangent[at : at + part.size], part.size))
                at += part.size
            found += own + along
        return _joined(found, tangent if primal is None else primal)


class LoopBack(_Steps):
    """The gradient of <cotangent, result of a loop> with respect to some of the operands, one behind the other."""

    def __init__(self, wanted: Sequence[bool], *given: Any) -> None:
        super().__init__(*given)
        self.wanted = tuple(w and p.smooth for w, p in zip(wanted, self.given, strict=True))
        self.loop = Loop(*given)
        self.given.append(Part(self.loop.size, True))

    @property
    def size(self) -> int:
        """How many numbers the result has."""
        return sum(part.size for part, w in zip(self.given, self.wanted, strict=False) if w)

    def __str__(self) -> str:
        kept = "" if self.states is None else f", {self.states:,} states kept"
        return f"gradient of a loop of {self.count:,} steps{kept}"

    def forward(self, operands: Sequence[np.ndarray]) -> np.ndarray:
        """The gradient."""
        consts, xs, carry = self._groups(operands)
        found = go_back(
            self.body, self.count, self.start, choice.mode(self.forced), consts, xs, carry, operands[-1],
            self._groups(self.wanted), self.states,
        )  # fmt: skip
        return np.concatenate([np.zeros(0, operands[-1].dtype), *found])

    def parts(self, operands: Sequence[Any]) -> list[Any]:
        """The gradient, apart; None for what is not wanted."""
        return self._apart(applied(self, operands)) if any(self.wanted) else [None] * len(self.wanted)

    def _apart(self, flat: Any) -> list[Any]:
        at, found = 0, []
        for part, w in zip(self.given, self.wanted, strict=False):
            found.append(flat[at : at + part.size] if w else None)
            at += part.size if w else 0
        return found

    def _second(
        self, operands: Sequence[Any], along: Sequence[Any], cotangent: Any, wanted: Sequence[bool]
    ) -> tuple[list[Any], Loop, list[Any]]:
        """The derivative of <J(x)^T w, dx>, `cotangent` being that of F' at (x, dx); and F' and what it is given."""
        body, given = self.loop._with_tangents(operands[:-1], along)
        # The positions of operands among those of the loop that carries tangents along.
        own, other = self.body.signature, body.signature
        spread: list[bool] = []
        groups = zip(self._groups(wanted), (other.consts, other.xs, other.carry), strict=True)
        for flags, parts in groups:
            spread += [*flags, *[False] * (len(parts) - len(flags))]
        back = LoopBack(spread, *self._like(body))
        pulled = iter([p for p, w in zip(back.parts([*given, cotangent]), back.wanted, strict=True) if w])
        smooth = [w and p.smooth for w, p in zip(wanted, self.given, strict=False)]
        assert len(own.carry) <= len(other.carry)
        return [next(pulled) if w else None for w in smooth], Loop(*self._like(body)), given

    def push(self, operands: Sequence[Any], result: Any, tangents: Sequence[Any]) -> Any:
        """The tangent of the gradient."""
        cotangent = self.loop.interleaved(tangents[-1], operands[-1])
        found, _, _ = self._second(operands, tangents[:-1], cotangent, self.wanted)
        return _joined([p for p in found if p is not None], result)

    def pull(self, operands: Sequence[Any], result: Any, adjoint: Any, wanted: Sequence[bool]) -> list[Any]:
        """The gradient of <adjoint, gradient> with respect to the operands that are said; None for all others."""
        along = self._apart(adjoint)
        found: list[Any] = [None] * len(self.wanted)
        cotangent = self.loop.interleaved(None, operands[-1])
        if any(wanted[:-1]):
            found, loop, given = self._second(operands, along, cotangent, wanted[:-1])
        else:
            body, given = self.loop._with_tangents(operands[:-1], along)
            loop = Loop(*self._like(body))
        return [*found, self.loop._tangents_of(applied(loop, given)) if wanted[-1] else None]


def applied(call: Any, operands: Sequence[Any]) -> Any:
    """The flat result of a loop: computed where operands are arrays, recorded where they are Values."""
    tape = next((x._tape for x in operands if isinstance(x, Value)), None)
    if tape is None:
        return call.forward([np.asarray(x) for x in operands])
    return recorded(call, tape, operands)


def recorded(call: Any, tape: Tape, operands: Sequence[Any]) -> Value:
    """A loop as one instruction on a tape; returns its flat result."""
    values = [contiguous(as_value(x, tape, "a loop")) for x in operands]
    number = callbacks.register(call)
    tape.calls[number] = call
    params = [number, call.size, *[x.size for x in values]]
    slot = tape.run(external.opcode, STRUCTURED, call.size, [operand(x) for x in values], params)
    # Once more: the tape may have tidied up before it took the instruction.
    tape.calls[number] = call
    return handle(tape, slot, dense((call.size,)))


def _joined(parts: Sequence[Any], like: Any) -> Any:
    if len(parts) == 1:
        return parts[0]
    if not isinstance(like, Value):
        return np.concatenate(parts)
    return np.concatenate([as_value(x, like._tape, "a loop").reshape(-1) for x in parts])
