"""Going through the steps of a loop, and back over them, on plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.adjoint import revolve
from tapegrad.looping.body import Body, Part, Signature
from tapegrad.looping.machine import At, Machine


class _Data:
    """Arrays one behind the other, which compiled code finds by their positions."""

    def __init__(self) -> None:
        self._size = 0
        self._given: list[tuple[int, Any]] = []

    def room(self, size: int) -> int:
        """Room for an array; returns its position."""
        at = self._size
        self._size += size
        return at

    def put(self, numbers: Any) -> int:
        """An array."""
        at = self.room(np.size(numbers))
        self._given.append((at, numbers))
        return at

    def made(self, dtype: np.dtype) -> np.ndarray:
        """All of them."""
        data = np.empty(max(1, self._size), dtype)
        for at, numbers in self._given:
            data[at : at + np.size(numbers)] = numbers
        return data


def _carried(signature: Signature) -> list[tuple[int, int]]:
    return [(j, signature.first_carry + j) for j in range(len(signature.carry))]


def _index(signature: Signature) -> int | None:
    return len(signature.consts) if signature.numbered else None


def go_on(
    body: Body, count: int, start: int, how: str, consts: Sequence[Any], xs: Sequence[Any], carry: Sequence[Any]
) -> np.ndarray:
    """The last carry, and the ys of all steps, one behind the other; `how` is a mode of `native.choice`."""
    own, dtype = body.signature, body.program.code.dtype
    data = _Data()
    carry_at = data.room(own.state)
    ys = [data.room(count * part.size) for part in own.ys]
    size = carry_at + own.state + sum(count * part.size for part in own.ys)
    before = {own.first_x + j: (data.put(x), own.xs[j].size) for j, x in enumerate(xs)}
    after = {len(own.carry) + j: (at, own.ys[j].size) for j, at in enumerate(ys)}
    array = data.made(dtype)
    machine = Machine(body.program, count, how, array)
    try:
        for j, x in enumerate(consts):
            machine.put(j, x)
        for j, x in enumerate(carry):
            machine.put(own.first_carry + j, x)
        machine.run(0, count, 1, before=before, after=after, carries=_carried(own), index=_index(own), start=start)
        at = 0
        for j, part in enumerate(own.carry):
            array[at : at + part.size] = machine.get(own.first_carry + j)
            at += part.size
    finally:
        machine.close()
    return array[:size]


def go_back(
    body: Body, count: int, start: int, how: str, consts: Sequence[Any], xs: Sequence[Any], carry: Sequence[Any],
    cotangent: Any, wanted: tuple[Sequence[bool], Sequence[bool], Sequence[bool]], states: int | None,
) -> list[np.ndarray]:  # fmt: skip
    """The gradients of <cotangent, result> with respect to the operands that are wanted, in order."""
    return _Back(body, count, start, how, xs, cotangent, wanted, states).run(consts, carry)


class _Back:
    """One passage back over all steps. States are computed again, by one passage on or, where not all can be kept, by
    the schedule of `revolve`."""

    def __init__(
        self, body: Body, count: int, start: int, how: str, xs: Sequence[Any], cotangent: Any,
        wanted: tuple[Sequence[bool], Sequence[bool], Sequence[bool]], states: int | None,
    ) -> None:  # fmt: skip
        own = self.own = body.signature
        self.count, self.start, self.dtype = count, start, body.program.code.dtype
        self.wanted = wanted
        # A block of steps, all of whose states are kept at the same time, and how many states before blocks.
        self.block, self.places = (count, 1) if states is None or states > count else revolve.blocks(count, states)
        data = _Data()
        # The positions of the xs, and of the states of a block.
        self.xs: dict[int, At] = {own.first_x + j: (data.put(x), own.xs[j].size) for j, x in enumerate(xs)}
        self.states = data.room(self.block * own.state)
        # Cotangents of ys come in, behind those of the carry; those of xs and consts go out.
        at = own.state
        self.seeds: list[Any] = []
        seeds = [part for part in own.carry if part.smooth]
        first = len(own.inputs) + len(seeds)
        for part in own.ys:
            if part.smooth:
                given = data.put(cotangent[at : at + count * part.size])
                self.seeds.append((first + len(self.seeds), given, part.size))
            at += count * part.size
        self.d_carry = _split(cotangent[: own.state], own.carry)
        out = len(seeds)
        self.d_xs: dict[int, At] = {}
        for part, w in zip(own.xs, wanted[1], strict=True):
            if w:
                self.d_xs[out] = data.room(count * part.size), part.size
                out += 1
        self.d_consts: dict[int, At] = {}
        for part, w in zip(own.consts, wanted[0], strict=True):
            if w:
                self.d_consts[out] = data.put(np.zeros(part.size)), part.size
                out += 1
        self.sizes = {n: count * size for n, (_, size) in self.d_xs.items()}
        self.data = data.made(self.dtype)
        self.on = Machine(body.program, count, how, self.data)
        self.back = Machine(body.pulled(tuple(wanted[0]), tuple(wanted[1])), count, how, self.data)

    def run(self, consts: Sequence[Any], carry: Sequence[Any]) -> list[np.ndarray]:
        """Go back over all steps."""
        own = self.own
        try:
            for machine in (self.on, self.back):
                for j, x in enumerate(consts):
                    machine.put(j, x)
            for j, x in enumerate(carry):
                self.on.put(own.first_carry + j, x)
            for j, d in enumerate(self._smooth(self.d_carry)):
                self.back.put(len(own.inputs) + j, d)
            self._all_blocks()
            return self._found()
        finally:
            self.on.close()
            self.back.close()

    def _smooth(self, parts: Sequence[Any]) -> list[Any]:
        return [x for x, part in zip(parts, self.own.carry, strict=True) if part.smooth]

    def _found(self) -> list[np.ndarray]:
        own = self.own
        consts = [self.data[at : at + n].copy() for at, n in self.d_consts.values()]
        xs = [self.data[at : at + self.count * n].copy() for at, n in self.d_xs.values()]
        seeds = iter(range(len(own.inputs), len(own.inputs) + len(own.carry)))
        numbers = [next(seeds) if part.smooth else None for part in own.carry]
        first = [self.back.get(n).copy() for n, w in zip(numbers, self.wanted[2], strict=True) if w and n is not None]
        return [*consts, *xs, *first]

    def _all_blocks(self) -> None:
        n = -(-self.count // self.block)
        kept: list[Any] = [None] * self.places
        for what, a, b in revolve.schedule(n, self.places):
            if what == "keep":
                kept[a] = self._state()
            elif what == "take":
                self._set_state(kept[a])
            elif what == "go":
                self._go(a * self.block, b * self.block)
            else:
                self._back_over(a * self.block, min(self.count, (a + 1) * self.block))

    def _state(self) -> list[np.ndarray]:
        return [self.on.get(self.own.first_carry + j).copy() for j in range(len(self.own.carry))]

    def _set_state(self, state: Sequence[np.ndarray]) -> None:
        for j, x in enumerate(state):
            self.on.put(self.own.first_carry + j, x)

    def _go(self, first: int, end: int, kept: dict[int, At] | None = None) -> None:
        self.on.run(
            first, end - first, 1, before=self.xs, kept=kept, carries=_carried(self.own), index=_index(self.own),
            start=self.start,
        )  # fmt: skip

    def _back_over(self, first: int, end: int) -> None:
        """Keep the states of some steps, the present one being before the first, and go back over these."""
        own, at, states = self.own, self.states, {}
        for j, part in enumerate(own.carry):
            states[own.first_carry + j] = at - first * own.state, own.state
            at += part.size
        self._go(first, end, states)
        given = self.xs | states | {number: (at, size) for number, at, size in self.seeds}
        m = sum(part.smooth for part in own.carry)
        carries = [(j, len(own.inputs) + j) for j in range(m)]
        self.back.run(end - 1, end - first, -1, before=given, after=self.d_xs, sums=self.d_consts, carries=carries,
                      index=_index(own), start=self.start)  # fmt: skip


def _split(flat: Any, parts: Sequence[Part]) -> list[Any]:
    found, at = [], 0
    for part in parts:
        found.append(flat[at : at + part.size])
        at += part.size
    return found
