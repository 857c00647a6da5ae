"""What takes the time of a replay: instructions of one operation on one line, swept by themselves.

A timer around every instruction would measure the timer. So all instructions of a kind are put together and swept in
one compiled call, over the numbers that a replay has left: each reads what it read there, and computes it again. What
is lost is what instructions are to each other: that one waits for the one before, that runs are swept block by block
together, or find a number in the cache. A whole sweep is measured as well, so that this difference can be seen.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import OperationError
from tapegrad.inspect.chart import Bar, Chart, chart
from tapegrad.inspect.frame import pandas
from tapegrad.inspect.replays import Replay, floats_among, replayed
from tapegrad.ops.record import OUT
from tapegrad.program.flow import flags_of
from tapegrad.recording import Recording
from tapegrad.sweeps import ADJOINTS, REVERSE, VALUES, callbacks, scratch
from tapegrad.tape import instruction
from tapegrad.tape.lines import Line

# A measurement takes at least so many seconds, in which a sweep is repeated.
_SECONDS = 2e-4
_MOST_SWEEPS = 200


@dataclass(frozen=True)
class Part:
    """What the instructions of one operation on one line take.

    Attributes:
        operation: its name.
        line: the line of the user's code; None where it was not noted.
        instructions: how many there are.
        elements: how many numbers they compute.
        forward: what they take in a replay, in seconds.
        reverse: what they take on the way back, in seconds; 0 where that was not measured.
    """

    operation: str
    line: Line | None
    instructions: int
    elements: int
    forward: float
    reverse: float

    @property
    def seconds(self) -> float:
        """Both ways."""
        return self.forward + self.reverse


@dataclass(frozen=True)
class Profile:
    """What takes the time of a replay; `print` shows tables, `draw` a picture. See `Recording.profile`.

    Attributes:
        of: the name of the function.
        parts: what instructions take, the longest first.
        forward, reverse: what a whole sweep takes, in seconds.
        repeat: how often each was measured; the medians are told.
    """

    of: str
    parts: tuple[Part, ...]
    forward: float
    reverse: float
    repeat: int

    def by_operation(self) -> dict[str, Part]:
        """What each operation takes on all lines together, by its name, the longest first."""
        return self._together(lambda part: part.operation)

    def by_line(self) -> dict[str, Part]:
        """What each line takes with all its operations, by file and number ("" where lines are not known)."""
        return self._together(lambda part: f"{part.line.file}:{part.line.number}" if part.line else "")

    def _together(self, key: Callable[[Part], str]) -> dict[str, Part]:
        kinds: dict[str, list[Part]] = {}
        for part in self.parts:
            kinds.setdefault(key(part), []).append(part)
        found = {}
        for name, parts in kinds.items():
            operations = dict.fromkeys(part.operation for part in parts)
            found[name] = Part(
                ", ".join(operations), parts[0].line if len({p.line and p.line[:2] for p in parts}) == 1 else None,
                sum(p.instructions for p in parts), sum(p.elements for p in parts), sum(p.forward for p in parts),
                sum(p.reverse for p in parts),
            )  # fmt: skip
        return dict(sorted(found.items(), key=lambda item: -item[1].seconds))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        back = f", back {_time(self.reverse)}" if self.reverse else ""
        parts = sum(part.seconds for part in self.parts)
        yield f"{self.of}, interpreted: forward {_time(self.forward)}{back} (medians of {self.repeat})"
        yield f"instructions by themselves take {_time(parts)}:"
        yield ""
        head = f"{'forward':>10} {'back':>10} {'share':>6} {'instructions':>12} {'elements':>10}"
        tables = [("operation", self.by_operation())]
        if any(part.line for part in self.parts):
            tables.append(("line", self.by_line()))
        for n, (title, table) in enumerate(tables):
            if n:
                yield ""
            yield f"{head}  {title}"
            for name, part in table.items():
                if title == "line":
                    name = f"{Path(name).name}  {part.line.source}" if part.line else "no line"
                yield (
                    f"{_time(part.forward):>10} {_time(part.reverse):>10} {part.seconds / max(parts, 1e-12):>6.0%} "
                    f"{part.instructions:>12,} {part.elements:>10,}  {name}"
                )

    def to_dataframe(self) -> Any:
        """The parts as a pandas DataFrame. Raises ExtraMissingError without pandas."""
        rows = [
            (p.operation, p.line.file if p.line else None, p.line.number if p.line else None,
             p.line.source if p.line else None, p.instructions, p.elements, p.forward, p.reverse)
            for p in self.parts
        ]  # fmt: skip
        names = ["operation", "file", "line", "source", "instructions", "elements", "forward", "reverse"]
        return pandas().DataFrame(rows, columns=names)

    def draw(self, by: str = "operation", most: int = 20) -> Chart:
        """Bars for what each operation takes, or with `by="line"` each line; the `most` longest, and all others as one.

        Notebooks show it by itself; `.save("profile.svg")` keeps it. Raises OperationError for another `by`.
        """
        if by not in ("operation", "line"):
            raise OperationError(f"by must be 'operation' or 'line', not {by!r}")
        table = list((self.by_operation() if by == "operation" else self.by_line()).items())
        bars = [Bar(self._named(by, name, part), (part.forward, part.reverse)) for name, part in table[:most]]
        if rest := table[most:]:
            sums = sum(p.forward for _, p in rest), sum(p.reverse for _, p in rest)
            bars.append(Bar(f"{len(rest)} others", sums))
        kinds = ("forward", "back") if self.reverse else ("forward",)
        return chart(f"{self.of}: time by {by}, interpreted", bars, kinds, _time)

    @staticmethod
    def _named(by: str, name: str, part: Part) -> str:
        if by == "operation" or part.line is None:
            return name or "no line"
        return f"{Path(part.line.file).name}:{part.line.number}  {part.line.source}"


def profile(recording: Recording, *args: Any, argnums: int | Sequence[int] | None = 0, repeat: int = 7) -> Profile:
    """See `Recording.profile`."""
    if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
        raise OperationError(f"repeat must be a whole number from 1 on, not {repeat!r}")
    leaves = recording.check(args)
    wrt = floats_among(recording, argnums)
    replay = replayed(recording._branches, leaves)
    sweep = _Sweep(replay, wrt)
    kinds = _kinds(replay)
    forward: list[list[float]] = [[] for _ in kinds]
    reverse: list[list[float]] = [[] for _ in kinds]
    whole: list[list[float]] = [[], []]
    # Round after round, so that what disturbs the machine for a while meets all kinds alike.
    for _ in range(repeat):
        nothing = sweep.seconds(replay.program.steps[:0], VALUES)
        for n, kind in enumerate(kinds):
            forward[n].append(max(0.0, sweep.seconds(kind.steps, VALUES) - nothing))
            if wrt:
                reverse[n].append(max(0.0, sweep.seconds(kind.steps, ADJOINTS) - nothing))
        whole[0].append(sweep.seconds(None, VALUES))
        if wrt:
            whole[1].append(sweep.seconds(None, ADJOINTS))
    parts = [
        Part(k.operation, k.line, k.instructions, k.elements, *(statistics.median(x) if x else 0.0 for x in measured))
        for k, measured in zip(kinds, zip(forward, reverse, strict=True), strict=True)
    ]
    parts.sort(key=lambda part: -part.seconds)
    there, back = (statistics.median(x) if x else 0.0 for x in whole)
    return Profile(recording.name, tuple(parts), there, back, repeat)


class _Kind(NamedTuple):
    """The instructions of one operation on one line, and the steps that carry them out."""

    operation: str
    line: Line | None
    instructions: int
    elements: int
    steps: np.ndarray


def _kinds(replay: Replay) -> list[_Kind]:
    program, code = replay.program, replay.program.code
    # Short runs are carried out as scalar instructions, each of which belongs to the row that has its place.
    owner = np.searchsorted(code.rows[:, OUT], program.steps[:, OUT], "right") - 1
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(len(code.rows) + 1))
    rows: dict[tuple[str, Line | None], list[int]] = {}
    for row in np.unique(owner).tolist():
        title = instruction(code.rows, code.side, row).title
        line = None if program.lines is None else program.lines.of(row)
        rows.setdefault((title, line), []).append(row)
    counts = np.diff(np.append(code.rows[:, OUT].astype(np.int64), code.size))
    found = []
    for (title, line), own in rows.items():
        steps = np.sort(np.concatenate([order[first[row] : first[row + 1]] for row in own]))
        found.append(_Kind(title, line, len(own), int(counts[own].sum()), np.ascontiguousarray(program.steps[steps])))
    return found


class _Sweep:
    """Sweeps over the numbers of a replay, and how long they take."""

    def __init__(self, replay: Replay, wrt: tuple[int, ...]) -> None:
        self.program, self.values = replay
        code, self._room = self.program.code, scratch(replay.values.dtype)
        alone = np.zeros(len(code.side), np.uint8)
        self._flags = flags_of(code, alone, wrt) if wrt else alone
        self._together = self.program.flags(wrt) if wrt else self.program._groups
        self._seeds = np.zeros_like(self.values)
        np.add.at(self._seeds, code.output_places, 1.0)
        self.adjoints = self._seeds.copy()
        self._after = self._seeds
        if wrt:
            self.program.prepare(REVERSE)
            self._call(self.program.steps, self._together, ADJOINTS)()
            self._after = self.adjoints.copy()

    def _call(self, steps: np.ndarray, flags: np.ndarray, tasks: int) -> Callable[[], None]:
        sweeps, side = self.program.sweeps, self.program.code.side
        frame = sweeps.frame(steps, side, flags, self.values, self.adjoints, self._room, -1, tasks)

        def call() -> None:
            sweeps.run(frame)
            callbacks.check(self._room)

        return call

    def seconds(self, steps: np.ndarray | None, tasks: int) -> float:
        """What a sweep over some steps takes; over all of them, together as they are in a replay, where it is None."""
        before = self._seeds if steps is None else self._after
        call = self._call(self.program.steps, self._together, tasks) if steps is None else self._call(
            steps, self._flags, tasks
        )
        spent, count = 0.0, 0
        while spent < _SECONDS and count < _MOST_SWEEPS:
            if tasks == ADJOINTS:
                # The way back adds to what is there.
                np.copyto(self.adjoints, before)
            start = time.perf_counter()
            call()
            spent += time.perf_counter() - start
            count += 1
        return spent / count


def _time(seconds: float) -> str:
    """A time in three digits.

    >>> [_time(x) for x in (2.5e-8, 3.14159e-4, 0.02, 1.5)]
    ['25 ns', '314 us', '20 ms', '1.5 s']
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
