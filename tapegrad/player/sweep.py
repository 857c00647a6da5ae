"""Both sweeps of a recording, an instruction at a time: what each computes, and what it passes on to its operands.

The numbers are those of tapegrad's own compiled sweeps. They are called for one instruction after the other, or for a
stretch of them, on one arena of values and one of adjoints. What an instruction passes to one of its operands alone is
found by sweeping it back once more, on an arena in which nothing else stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.arguments import Input
from tapegrad.ops import RUN, Elementwise, passive_rows
from tapegrad.ops.record import OPCODE, OUT, wants_flag
from tapegrad.program import Program, Workspace
from tapegrad.program.flow import flags_of
from tapegrad.recording import Recording
from tapegrad.sweeps import ADJOINTS, REVERSE, VALUES, callbacks
from tapegrad.tape import Instruction, instruction

# For the sweep of one scalar instruction back: its operands at the first three places, its result at the fourth.
_ALONE = [0, 3, 0, 1, 2]


class Passed(NamedTuple):
    """What an instruction passes back to some of its operands.

    Attributes:
        operands: their numbers: one, or several that read the same numbers and are not told apart.
        places: in the arena, each once.
        amounts: what is added to the adjoint at each of these.
        partial: of an operation on numbers the derivative by the operand; None for one on arrays.
    """

    operands: tuple[int, ...]
    places: np.ndarray
    amounts: np.ndarray
    partial: float | None


class Sweep:
    """A program swept forward at some arguments; then `back` takes instructions back.

    Args:
        recording: what is played.
        args: the arguments; without any, those of the latest replay by the interpreter, or of the recording itself.

    Attributes:
        program: the branch that the arguments take.
        leaves: the leaves of the arguments.
        values, adjoints: the arenas.
        active: for each place, whether an adjoint is wanted there.
        seeds: the places where adjoints begin, and with what.
    """

    def __init__(self, recording: Recording, args: Sequence[Any]) -> None:
        self.program, self.leaves = _opened(recording, args)
        program, code = self.program, self.program.code
        program.prepare(REVERSE)
        self._workspace = Workspace(code, program.shapes, program.leaves)
        self._workspace.fill(self.leaves)
        self.values = self._workspace.values
        self.adjoints = np.zeros_like(self.values)
        self._apart = np.zeros_like(self.values)
        groups = np.zeros(len(code.side), np.uint8)
        self._flags = flags_of(code, groups, code.wanted)
        self._sweep(0, len(code.steps), VALUES, self.adjoints)
        self.active = program.flow(code.steps, program.places_of(code.wanted), passive_rows())[0]
        places = code.output_places
        self.seeds = np.unique(places[self.active[places] != 0], return_counts=True)
        np.add.at(self.adjoints, *self.seeds)

    def _sweep(self, start: int, stop: int, tasks: int, adjoints: np.ndarray, flags: np.ndarray | None = None) -> None:
        program, room = self.program, self._workspace.scratch
        given = program.code.steps[start:stop], program.code.side, self._flags if flags is None else flags
        frame = program.sweeps.frame(*given, self.values, adjoints, room, -1, tasks, is_short=not program.long)
        failed = program.sweeps.run(frame)
        # The branch fits, so no guard fails, and what else can was computed before.
        assert failed < 0, f"instruction {start + failed} failed, which a replay has computed"
        callbacks.check(room)

    def back(self, start: int, stop: int) -> None:
        """Take the steps from one up to another back, last first."""
        self._sweep(start, stop, ADJOINTS, self.adjoints)

    def passed(self, step: Instruction) -> list[Passed]:
        """What a step is about to pass to its operands, given the adjoint of its result; `row` is its number among the
        steps. Operands that no gradient is wanted of are left out."""
        if not self.active[step.results].any():
            return []
        wanted = [
            j for j, x in enumerate(step.operands) if x.size and self.active[x.places()].any()
        ]
        if self.program.code.steps[step.row, OPCODE] < RUN:
            return self._passed_by_number(step, wanted)
        if isinstance(step.operation, Elementwise):
            found = [self._passed_by_array(step, (j,)) for j in wanted]
        else:
            found = [self._passed_by_array(step, group) for group in _overlapping(step, wanted)]
        self._apart[step.results] = 0.0
        return found

    def _passed_by_number(self, step: Instruction, wanted: Sequence[int]) -> list[Passed]:
        amounts = self._alone(step, float(self.adjoints[step.out]))
        partials = self._alone(step, 1.0)
        return [
            Passed((j,), np.array([step.operands[j].place]), amounts[j : j + 1], float(partials[j])) for j in wanted
        ]

    def _alone(self, step: Instruction, adjoint: float) -> np.ndarray:
        """What a scalar step passes to each of its operands for some adjoint of its result."""
        program, row = self.program, self.program.code.steps[step.row]
        code = np.array([[row[OPCODE], *_ALONE[1:]]], np.uint32)
        values = np.array([*self.values[row[2:].astype(np.int64)], self.values[row[OUT]], 0.0], self.values.dtype)
        adjoints = np.zeros_like(values)
        adjoints[3] = adjoint
        side, flags = np.zeros(1, np.int64), np.zeros(1, np.uint8)
        frame = program.sweeps.frame(
            code, side, flags, values, adjoints, self._workspace.scratch, -1, ADJOINTS, is_short=True
        )
        program.sweeps.run(frame)
        return adjoints[: max(step.operation.arity, 0)]

    def _passed_by_array(self, step: Instruction, operands: tuple[int, ...]) -> Passed:
        places = _once(np.concatenate([step.operands[j].places() for j in operands]))
        apart = self._apart
        k = int(self.program.code.steps[step.row, 2])
        flags = self._flags
        if isinstance(step.operation, Elementwise):
            # Only this operand is wanted.
            flags = flags.copy()
            for j in range(len(step.operands)):
                flags[wants_flag(k, j)] = j in operands
        for x in step.operands:
            apart[x.places()] = 0.0
        apart[step.results] = self.adjoints[step.results]
        self._sweep(step.row, step.row + 1, ADJOINTS, apart, flags)
        return Passed(operands, places, apart[places].copy(), None)


def step_at(program: Program, step: int) -> Instruction:
    """One of the steps of a program, taken apart."""
    return instruction(program.code.steps, program.code.side, step)


def _once(places: np.ndarray) -> np.ndarray:
    """Places, each once and ascending. Marks in the arena are twenty times as fast as `np.unique`."""
    low = int(places.min())
    mark = np.zeros(int(places.max()) + 1 - low, bool)
    mark[places - low] = True
    return np.flatnonzero(mark) + low


def _overlapping(step: Instruction, wanted: Sequence[int]) -> list[tuple[int, ...]]:
    """Operands, those together that share places."""
    groups: list[tuple[tuple[int, ...], np.ndarray]] = []
    for j in wanted:
        members: tuple[int, ...] = (j,)
        own = step.operands[j].places()
        apart = []
        for others, places in groups:
            if own.max() < places.min() or places.max() < own.min() or not np.isin(own, places).any():
                apart.append((others, places))
            else:
                members, own = others + members, _once(np.concatenate([own, places]))
        groups = [*apart, (members, own)]
    return sorted(members for members, _ in groups)


def _opened(recording: Recording, args: Sequence[Any]) -> tuple[Program, list[Any]]:
    """The program that fits, and the leaves of the arguments."""
    if args:
        leaves = list(recording.check(args))
    else:
        workspace = recording.program.latest()
        leaves = [getattr(leaf, "value", None) for leaf in recording.spec.leaves]
        for window, i in workspace.feeds:
            own = recording.spec.leaves[i]
            assert isinstance(own, Input)
            leaves[i] = window[()].astype(own.dtype) if window.shape else own.dtype.type(window[()])
    return recording._branches.fitting(leaves, always=True), leaves
