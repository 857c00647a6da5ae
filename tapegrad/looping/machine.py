"""A body made ready to be stepped through: its program in the form that is fastest, a workspace, tables of copies."""

from __future__ import annotations

import ctypes
import time
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.looping import loops
from tapegrad.native import choice
from tapegrad.native.steps import Copies
from tapegrad.program import Program
from tapegrad.sweeps import VALUES, callbacks
from tapegrad.tape import operand_error

# A compiled call takes about so long, in seconds: signals are seen in between.
_SECONDS = 0.1
# How many steps of a program that is, as far as is known.
_pace: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
# Where an array stands in the data: for step 0, and how much further for each step after that.
At = tuple[int, int]


class Machine:
    """One program, to be called again and again by compiled code.

    Args:
        program: of a body; its inputs and outputs are numbered.
        count: about how many steps will be taken, by which it is chosen whether machine code is made.
        how: a mode of `native.choice`.
        data: where the arrays of all steps stand.
    """

    def __init__(self, program: Program, count: int, how: str, data: np.ndarray) -> None:
        self.form = choice.form_for_steps(program, count, how)
        self.calls = program.calls
        self.workspace = self.form.take()
        self.values, self.data = self.workspace.values, data
        self.inputs = self.form.code.spans
        self.outputs = [(int(o.place), int(o.layout.size)) for o in self.form.code.outputs]
        self._slow = program.long
        self._find_call()

    def _find_call(self) -> None:
        form, self._keep = self.form, None
        if isinstance(form, Program):
            frame = form.frame(self.workspace, VALUES, -1, None)
            self._words = np.frombuffer(frame.words, np.int64)
            self._address = form.sweeps.sweep.call_address(frame, self.values.dtype)
        else:
            call, self._keep = form.call(self.workspace)
            self._words = np.array(call, np.uint64).view(np.int64)
            self._address = ctypes.cast(form.run, ctypes.c_void_p).value or 0

    def close(self) -> None:
        """Give the workspace back."""
        self.form.give(self.workspace)

    def put(self, number: int, numbers: Any) -> None:
        """Set an input, which stays until it is set again."""
        start, n = self.inputs[number]
        self.values[start : start + n] = numbers

    def get(self, number: int) -> np.ndarray:
        """What stands at an input."""
        start, n = self.inputs[number]
        return self.values[start : start + n]

    def run(
        self, first: int, count: int, by: int, *, before: dict[int, At], carries: Sequence[tuple[int, int]],
        kept: dict[int, At] | None = None, after: dict[int, At] | None = None, sums: dict[int, At] | None = None,
        index: int | None = None, start: int = 0,
    ) -> None:  # fmt: skip
        """Take `count` steps, from number `first` on, each `by` further than the one before.

        Inputs are numbered in `before` and `kept`, outputs in `after` and `sums`. `carries` are pairs of an output and
        the input that it becomes in the next step. The input `index` is `start` plus the number of the step.

        Raises what an instruction of the body raises.
        """
        given = [self._table(self.inputs, before), self._table(self.inputs, kept or {}),
                 self._table(self.outputs, after or {}), self._table(self.outputs, sums or {})]  # fmt: skip
        place = -1 if index is None else self.inputs[index][0]
        own = [(*self.outputs[output], self.inputs[number][0]) for output, number in carries]
        call = self._in_one(given, own, by, place) or self._one_by_one(given, own, by, place)
        at_once = _pace.get(self.form, 1)
        while count:
            n = 1 if self._slow else min(count, at_once)
            started = time.perf_counter()
            failed = call(first, n, start)
            if failed >= 0:
                row = self.form.steps[failed]
                raise callbacks.raised(row[0]) or operand_error(row, self.form.code.side, self.values)
            if self.calls:
                callbacks.check(self.workspace.scratch)
            first, count = first + n * by, count - n
            at_once = min(8 * at_once, max(1, int(n * _SECONDS / max(time.perf_counter() - started, 1e-7))))
        _pace[self.form] = at_once

    def _in_one(self, given: Sequence[np.ndarray], carries: Sequence[Any], by: int, index: int) -> Any:
        """What takes steps, from a number on, so many, with a number added to theirs, in one loop with the program;
        None where the program is called for each."""
        if isinstance(self.form, Program):
            return None
        before, kept, after, sums = (tuple((p, n, stride) for p, n, _, stride in rows.tolist()) for rows in given)
        # Sums stand at the same place for all steps.
        sums = tuple((p, n, 0) for p, n, _ in sums)
        copies = Copies(before, kept, after, sums, tuple(carries), by, index)
        run = self.form.steps_function(copies)
        if run is None:
            return None
        starts = [self.data.ctypes.data + base * self.data.itemsize for rows in given for base in rows[:, 2].tolist()]
        words = np.array([self._words[1], 0, 0, 0, *starts], np.int64)

        def call(first: int, count: int, start: int) -> int:
            words[1:4] = first, count, start
            return int(run(self.values.ctypes.data, words.ctypes.data))

        return call

    def _one_by_one(self, given: Sequence[np.ndarray], carries: Sequence[Any], by: int, index: int) -> Any:
        """The same where each step calls the program."""
        moved, at = np.zeros((len(carries), 4), np.int64), 0
        for j, (place, n, to) in enumerate(carries):
            moved[j] = place, n, to, at
            at += n
        plan = np.zeros(6, np.int64)
        plan[[loops.BY, loops.INDEX, loops.NATIVE]] = by, index, not isinstance(self.form, Program)
        stage = np.empty(at, self.values.dtype)
        frame = loops.rounds.frame(self._address, self._words, plan, *given, moved, self.values, self.data, stage)

        def call(first: int, count: int, start: int) -> int:
            plan[[loops.STEP, loops.COUNT, loops.START]] = first, count, start
            return int(loops.rounds.run(frame, self.values.dtype))

        return call

    @staticmethod
    def _table(spans: Sequence[tuple[int, int]], at: dict[int, At]) -> np.ndarray:
        table = np.zeros((len(at), 4), np.int64)
        for j, (number, (base, stride)) in enumerate(at.items()):
            table[j] = *spans[number], base, stride
        return table
