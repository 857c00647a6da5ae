"""The listing as a pandas DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import ExtraMissingError
from tapegrad.inspect.algebra import algebra, call
from tapegrad.inspect.listing import seen
from tapegrad.inspect.reading import Reader
from tapegrad.inspect.recorded import argument_names
from tapegrad.inspect.replays import floats_among
from tapegrad.ops import Elementwise
from tapegrad.recording import Recording
from tapegrad.tape import Instruction, Tape

COLUMNS = (
    "slot", "name", "operation", "formula", "operands", "shape", "value", "adjoint", "file", "line", "source",
)  # fmt: skip


def pandas() -> Any:
    """The module pandas. Raises ExtraMissingError where it is not installed."""
    try:
        import pandas
    except ImportError as error:
        raise ExtraMissingError(
            'a DataFrame needs the pandas package: pip install "tapegrad[pandas]" (print(recording), and print of a '
            "profile, show the same without it)"
        ) from error
    return pandas


def to_dataframe(tape: Tape | Recording, *args: Any, argnums: int | Sequence[int] | None = 0) -> Any:
    """See `Recording.to_dataframe`; of a tape, its instructions as they stand."""
    frame = pandas()
    return frame.DataFrame(_rows(tape, args or None, argnums), columns=list(COLUMNS))


def _rows(tape: Tape | Recording, at: Sequence[Any] | None, argnums: Any) -> list[tuple[Any, ...]]:
    names = argument_names(tape) if isinstance(tape, Recording) else {}
    wrt = None
    if isinstance(tape, Recording) and at is not None:
        wrt = floats_among(tape, argnums)
    shown, where = seen(tape, at, wrt)
    reader = Reader(shown, names)
    instructions = [reader.instruction(row) for row in range(len(reader.code))]
    shapes = reader.shapes(instructions)
    has_adjoints = bool(shown.grads.any())
    found = []
    for i in instructions:
        line = where(i.row)
        operands = tuple(reader.operand(x) for x in i.operands)
        shape = shapes.get(i.row, (i.count,))
        end = i.out + i.count
        computed = not i.is_guard and (i.is_leaf or i.row < shown.evaluated)
        active = has_adjoints and end <= min(len(shown.grads), len(shown.active)) and shown.active[i.out : end].any()
        found.append((
            i.out, reader.name(i.out, i.count), _operation(i, i.out in names), _formula(i, operands), operands, shape,
            _numbers(shown.values, i, shape) if computed else None,
            _numbers(shown.grads, i, shape) if active and not i.is_guard else None,
            line.file if line else None, line.number if line else None, line.source if line else None,
        ))  # fmt: skip
    return found


def _operation(i: Instruction, is_input: bool) -> str:
    return ("input" if is_input else "given") if i.is_leaf else i.title


def _formula(i: Instruction, operands: Sequence[str]) -> str:
    if i.is_leaf:
        return ""
    if i.is_guard:
        return f"{operands[0]} == {operands[1]}"
    return algebra(i.operation, operands) if isinstance(i.operation, Elementwise) else call(i.title, operands)


def _numbers(arena: np.ndarray, i: Instruction, shape: tuple[int, ...]) -> Any:
    numbers = arena[i.results]
    if shape == ():
        return float(numbers[0])
    return numbers.reshape(shape).copy() if np.prod(shape, dtype=int) == i.count else numbers.copy()
