"""Certificates: was a function differentiable where it was evaluated, and how far is the next kink?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tapegrad.ops import BY_NAME, RUN, TABLE, Elementwise, passive_rows
from tapegrad.program import Program
from tapegrad.sparse.links import places, varying, wide
from tapegrad.tape import EXPECT, LEAF


class Kink(NamedTuple):
    """A place where an operation jumps or has no derivative.

    Attributes:
        distance: how far its operands are from it, in their units; 0 on it.
        instruction: number of the instruction among those that are replayed.
        operation: its name, or "guard" where a number was read that is not constant between jumps.
        formula: what it computes.
        element: position in its result, in row-major order.
        operands: the numbers that it was given.
    """

    distance: float
    instruction: int
    operation: str
    formula: str
    element: int
    operands: tuple[float, ...]

    def __str__(self) -> str:
        given = ", ".join(f"{name} = {x:.6g}" for name, x in zip("xyw", self.operands, strict=False))
        where = f"instruction {self.instruction}, element {self.element}"
        return f"{self.operation} ({self.formula}) with {given}: {self.distance:.3g} from its kink ({where})"


class Certificate(NamedTuple):
    """What is known about one evaluation.

    Attributes:
        differentiable: whether every operation was differentiable at its operands, as recorded.
        kinks: the nearest kink of each instruction that has one, nearest first.
    """

    differentiable: bool
    kinks: tuple[Kink, ...]

    @property
    def nearest(self) -> Kink | None:
        """The nearest kink; None for a function without."""
        return self.kinks[0] if self.kinks else None

    def __str__(self) -> str:
        if not self.kinks:
            return "differentiable; nothing in it has a kink"
        if self.differentiable:
            return f"differentiable; nearest kink: {self.kinks[0]}"
        on = [str(k) for k in self.kinks if not k.distance > 0.0]
        return "not differentiable: " + "; ".join(on)


def certify(program: Program) -> Certificate:
    """The certificate of the point that a program was last swept at."""
    varies = varying(program, program.floats)
    kinks = sorted(_kinks(program, varies), key=lambda kink: (kink.distance, kink.instruction))
    return Certificate(all(kink.distance > 0.0 for kink in kinks), tuple(kinks))


def _kinks(program: Program, varies: np.ndarray) -> Iterator[Kink]:
    code, side, v = program.code, program.side, program.values
    with np.errstate(all="ignore"):
        for opcode in np.unique(code[:, 0] % RUN).tolist():
            row: Any = TABLE[opcode]
            if getattr(row, "kink", None) is None:
                continue
            scalar = np.flatnonzero(code[:, 0] == opcode)
            a, b = code[scalar, 2], code[scalar, 3]
            own = (varies[a] | varies[b]) != 0
            scalar, operands = scalar[own], [v[a[own]], v[b[own]]][: row.arity]
            distances = np.broadcast_to(row.kink(*operands), scalar.shape)
            for i, d, *xs in zip(scalar.tolist(), distances.tolist(), *(x.tolist() for x in operands), strict=True):
                yield Kink(_distance(d), i, row.name, row.formula, 0, tuple(xs))
            for i in np.flatnonzero(code[:, 0] == opcode + RUN).tolist():
                found = _kink_of_run(row, i, int(code[i, 0]), side, int(code[i, 2]), v, varies)
                if found is not None:
                    yield found
        yield from _reads(program, varies)


def _kink_of_run(row: Any, i: int, op: int, side: np.ndarray, k: int, v: np.ndarray, varies: np.ndarray) -> Kink | None:
    instruction = wide(side, op, k)
    at = [places(*x) for x in instruction.operands]
    if not instruction.size or not any(varies[p].any() for p in at):
        return None
    numbers = [v[p] for p in at]
    distances: Any
    if isinstance(row, Elementwise):
        assert row.kink is not None
        own = sum(varies[p] for p in at) != 0
        distances = np.where(own, np.broadcast_to(row.kink(*numbers), own.shape), np.inf)
    else:
        shaped = [x.reshape(layout.shape) for x, (_, layout) in zip(numbers, instruction.operands, strict=True)]
        result = v[instruction.out : instruction.out + instruction.size]
        shape = row.views(instruction.params)[1]
        distances = np.asarray(row.kink(instruction.params, result.reshape(shape), *shaped)).reshape(-1)
    if not distances.size:
        return None
    sizes = np.where(np.isnan(distances), 0.0, np.abs(distances))
    e = int(np.argmin(sizes))
    xs = tuple(float(x[e]) for x in numbers) if isinstance(row, Elementwise) else ()
    return Kink(float(sizes[e]), i, row.name, row.formula, e, xs)


def _distance(d: float) -> float:
    return abs(d) if d == d else 0.0


def _reads(program: Program, varies: np.ndarray) -> Iterator[Kink]:
    # A guard on a number that some operation computed smoothly: any change of it is another branch.
    code, passive = program.code, passive_rows()
    starts = code[:, 1]
    for i in program.guards.tolist():
        place = int(code[i, 2])
        if not varies[place]:
            continue
        maker = int(np.searchsorted(starts[:i], place, "right")) - 1
        while maker >= 0 and code[maker, 0] in (EXPECT, LEAF):
            maker -= 1
        is_input = place < sum(n for _, n in program.spans)
        if is_input or not passive[code[maker, 0] % RUN] or code[maker, 0] % RUN == _DETACH:
            yield Kink(0.0, i, "guard", "a number that was read", 0, (float(program.values[place]),))


_DETACH = BY_NAME["detach"].opcode
