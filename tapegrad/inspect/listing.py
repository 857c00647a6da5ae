"""The tape as a table to read: one instruction a line, in algebra, with its value and gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad.errors import OperationError, StructureError
from tapegrad.inspect.algebra import algebra, call
from tapegrad.inspect.reading import Reader, Shape, Shown, program_shown, shown_with, tape_shown
from tapegrad.inspect.recorded import argument_names, returned
from tapegrad.inspect.replays import replayed, swept_back
from tapegrad.inspect.text import brief, shape_text, spelled, whole_number
from tapegrad.ops import Elementwise
from tapegrad.ops.record import OUT
from tapegrad.recording import Recording
from tapegrad.tape import Instruction, Tape
from tapegrad.tape.lines import Line, notes_of

# Columns are not made wider than this; a longer entry sticks out.
_WIDEST = 64


def listing(
    tape: Tape | Recording, start: int = 0, stop: int | None = None, limit: int | None = 100, *,
    at: Sequence[Any] | None = None,
) -> str:  # fmt: skip
    """The instructions of a tape or a recording as text, one a line: number, algebra, shape, value, gradient, line.

    A number on the tape is written as its label or as `v` and its slot, an array as its label or `v[first:end]`,
    a constant as itself. Values that have not been computed yet are left blank; nothing is computed for the
    listing. Gradients, marked ∂, are there once `backward` or a gradient of the recording has filled them. Where lines
    of source were noted, because it was recorded within `tapegrad.debug`, each instruction ends with its own.

    Of a recording the numbers are those of the replay that the interpreter did last. With `at` they are those of a
    replay at arguments, whether or not the recording is compiled; the gradient is that of the sum of its results.

    Args:
        tape: a tape, or a recording: its inputs are then called as the function calls its arguments.
        start, stop: the instructions to list, as in a slice.
        limit: of more than this many, those in the middle are left out; None lists all.
        at: of a recording, arguments to replay it at.

    Raises ThreadError for a tape of another thread that has instructions not yet written down, OperationError for
    arguments of a tape, or where a bound is no whole number, StructureError for what is neither a tape nor a recording
    and for arguments that are no sequence, and what a replay at arguments raises.

    >>> import tapegrad as tg
    >>> print(listing(tg.record(lambda x, y: x * y + x, 2.0, -3.0)))
    tape of 4 instructions, 4 slots, float64
      0  x input           2.0
      1  y input          -3.0
      2  v2 = x * y       -6.0
      3  v3 = v2 + x      -4.0
    returns v3
    """
    given: Any = tape
    if not isinstance(given, Tape | Recording):
        hint = "; the tape of this thread is tapegrad.current_tape()" if hasattr(given, "backward") else ""
        raise StructureError(f"listing takes a tape or a recording, not {type(given).__name__}{hint}")
    for what, bound in (("start", start), ("stop", stop), ("limit", limit)):
        if bound is not None:
            whole_number(bound, what)
    recording = tape if isinstance(tape, Recording) else None
    names = argument_names(recording) if recording else {}
    shown, line = seen(tape, at)
    reader = Reader(shown, names)
    length = len(reader.code)
    if length == 0:
        return f"an empty tape, {shown.dtype}"
    rows = range(length)[start:stop]
    kept = len(rows) if limit is None else max(limit, 1)
    head, tail = rows, rows[:0]
    if len(rows) > kept:
        head, tail = rows[: (kept + 1) // 2], rows[len(rows) - kept // 2 :]
    lines = list(_table(reader, [*head, *tail], shown.grads, names, line))
    left_out = len(rows) - len(head) - len(tail)
    if left_out:
        note = f"...  {_count(left_out, 'instruction')} left out; listing(tape, start, stop, limit) shows more"
        lines.insert(len(head), note)
    lines.insert(0, f"tape of {_count(length, 'instruction')}, {_count(shown.slots, 'slot')}, {shown.dtype}")
    if recording:
        lines.append(returned(reader, recording))
    return "\n".join(lines)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("s" if n != 1 else "")


def seen(
    tape: Tape | Recording, at: Sequence[Any] | None = None, wrt: tuple[int, ...] | None = None
) -> tuple[Shown, Callable[[int], Line | None]]:
    """The arrays to be shown, of a replay at arguments or of the last one; and what finds the line of an instruction.

    Adjoints at arguments are those by the inputs in `wrt`; by all that are differentiated where it is None.
    Raises OperationError for arguments of a tape.
    """
    if not isinstance(tape, Recording | Tape):
        raise StructureError(f"a Tape or a Recording can be read, not {tape!r:.60} ({type(tape).__name__})")
    if isinstance(tape, Recording):
        program = tape.program
        if at is not None and not np.iterable(at):
            raise StructureError(f"at must be a tuple of the arguments, such as at=(x,), not {type(at).__name__}")
        if at is None:
            shown = program_shown(program)
        else:
            replay = replayed(tape._branches, tape.check(tuple(at)))
            program = replay.program
            wrt = program.code.wanted if wrt is None else wrt
            shown = shown_with(program, replay.values, swept_back(replay, wrt).adjoints if wrt else None)
        return shown, lambda row: None if program.lines is None else program.lines.of(row)
    if at is not None:
        raise OperationError("a tape has no arguments to be replayed at: only recordings have")
    shown, notes = tape_shown(tape), notes_of(tape)
    slots = tape.addresses.slots_of(shown.rows[:, OUT].astype(np.int64))
    return shown, lambda row: None if notes is None else notes.at(int(slots[row]))


def _table(
    reader: Reader, rows: list[int], grads: np.ndarray, inputs: Mapping[int, str], where: Callable[[int], Line | None]
) -> Iterator[str]:
    instructions = [reader.instruction(row) for row in rows]
    shapes = reader.shapes(instructions)
    with_grads = grads.any()
    table = []
    for i in instructions:
        what = "input" if i.count and i.out in inputs else "given"
        value = _value(reader, i)
        grad = _grad(reader, i, grads) if with_grads else ""
        line = where(i.row)
        source = f"# {Path(line.file).name}:{line.number}" if line else ""
        table.append((str(i.row), statement(reader, i, shapes.get(i.row), what), value, grad, source))
    widths = [min(max((len(line[column]) for line in table), default=0), _WIDEST) for column in range(4)]
    for row, text, value, grad, source in table:
        # Single numbers are aligned at the right, arrays at the left.
        value = value if value.startswith("[") else f"{value:>9}"
        found = f"{row:>{max(widths[0], 3)}}  {text:<{widths[1]}}  {value:<{max(widths[2], 9 if source else 0)}}"
        if source:
            grad = f"∂ {grad}" if grad else ""
            yield f"{found}  {grad:<{widths[3] + 2 if widths[3] else 0}}  {source}"
        else:
            yield (found + (f"  ∂ {grad}" if grad else "")).rstrip()


def statement(reader: Reader, i: Instruction, shape: Shape | None = None, leaf: str = "given") -> str:
    """An instruction in algebra: `v12 = a * b`."""
    name = reader.name(i.out, i.count)
    size = "" if i.count == 1 and not shape else f"  {shape_text(shape or (i.count,))}"
    if i.is_leaf:
        return f"{name} {'constant' if reader.is_constant(i) and leaf == 'given' else leaf}{size}"
    operands = [reader.operand(x) for x in i.operands]
    if i.is_guard:
        return f"expect {operands[0]} == {operands[1]}"
    if isinstance(i.operation, Elementwise):
        return f"{name} = {algebra(i.operation, operands)}{size}"
    note = i.note
    return f"{name} = {call(i.title, operands)}" + (f"  {note}" if note else size)


def _value(reader: Reader, i: Instruction) -> str:
    if i.is_guard or not (i.is_leaf or i.row < reader.shown.evaluated):
        return ""
    return _numbers(reader.shown.values, i)


def _grad(reader: Reader, i: Instruction, grads: np.ndarray) -> str:
    active = reader.shown.active
    end = i.out + i.count
    if i.is_guard or end > min(len(grads), len(active)) or not active[i.out : end].any():
        return ""
    return _numbers(grads, i)


def _numbers(arena: np.ndarray, i: Instruction) -> str:
    numbers = arena[i.out : i.out + i.count]
    return spelled(numbers[0]) if i.count == 1 else brief(numbers, spelled, edge=2)
