"""Where two replays of a recording part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.debugging.describe import index_of, numbers_of, one_of
from tapegrad.debugging.recordings import learn_lines, scene_of
from tapegrad.debugging.report import Numbers, written
from tapegrad.errors import OperationError, StructureError
from tapegrad.inspect.listing import statement
from tapegrad.inspect.replays import replayed
from tapegrad.ops import Elementwise
from tapegrad.tape import EXPECT
from tapegrad.tape.lines import Line


@dataclass(frozen=True)
class Parting:
    """The first instruction whose result differs between two replays; `print` says it in a few lines.

    Attributes:
        row: the number of the instruction in the listing.
        operation: the name of the operation.
        text: the instruction in algebra.
        index: which element differs first; () for a single number.
        first, second: the number there in either replay.
        operands: what the instruction reads, in either replay: pairs. None where the replays take other branches.
        line: the line of the user's code, None where it was not noted.
        branches: whether the replays take different branches from there on: the instruction is the guard that parts
            them, and the numbers are what it finds.
        of: the name of the function.
    """

    row: int
    operation: str
    text: str
    index: tuple[int, ...]
    first: float
    second: float
    operands: tuple[tuple[Numbers, Numbers], ...]
    line: Line | None
    branches: bool
    of: str

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        at = f" at {list(self.index)}" if self.index else ""
        what = "the replays take different branches" if self.branches else f"the replays part{at}"
        yield f"{what} at instruction {self.row} of {self.of}: {self.text}"
        if self.line is not None:
            yield f"  line      {self.line}"
        yield f"  results   {self.first!r} and {self.second!r}"
        for n, (one, other) in enumerate(self.operands):
            name = one.name or "a constant"
            yield f"  {'' if n else 'operands':<9} {name} = {written(one.numbers)} and {written(other.numbers)}"


def diff(recording: Any, x1: Any, x2: Any, tolerance: float = 1e-9) -> Parting | None:
    """See `Recording.diff`."""
    if not isinstance(tolerance, int | float | np.number) or not tolerance >= 0.0:
        raise OperationError(f"tolerance must be a number from 0 on, not {tolerance!r}")
    given = [recording.check(_arguments(recording, x, what)) for x, what in ((x1, "first"), (x2, "second"))]
    branches = recording._branches
    first, second = (replayed(branches, leaves) for leaves in given)
    scenes = [scene_of(recording, replay) for replay in (first, second)]
    code = first.program.code
    if first.program is not second.program:
        return _other_branch(recording, scenes[0], first, second)
    a, b = (x[: code.size] for x in (first.values, second.values))
    with np.errstate(all="ignore"):
        # Two infinities of one sign have no difference, and differ from nothing.
        apart = np.abs(a - b) > tolerance * np.maximum(1.0, np.maximum(np.abs(a), np.abs(b)))
        apart |= (np.isinf(a) | np.isinf(b)) & (a != b)
    apart = np.where(np.isnan(a) | np.isnan(b), np.isnan(a) != np.isnan(b), apart)
    computed = np.zeros(code.size, bool)
    for out, n in zip(code.steps[:, 1].tolist(), code.counts.tolist(), strict=True):
        computed[out : out + n] = True
    found = np.flatnonzero(apart & computed)
    if not len(found):
        return None
    learn_lines(branches, first.program, given[0])
    place = int(found[0])
    reader = scenes[0].reader
    one = reader.instruction(reader.row_of(place))
    at, shapes = place - one.out, reader.shapes([one]).get(one.row)
    read = [one_of(x, at) for x in one.operands] if isinstance(one.operation, Elementwise) else list(one.operands)
    return Parting(
        one.row, one.title, statement(reader, one, shapes), index_of(at, one, shapes), float(a[place]),
        float(b[place]), tuple((numbers_of(reader, a, x), numbers_of(reader, b, x)) for x in read),
        scenes[0].lines(one.row), False, recording.name,
    )  # fmt: skip


def _arguments(recording: Any, x: Any, what: str) -> Sequence[Any]:
    count = len(pytree.children(recording.spec.structure))
    if count == 1:
        return (x,)
    if not np.iterable(x):
        raise StructureError(
            f"{recording.name} has {count} arguments: the {what} input of diff must be a tuple of them, "
            f"not {type(x).__name__}"
        )
    return tuple(x)


def _other_branch(recording: Any, scene: Any, first: Any, second: Any) -> Parting | None:
    """The guard at which the programs of two branches part."""
    size = first.program.code.dtype.itemsize
    own, other = (
        np.frombuffer(replay.program.signature, replay.program.code.dtype) for replay in (first, second)
    )  # fmt: skip
    n = min(len(own), len(other))
    same = np.frombuffer(first.program.signature[: n * size], np.uint8) == np.frombuffer(
        second.program.signature[: n * size], np.uint8
    )
    parted = np.flatnonzero(~same.reshape(n, size).all(axis=1))
    if not len(parted):
        return None
    guard = int(parted[0])
    reader = scene.reader
    rows = np.flatnonzero(reader.code[:, 0] == EXPECT)
    one = reader.instruction(int(rows[guard]))
    read = first.program.reads[guard] if guard < len(first.program.reads) else None
    line = scene.lines(one.row) or (None if read is None else Line(read[0], read[1], recording.name))
    return Parting(
        one.row, one.title, statement(reader, one), (), float(own[guard]), float(other[guard]), (), line, True,
        recording.name,
    )  # fmt: skip
