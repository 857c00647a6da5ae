"""What a recording consists of."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tapegrad.attached import strong
from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import OPCODE
from tapegrad.program import Branches, Code, Program
from tapegrad.recording.compiling import Runs
from tapegrad.tape import LEAF


@dataclass(frozen=True)
class Captured:
    """An array that a function took from around it: a constant of its recording.

    Attributes:
        name: of the variable, where it can be told; "" otherwise.
        shape: of the variable, or (n,) where it cannot be told.
    """

    name: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name or 'an array'} {self.shape}"


@dataclass(frozen=True)
class Loop:
    """A loop that is one instruction.

    Attributes:
        name: what it is called in listings.
        steps: how many steps it takes.
        instructions: how many there are in a step.
        operations: how many of each, by name.
        how: how steps are carried out: "interpreted" or "compiled".
    """

    name: str
    steps: int
    instructions: int
    operations: dict[str, int]
    how: str

    def __str__(self) -> str:
        return f"{self.name}, each of {self.instructions} instructions ({_most(self.operations)}), {self.how}"


@dataclass(frozen=True)
class Stats:
    """How large a recording is; see `Recording.stats`. The counts are those of the branch replayed last.

    Attributes:
        instructions: how many are replayed.
        operations: how many of each, by name; a run over many elements counts once.
        elements: results computed in one replay.
        guards: comparisons that hold a replay to its branch.
        slots: numbers in the arena: inputs, constants and results.
        bytes: its arrays, and the arenas of replays that are over and are kept for the next.
        branches: recordings kept, one for each branch.
        recorded: how often the function was called to record it.
        captured: arrays that the function took from around it. They stay as they were when it was recorded; pass them
            as arguments to have replays read them anew.
        runs: how the value, and each derivative that was asked for, are computed: interpreted or compiled, and why.
        loops: the loops among the instructions.
        values: bytes of the numbers of one replay, which are part of `bytes` once the interpreter has replayed it.
    """

    instructions: int
    operations: dict[str, int]
    elements: int
    guards: int
    slots: int
    bytes: int
    branches: int
    recorded: int
    captured: tuple[Captured, ...] = field(default=())
    runs: tuple[Runs, ...] = field(default=())
    loops: tuple[Loop, ...] = field(default=())
    values: int = 0

    def __str__(self) -> str:
        most = _most(self.operations)
        lines = [
            f"{self.instructions} instructions ({most}), {self.elements} results, {self.guards} guards",
            f"{self.slots} slots, {self.bytes} bytes; {self.branches} branches, recorded {self.recorded} times",
            *map(str, self.loops),
            *map(str, self.runs),
        ]
        if self.captured:
            lines.append(
                "captured, constant in every replay (pass as arguments what is to vary): "
                + ", ".join(_counted(self.captured))
            )
        return "\n".join(lines)


def _most(operations: dict[str, int], most: int = 6) -> str:
    """The operations of which there are most, and how many others there are."""
    names = ", ".join(f"{name} {n}" for name, n in list(operations.items())[:most])
    others = sum(list(operations.values())[most:])
    return f"{names}, others {others}" if others else names


def _counted(captured: Sequence[Captured]) -> list[str]:
    """Captured arrays in words, those that would read alike as one: "an array (3,) 200 times"."""
    return [f"{text} {n} times" if n > 1 else text for text, n in Counter(map(str, captured)).items()]


def stats_of(branches: Branches, runs: tuple[Runs, ...]) -> Stats:
    """The statistics of a function's recordings."""
    code = branches.program.code
    return Stats(
        instructions=len(code.steps),
        operations=_operations(code),
        elements=int(code.counts.sum()),
        guards=len(code.guards),
        slots=code.size,
        bytes=code.nbytes + branches.program.idle_bytes,
        branches=len(branches.programs),
        recorded=branches.recorded,
        captured=tuple(_captured(branches)),
        runs=runs,
        loops=tuple(_loops(branches.program)),
        values=code.size * code.dtype.itemsize,
    )


def _operations(code: Code) -> dict[str, int]:
    return dict(Counter(TABLE[op].name for op in (code.steps[:, OPCODE] % RUN).tolist()).most_common())


def _loops(program: Program) -> Iterator[Loop]:
    for call in program.calls.values():
        # Loops stand beside this package, which knows of them only that they call a body so many times.
        body = getattr(call, "body", None)
        if body is not None:
            own: Program = body.program
            how = "interpreted" if own.native is None else "compiled"
            yield Loop(str(call), call.count, len(own.code.steps), _operations(own.code), how)


def _captured(branches: Branches) -> list[Captured]:
    code = branches.program.code
    leaves = code.rows[code.inputs :]
    names = _around(branches.f)
    found, at = [], 0
    for n in leaves[leaves[:, 0] == LEAF, 3].tolist():
        numbers = code.constants[at : at + n]
        at += n
        if n > 1:
            known = [(name, x.shape) for name, x in names if x.size == n and np.array_equal(x.reshape(-1), numbers)]
            found.append(Captured(*(known[0] if known else ("", (n,)))))
    return found


def _around(f: Any) -> list[tuple[str, np.ndarray]]:
    """The arrays that a function can see by name."""
    try:
        scope = inspect.getclosurevars(inspect.unwrap(strong(f)))
    except (TypeError, ValueError):
        return []
    names = {**scope.globals, **scope.nonlocals}
    return [(name, x) for name, x in names.items() if isinstance(x, np.ndarray) and x.dtype.kind in "fiub"]
