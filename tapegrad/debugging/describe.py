"""Reports of faults, made of the instructions that the searches have found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tapegrad.debugging.backward import Back, Way, first_fault_back
from tapegrad.debugging.forward import Found, first_fault
from tapegrad.debugging.report import Blame, Numbers
from tapegrad.debugging.steps import step_of
from tapegrad.inspect.listing import statement
from tapegrad.inspect.reading import Reader, shape_of, shown_with
from tapegrad.layout import Layout
from tapegrad.ops import Elementwise
from tapegrad.tape import Instruction, Operand
from tapegrad.tape.lines import Line

_ONE = Layout((), ())
# By how much operands are changed to see whether an infinity is that of a single point, as 1 / 0 is, or goes on.
_NUDGE = 1e-3


class Scene(NamedTuple):
    """A tape or program with the numbers of a replay.

    Attributes:
        reader: its instructions and names.
        lines: the line that recorded an instruction, by the number of its row.
        inputs: the places of arguments.
        of: what it is called.
        calls: the Python functions that it calls, by number.
        nan_only: whether infinities are taken for what they are.
    """

    reader: Reader
    lines: Callable[[int], Line | None]
    inputs: frozenset[int] = frozenset()
    of: str = ""
    calls: dict[int, Any] | None = None
    nan_only: bool = False

    @property
    def values(self) -> np.ndarray:
        """The numbers by place."""
        return self.reader.shown.values


def blame_forward(scene: Scene, places: np.ndarray) -> Blame | None:
    """What has made the numbers at some places NaN or infinite; None where they are neither."""
    shown = scene.reader.shown
    found = first_fault(shown.rows, shown.side, shown.values, places, scene.nan_only)
    return None if found is None else _forward(scene, found)


def _forward(scene: Scene, found: Found) -> Blame:
    reader, values = scene.reader, scene.values
    one, at = reader.instruction(found.row), int(found.at[0])
    number = float(values[one.out + at])
    known = reader.shapes([one]).get(one.row)
    name = reader.name(one.out, one.count)
    if found.given:
        name = f"argument {name}" if one.out in scene.inputs else f"constant {name}"
    by_element = isinstance(one.operation, Elementwise)
    read = [one_of(x, at) if by_element else x for x in one.operands]
    operands = tuple(numbers_of(reader, values, x) for x in read)
    blame = Blame(
        what=_what(number, one, [values[x.places()] for x in read] if by_element else None),
        sweep="forward", given=found.given, name=name, index=index_of(at, one, known), row=one.row,
        operation=one.title, text=statement(reader, one, known), operands=operands,
        result=Numbers(_element(reader, one, at), number), line=scene.lines(found.row), of=scene.of,
    )  # fmt: skip
    call = None if one.is_leaf or not scene.calls or not one.operation.opaque else scene.calls.get(one.params[0])
    step = None if call is None else step_of(call, [values[x.places()] for x in one.operands])
    if step is None:
        return blame
    within = blame_forward(_scene_of(step.body, step.values), step.body.code.output_places)
    return replace(blame, step=step.number, within=within)


def _scene_of(program: Any, values: np.ndarray) -> Scene:
    lines = program.code.lines
    return Scene(Reader(shown_with(program, values)), lines.of if lines else lambda row: None, calls=program.calls)


def blame_back(scene: Scene, way: Way, places: np.ndarray) -> Blame | None:
    """What has made the adjoints at some places NaN or infinite; None where they are neither."""
    found = first_fault_back(way, places)
    return None if found is None else _back(scene, way, found)


def _back(scene: Scene, way: Way, found: Back) -> Blame:
    reader, values = scene.reader, scene.values
    one = reader.instruction(found.row)
    place, added = int(found.places[0]), float(found.added[0])
    at, read = 0, list(one.operands)
    if isinstance(one.operation, Elementwise) and one.count > 1:
        # The element whose operand that is.
        hits = [np.flatnonzero(x.places() == place) for x in one.operands]
        own = np.concatenate([h for h in hits if len(h)])
        at = int(own[np.argmax(way.adjoints[one.out + own] != 0.0)])
        read = [one_of(x, at) for x in one.operands]
    known = reader.shapes([one]).get(one.row)
    adjoints = way.adjoints[one.results]
    by_element = isinstance(one.operation, Elementwise)
    row = reader.row_of(place)
    target = _element(reader, reader.instruction(row), place - reader.instruction(row).out)
    operands, cause = tuple(numbers_of(reader, values, x) for x in read), None
    for x in [*read, Operand(one.out + at, _ONE)]:
        cause = cause or blame_forward(scene, x.places())
    return Blame(
        what="NaN" if math.isnan(added) else "overflow" if found.summed else "infinity",
        sweep="reverse", given=False, name=target, index=index_of(at, one, known) if by_element else (), row=one.row,
        operation=one.title, text=statement(reader, one, known), operands=operands,
        result=Numbers(_element(reader, one, at), float(values[one.out + at])) if by_element
        else Numbers(reader.name(one.out, one.count), values[one.results].copy()),
        adjoint=float(adjoints[at]) if by_element else adjoints.copy(), added=Numbers(target, added),
        line=scene.lines(found.row), cause=cause, of=scene.of,
    )  # fmt: skip


def one_of(operand: Operand, at: int) -> Operand:
    """An element of an operand."""
    return operand if operand.size == 1 else Operand(int(operand.places()[at]), _ONE)


def numbers_of(reader: Reader, values: np.ndarray, operand: Operand) -> Numbers:
    """What an operand is called, and its numbers."""
    found = values[operand.places()]
    name = reader.operand(operand)
    if operand.layout.shape == () or operand.size == 1:
        owner = reader.instruction(reader.row_of(operand.place)) if operand.size else None
        if owner is not None and owner.count == 1 and reader.is_constant(owner):
            name = ""
        elif owner is not None:
            name = _element(reader, owner, operand.place - owner.out)
        return Numbers(name, float(found[0]))
    return Numbers(name, found.reshape(operand.layout.shape))


def _element(reader: Reader, owner: Instruction, at: int) -> str:
    """What an element of a result is called: `x[2]`, or by its slot."""
    if owner.count > 1:
        return reader.operand(Operand(owner.out + at, _ONE))
    return reader.name(owner.out + at)


def index_of(at: int, one: Instruction, known: tuple[int, ...] | None) -> tuple[int, ...]:
    """The index of an element of a result, whose shape may be known; () of a single number."""
    if one.count == 1:
        return ()
    shape = known or shape_of(one) or (one.count,)
    return tuple(int(i) for i in np.unravel_index(at, shape))


def _what(number: float, one: Instruction, operands: list[np.ndarray] | None) -> str:
    if math.isnan(number):
        return "NaN"
    if one.is_leaf or not operands:
        return "infinity"
    return "overflow" if _overflows(one.operation, [x[0] for x in operands]) else "infinity"


def _overflows(operation: Any, numbers: list[np.floating]) -> bool:
    """Whether an infinite result stays infinite where operands are a little different: then it is a number that is too
    large, and no pole."""
    if not np.isfinite(numbers).all():
        return False
    kind = numbers[0].dtype.type
    with np.errstate(all="ignore"):
        for by in (1.0 - _NUDGE, 1.0 + _NUDGE):
            near = [kind(x * by if x else by - 1.0) for x in numbers]
            try:
                # What is finite in float64 may be too large for the tape.
                if np.isfinite(kind(operation.compute(*near))):
                    return False
            except OverflowError:
                continue
            except (TypeError, ValueError, ArithmeticError):
                # Plain Python, which rules are, refuses some operands: a negative one to a power that is not whole.
                return False
    return True
