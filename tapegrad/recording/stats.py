"""What a recording consists of."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tapegrad.attached import strong
from tapegrad.ops import RUN, TABLE
from tapegrad.program import Branches
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
        runs: how the value, and each derivative that was asked for, are computed: interpreted or compiled.
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

    def __str__(self) -> str:
        most = ", ".join(f"{name} {n}" for name, n in list(self.operations.items())[:6])
        lines = [
            f"{self.instructions} instructions ({most}), {self.elements} results, {self.guards} guards",
            f"{self.slots} slots, {self.bytes} bytes; {self.branches} branches, recorded {self.recorded} times",
            *map(str, self.runs),
        ]
        if self.captured:
            lines.append(
                "captured, constant in every replay (pass as arguments what is to vary): "
                + ", ".join(_counted(self.captured))
            )
        return "\n".join(lines)


def _counted(captured: Sequence[Captured]) -> list[str]:
    """Captured arrays in words, those that would read alike as one: "an array (3,) 200 times"."""
    return [f"{text} {n} times" if n > 1 else text for text, n in Counter(map(str, captured)).items()]


def stats_of(branches: Branches, runs: tuple[Runs, ...]) -> Stats:
    """The statistics of a function's recordings."""
    code = branches.program.code
    names = Counter(TABLE[op].name for op in (code.steps[:, 0] % RUN).tolist())
    return Stats(
        instructions=len(code.steps),
        operations=dict(names.most_common()),
        elements=int(code.counts.sum()),
        guards=len(code.guards),
        slots=code.size,
        bytes=code.nbytes + branches.program.idle_bytes,
        branches=len(branches.programs),
        recorded=branches.recorded,
        captured=tuple(_captured(branches)),
        runs=runs,
    )


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
