"""Certificates: was a function differentiable where it was evaluated, and how far is the next kink?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tapegrad.ops import RUN, TABLE, Elementwise, passive_rows
from tapegrad.ops.rules import plain
from tapegrad.program import Program, Workspace
from tapegrad.sweeps import callbacks
from tapegrad.tape import Instruction, instruction


class Kink(NamedTuple):
    """A place where an operation jumps or has no derivative.

    Attributes:
        distance: how far its operands are from it, in their units; 0 on it.
        instruction: number of the instruction among those that are replayed.
        operation: its name, or "guard" where a number was read that changes smoothly with the inputs.
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
        if not self.operands:
            return f"{self.operation} ({self.formula})" + (
                f": {self.distance:.3g} from its kink (instruction {self.instruction})" if self.distance else ""
            )
        given = ", ".join(f"{name} = {x:.6g}" for name, x in zip("xyw", self.operands, strict=False))
        where = f"instruction {self.instruction}, element {self.element}"
        return f"{self.operation} ({self.formula}) with {given}: {self.distance:.3g} from its kink ({where})"


class Certificate(NamedTuple):
    """What is known about one evaluation.

    Attributes:
        differentiable: whether every operation was differentiable at its operands, as recorded, and results and
            gradient are finite. Black boxes are taken to be differentiable.
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


def certify(program: Program, workspace: Workspace) -> Certificate:
    """The certificate of the point that a program was swept at."""
    v = workspace.values
    # Marks of the numbers that change smoothly with the inputs. A piecewise constant number, like the result of floor,
    # moves an operation onto its kink only by a jump, and that jump is found at the operation that makes it.
    smooth = _smooth(program)
    found = [*_kinks(program, v, smooth), *_inside_calls(program, v)]
    if not _is_finite(program, v):
        found += _not_finite(program, v, smooth)
    kinks = sorted((k for k in found if k.distance < np.inf), key=lambda kink: (kink.distance, kink.instruction))
    return Certificate(all(kink.distance > 0.0 for kink in kinks), tuple(kinks))


def _smooth(program: Program) -> np.ndarray:
    # The result of an operation that holds an operand constant on purpose (`held`) still varies with that operand.
    held = np.array([bool(row.held) for row in TABLE])
    jumps = passive_rows() & ~held
    return program.flow(program.code.steps, program.places_of(program.floats), jumps)[0]


def _is_finite(program: Program, v: np.ndarray) -> bool:
    """Whether results, and the gradient of a sum of them with random weights, are finite numbers."""
    weights = np.random.default_rng(0)
    outputs = program.code.outputs
    known = [o for o in outputs if o.place is not None]
    seeds = [None if o.place is None else weights.uniform(1.0, 2.0, o.shape) for o in outputs]
    grads = program.pull(v, seeds, program.floats)
    return all(np.isfinite(o.window(v)).all() for o in known) and all(np.isfinite(g).all() for g in grads)


def _not_finite(program: Program, v: np.ndarray, varies: np.ndarray) -> Iterator[Kink]:
    """The elementwise instructions whose results or partial derivatives are not finite."""
    some, code = False, program.code
    with np.errstate(all="ignore"):
        for i, op in enumerate(code.steps[:, 0].tolist()):
            row: Any = TABLE[op % RUN]
            if not isinstance(row, Elementwise):
                continue
            one = instruction(code.steps, code.side, i)
            at = [x.places() for x in one.operands]
            if not any(varies[p].any() for p in at):
                continue
            numbers = [v[p] for p in at]
            result = v[one.results]
            found = plain(row.partials)(*numbers, result)
            bad = ~np.isfinite(result)
            for p in found if isinstance(found, tuple) else (found,):
                bad |= ~np.isfinite(np.broadcast_to(np.asarray(p, float), bad.shape))
            if bad.any():
                e, some = int(np.argmax(bad)), True
                yield Kink(0.0, i, row.name, row.formula, e, tuple(float(x[e]) for x in numbers))
    if not some:
        yield Kink(0.0, len(code.steps), "result", "a result or derivative that is not finite", 0, ())


def _inside_calls(program: Program, v: np.ndarray) -> Iterator[Kink]:
    # A call of Python may know its own kinks: a checkpoint does, from the recording that it keeps.
    opaque, steps = [row.opcode + RUN for row in TABLE if row.opaque], program.code.steps
    for i in np.flatnonzero(np.isin(steps[:, 0], opaque)).tolist():
        one = instruction(steps, program.code.side, i)
        certificate = callbacks.call_of(one.params[0]).certificate
        found = certificate([v[x.places()] for x in one.operands])
        for kink in found.kinks if found else ():
            yield kink._replace(instruction=i)


def _kinks(program: Program, v: np.ndarray, varies: np.ndarray) -> Iterator[Kink]:
    code, side = program.code.steps, program.code.side
    with np.errstate(all="ignore"):
        for opcode in np.unique(code[:, 0] % RUN).tolist():
            row: Any = TABLE[opcode]
            if row.kink is None:
                continue
            scalar = np.flatnonzero(code[:, 0] == opcode)
            if len(scalar):
                at = code[scalar, 2:].T
                own = varies[at].any(axis=0)
                scalar, operands = scalar[own], list(v[at[: row.arity, own]])
                distances = np.broadcast_to(row.kink(*operands), scalar.shape)
                for i, d, *xs in zip(scalar.tolist(), distances.tolist(), *(x.tolist() for x in operands), strict=True):
                    yield Kink(_distance(d), i, row.name, row.formula, 0, tuple(xs))
            for i in np.flatnonzero(code[:, 0] == opcode + RUN).tolist():
                found = _kink_of_run(instruction(code, side, i), v, varies)
                if found is not None:
                    yield found
        yield from _reads(program, v, varies)


def _kink_of_run(one: Instruction, v: np.ndarray, varies: np.ndarray) -> Kink | None:
    row, at = one.operation, [x.places() for x in one.operands]
    if not one.count or not any(varies[p].any() for p in at):
        return None
    numbers = [v[p] for p in at]
    distances: Any
    if isinstance(row, Elementwise):
        assert row.kink is not None
        own = sum(varies[p] for p in at) != 0
        distances = np.where(own, np.broadcast_to(row.kink(*numbers), own.shape), np.inf)
    else:
        shaped = [x.reshape(of.layout.shape) for x, of in zip(numbers, one.operands, strict=True)]
        distances = np.asarray(row.kink(one.params, v[one.results].reshape(one.shape), *shaped)).reshape(-1)
    if not distances.size:
        return None
    sizes = np.where(np.isnan(distances), 0.0, np.abs(distances))
    e = int(np.argmin(sizes))
    xs = tuple(float(x[e]) for x in numbers) if isinstance(row, Elementwise) else ()
    return Kink(float(sizes[e]), one.row, row.name, row.formula, e, xs)


def _distance(d: float) -> float:
    return abs(d) if d == d else 0.0


def _reads(program: Program, v: np.ndarray, varies: np.ndarray) -> Iterator[Kink]:
    # A guard on a number that changes smoothly: the slightest change of the number makes a replay take another branch.
    for i in program.code.guards.tolist():
        place = int(program.code.steps[i, 2])
        if varies[place]:
            yield Kink(0.0, i, "guard", "a number that was read", 0, (float(v[place]),))
