"""Which of the user's lines each instruction comes from: the function is called once more, and watched line by line."""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.evaluation import called
from tapegrad.arguments import Input
from tapegrad.names import replaced
from tapegrad.ops.record import COLUMNS, OPCODE
from tapegrad.program import Program
from tapegrad.recording import Recording
from tapegrad.tape import LEAF, Tape, recording_on
from tapegrad.tape.collect import needed_for
from tapegrad.value import Value, as_value, put_integer
from tapegrad.value import leaf as put_leaf

Line = tuple[str, int]

# Code that is not the user's.
_LIBRARIES = (
    str(Path(__file__).parents[1]) + os.sep, sysconfig.get_path("stdlib") + os.sep,
    sysconfig.get_path("purelib") + os.sep, sysconfig.get_path("platlib") + os.sep, "<frozen",
)  # fmt: skip


class _Watch:
    """Notes, for each of the user's lines that is begun or returned to, how many instructions there were."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.counts: list[int] = []
        self.lines: list[Line] = []

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_filename.startswith(_LIBRARIES):
            return None
        if event == "return":
            # What called it goes on in its own line. There may be code of libraries between.
            frame = frame.f_back
            while frame is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
                frame = frame.f_back
        if frame is not None and event in ("line", "return"):
            self.counts.append(self.tape.length + len(self.tape._buffer) // COLUMNS)
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
        return self

    def at(self, instruction: int) -> Line | None:
        """The line that was being executed when an instruction was recorded."""
        found = bisect_right(self.counts, instruction) - 1
        return self.lines[found] if found >= 0 else None


def lines_of(recording: Recording, program: Program, leaves: Sequence[Any]) -> dict[int, Line]:
    """The file and line of each step of a program, by its number; none where they cannot be told.

    They cannot where the function records something else when it is called again, where it raises, and where what was
    recorded of it was simplified, as derivatives within it are.
    """
    try:
        tape, watch, outputs = _recorded(recording, program, leaves)
    except Exception:
        return {}
    values = [x for x in outputs if isinstance(x, Value) and x.size]
    if tape.derived or tape.too_narrow or any(x._tape is not tape for x in values):
        return {}
    spans = []
    for x in values:
        low, high = x._layout_or_scalar().reach
        spans.append((tape.locate(x._slot) + low, tape.locate(x._slot) + high))
    rows = needed_for(tape, spans)
    rows = rows[tape.code[rows, OPCODE] != LEAF]
    if not np.array_equal(tape.code[rows, OPCODE], program.code.steps[:, OPCODE]):
        return {}
    found = {step: watch.at(row) for step, row in enumerate(rows.tolist())}
    return {step: line for step, line in found.items() if line is not None and linecache.getline(*line)}


def _recorded(recording: Recording, program: Program, leaves: Sequence[Any]) -> tuple[Tape, _Watch, list[Any]]:
    tape = Tape(program.code.dtype, recording=True)
    watch = _Watch(tape)
    with recording_on(tape):
        arguments: list[Any] = []
        for x, leaf in zip(leaves, recording.spec.leaves, strict=True):
            if not isinstance(leaf, Input):
                arguments.append(x)
            elif leaf.is_integer:
                arguments.append(put_integer(tape, int(x)))
            else:
                arguments.append(put_leaf(tape, np.asarray(x), True))
        nested = pytree.unflatten(recording.spec.structure, arguments)
        before = sys.gettrace()
        try:
            with replaced():
                sys.settrace(watch)
                result = called(recording.f, *nested)
        finally:
            sys.settrace(before)
        outputs = [
            as_value(x, tape, "result") if isinstance(x, np.ndarray) and x.dtype == object else x
            for x in pytree.flatten(result)[0]
        ]
        tape.flush()
    return tape, watch, outputs
