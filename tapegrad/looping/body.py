"""What a loop does in each step: a program of its own, and the programs of its derivatives, written when first needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import pull_back, push_forward
from tapegrad.arguments import Input, Spec
from tapegrad.layout import dense
from tapegrad.program import Program, write
from tapegrad.program.build import code_of
from tapegrad.tape import Tape, recording_on
from tapegrad.value import Value, contiguous, handle, leaf


class Part(NamedTuple):
    """An array that goes into a step or comes out of it.

    Attributes:
        size: how many numbers it has.
        smooth: whether they are floats, of which there are derivatives; integers and truth values have none.
    """

    size: int
    smooth: bool


class Signature(NamedTuple):
    """What goes into a step, in this order, and what comes out of it.

    Attributes:
        consts: what is the same in all steps.
        numbered: whether the number of the step is an input, which is the next.
        xs: what each step has of its own.
        carry: what a step takes from the one before; it is also the first of what comes out.
        ys: what each step returns besides.
    """

    consts: tuple[Part, ...]
    numbered: bool
    xs: tuple[Part, ...]
    carry: tuple[Part, ...]
    ys: tuple[Part, ...]

    @property
    def inputs(self) -> list[Part]:
        """All that goes in."""
        return [*self.consts, *([Part(1, False)] if self.numbered else []), *self.xs, *self.carry]

    @property
    def first_x(self) -> int:
        """The number of the first input that is one of `xs`."""
        return len(self.consts) + self.numbered

    @property
    def first_carry(self) -> int:
        """The number of the first input that is carried."""
        return self.first_x + len(self.xs)

    @property
    def state(self) -> int:
        """How many numbers are carried from step to step."""
        return sum(part.size for part in self.carry)


class Body:
    """The program of a step, with outputs and inputs as a signature says.

    Args:
        program: its inputs are those of `signature`, its outputs the carry and the ys, all of them on the tape.
    """

    def __init__(self, program: Program, signature: Signature) -> None:
        self.program, self.signature = program, signature
        self._pushed: dict[Any, Body] = {}
        self._pulled: dict[Any, Program] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pushed": {}, "_pulled": {}}

    def pushed(self, consts: tuple[bool, ...], xs: tuple[bool, ...]) -> Body:
        """The step together with its derivative along tangents: of the consts and xs that are said, and of all that is
        carried. Tangents of consts, xs, carry and ys follow these."""
        found = self._pushed.get((consts, xs))
        if found is None:
            found = self._pushed[consts, xs] = self._push(consts, xs)
        return found

    def _push(self, consts: tuple[bool, ...], xs: tuple[bool, ...]) -> Body:
        own = self.signature
        groups = [(own.consts, consts), (own.xs, xs), (own.carry, tuple(part.smooth for part in own.carry))]
        d_consts, d_xs, d_carry = (tuple(p for p, a in zip(parts, active) if a) for parts, active in groups)
        d_ys = tuple(part for part in own.ys if part.smooth)
        signature = Signature(
            own.consts + d_consts, own.numbered, own.xs + d_xs, own.carry + d_carry, own.ys + d_ys,
        )  # fmt: skip

        def both(inputs: list[Value]) -> list[Value]:
            take = iter(inputs).__next__
            primals: list[Value] = []
            tangents: list[Value | None] = []
            for at, ((parts, active), extra) in enumerate(zip(groups, (d_consts, d_xs, d_carry), strict=True)):
                if at == 1 and own.numbered:
                    primals.append(take())
                    tangents.append(None)
                primals += [take() for _ in parts]
                along = iter([take() for _ in extra])
                tangents += [next(along) if a else None for a in active]
            results = write(self.program, inputs[0]._tape, primals)
            d_results = push_forward(primals, tangents, results)
            d_results = [_or_zeros(d, y) for d, y in zip(d_results, results, strict=True)]
            m = len(own.carry)
            smooth = [part.smooth for part in own.carry + own.ys]
            d_carried = [d for d, s in zip(d_results[:m], smooth[:m], strict=True) if s]
            d_returned = [d for d, s in zip(d_results[m:], smooth[m:], strict=True) if s]
            return [*results[:m], *d_carried, *results[m:], *d_returned]

        return Body(program_of(self.program.code.dtype, signature.inputs, both), signature)

    def pulled(self, consts: tuple[bool, ...], xs: tuple[bool, ...]) -> Program:
        """The derivative of a step from its results back. Inputs are those of the step, then cotangents of the carry
        and of the ys that are smooth; outputs the cotangents of the carry, and of the xs and consts that are said."""
        found = self._pulled.get((consts, xs))
        if found is None:
            found = self._pulled[consts, xs] = self._pull(consts, xs)
        return found

    def _pull(self, consts: tuple[bool, ...], xs: tuple[bool, ...]) -> Program:
        own = self.signature
        seeds = [part for part in own.carry + own.ys if part.smooth]
        wanted = [own.first_carry + j for j, part in enumerate(own.carry) if part.smooth]
        wanted += [own.first_x + j for j, a in enumerate(xs) if a] + [j for j, a in enumerate(consts) if a]

        def back(inputs: list[Value]) -> list[Value]:
            primals, given = inputs[: len(own.inputs)], iter(inputs[len(own.inputs) :])
            results = write(self.program, inputs[0]._tape, primals)
            smooth = [y for y, part in zip(results, own.carry + own.ys, strict=True) if part.smooth]
            found = pull_back([primals[j] for j in wanted], smooth, list(given))
            return [_or_zeros(d, primals[j]) for d, j in zip(found, wanted, strict=True)]

        return program_of(self.program.code.dtype, [*own.inputs, *seeds], back)


def _or_zeros(found: Value | None, like: Value) -> Value:
    return leaf(like._tape, np.zeros(like.shape, like.dtype)) if found is None else found


def program_of(dtype: np.dtype, inputs: Sequence[Part], f: Callable[[list[Value]], list[Value]]) -> Program:
    """The program of a function of flat arrays, recorded on a tape of its own. What has one number is a scalar."""
    tape = Tape(dtype, recording=True)
    with recording_on(tape):
        values = []
        for part in inputs:
            slot = tape.leaf(np.zeros(part.size), part.size, part.smooth)
            values.append(handle(tape, slot, shape_of(part.size)))
        # A derivative may be a view that shows one number many times; a loop wants each number at a place of its own.
        return finished(tape, inputs, [contiguous(y) for y in f(values)])


def finished(tape: Tape, inputs: Sequence[Part], outputs: Sequence[Value]) -> Program:
    """The program of a tape whose first leaves are inputs."""
    code = code_of(tape, len(inputs), outputs)
    leaves = tuple(Input((part.size,) if part.size > 1 else (), tape.dtype, part.size == 1) for part in inputs)
    spec = Spec(pytree.flatten(tuple([0.0] * len(leaves)))[1], leaves)
    return Program(code, pytree.flatten([0.0] * len(outputs))[1], spec, (), tape.calls)


def shape_of(size: int) -> Any:
    """The layout of so many numbers on a tape."""
    return dense((size,)) if size > 1 else None
