"""What is wrong with a recording at some inputs: the search, and what it needs of a replay."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import matching
from tapegrad.debugging.backward import Way
from tapegrad.debugging.describe import Scene, blame_back, blame_forward
from tapegrad.debugging.report import Blame
from tapegrad.debugging.tangents import blame_along, directions_of
from tapegrad.inspect.reading import Reader, shown_with
from tapegrad.inspect.recorded import argument_names
from tapegrad.inspect.replays import Replay, floats_among, replayed, swept_back
from tapegrad.program import Branches, Program
from tapegrad.tape import lines

# The programs whose lines it was tried to learn, once each.
_tried: weakref.WeakSet[Program] = weakref.WeakSet()


def learn_lines(branches: Branches, program: Program, leaves: Sequence[Any]) -> bool:
    """Have a program know its lines, if it was recorded where none were noted: the function is called once more, and
    where it records the same again, the lines are those of that. Returns whether they are known now, and were not."""
    if program in _tried or (program.lines is not None and (program.lines.which[program.code.inputs :] >= 0).all()):
        return False
    _tried.add(program)
    before = lines.begin([])
    try:
        again = branches.record(leaves)
    except Exception:
        # It was recorded at other inputs, or cannot be called any more. Then the lines stay unknown.
        return False
    finally:
        lines.end([], before)
    own, other = program.code, again.code
    if own.rows.shape != other.rows.shape or not (own.rows[:, :2] == other.rows[:, :2]).all():
        return False
    program.lines = other.lines
    return True


def scene_of(recording: Any, replay: Replay, nan_only: bool = False, name: str | None = None) -> Scene:
    """The numbers of a replay, to be searched."""
    names = argument_names(recording)
    program = replay.program

    def line(row: int) -> Any:
        return None if program.lines is None else program.lines.of(row)

    reader = Reader(shown_with(program, replay.values), names)
    return Scene(reader, line, frozenset(names), name or recording.name, program.calls, nan_only)


def blame(
    recording: Any, *args: Any, argnums: int | Sequence[int] | None = 0, anywhere: bool = False, infinity: bool = True,
    lines: bool = True,
) -> Blame | None:  # fmt: skip
    """See `Recording.blame`."""
    leaves = recording.check(args)
    chosen = floats_among(recording, argnums)
    return blame_at(recording, recording._branches, leaves, chosen, anywhere, infinity, lines)


def blame_at(
    recording: Any, branches: Branches, leaves: Sequence[Any], wrt: tuple[int, ...], anywhere: bool = False,
    infinity: bool = True, lines: bool = True, seeds: Sequence[Any] | None = None, along: Any = False,
    rows: int | None = None,
) -> Blame | None:  # fmt: skip
    """What is wrong first with the results at leaves of arguments, or else with their gradient; or, with `along`, with
    their derivative along that direction, or (None) along those of a Jacobian. `rows` asks for the
    gradients of so many numbers of the results, one by one, as a Jacobian has them."""
    replay = replayed(branches, leaves)
    code, nan_only = replay.program.code, not infinity

    def found() -> Blame | None:
        scene = scene_of(recording, replay, nan_only, branches.name)
        places = np.arange(code.size) if anywhere else code.output_places
        report = blame_forward(scene, places)
        if report is not None or not wrt or not len(code.output_places):
            return report
        if along is not False:
            faults = (blame_along(scene, replay, one, places) for one in directions_of(along, replay, wrt))
            return next((report for report in faults if report is not None), None)
        for one in [seeds] if rows is None else _rows(code, rows):
            back = swept_back(replay, wrt, one)
            way = Way(code.rows, code.side, back.flags, replay.values, back.adjoints, back.active)
            report = blame_back(scene, way, np.arange(code.size) if anywhere else replay.program.places_of(wrt))
            if report is not None:
                return report
        return None

    report = found()
    unknown = report is not None and not report.given and report.line is None
    if unknown and lines and learn_lines(branches, replay.program, leaves):
        report = found()
    return report


def _rows(code: Any, most: int) -> Iterator[Sequence[Any] | None]:
    """The adjoints of the results for all together, where most faults show, and for each of their numbers."""
    yield None
    sizes = [0 if output.place is None else output.layout.size for output in code.outputs]
    for n, i in itertools.islice(((n, i) for n, size in enumerate(sizes) for i in range(size)), most):
        seed = np.zeros(sizes[n], code.dtype)
        seed[i] = 1.0
        yield [seed if k == n else None for k in range(len(sizes))]


def seeds_for(program: Program, cotangent: Any) -> list[Any]:
    """The adjoints of the results that a cotangent gives."""
    shapes = [output.shape for output in program.code.outputs]
    return matching.matching(cotangent, program.structure, shapes, "cotangent", "result")


def all_numbers(result: Any) -> list[Any]:
    """The numbers and arrays of numbers in a result, however nested."""
    found = []
    for leaf in pytree.flatten(result)[0]:
        numbers = getattr(leaf, "data", leaf) if hasattr(leaf, "indptr") else leaf
        if isinstance(numbers, float | np.floating) or (isinstance(numbers, np.ndarray) and numbers.dtype.kind == "f"):
            found.append(numbers)
    return found

