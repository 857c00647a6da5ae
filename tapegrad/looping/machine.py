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
        moved, at = np.zeros((len(carries), 4), np.int64), 0
        for j, (output, number) in enumerate(carries):
            place, n = self.outputs[output]
            moved[j] = place, n, self.inputs[number][0], at
            at += n
        plan = np.zeros(6, np.int64)
        plan[[loops.STEP, loops.BY, loops.START]] = first, by, start
        plan[loops.INDEX] = -1 if index is None else self.inputs[index][0]
        plan[loops.NATIVE] = not isinstance(self.form, Program)
        stage = np.empty(at, self.values.dtype)
        frame = loops.rounds.frame(self._address, self._words, plan, *given, moved, self.values, self.data, stage)
        at_once = _pace.get(self.form, 1)
        while count:
            plan[loops.COUNT] = n = 1 if self._slow else min(count, at_once)
            started = time.perf_counter()
            failed = int(loops.rounds.run(frame, self.values.dtype))
            if failed >= 0:
                row = self.form.steps[failed]
                raise callbacks.raised(row[0]) or operand_error(row, self.form.code.side, self.values)
            if self.calls:
                callbacks.check(self.workspace.scratch)
            count -= n
            at_once = min(8 * at_once, max(1, int(n * _SECONDS / max(time.perf_counter() - started, 1e-7))))
        _pace[self.form] = at_once

    @staticmethod
    def _table(spans: Sequence[tuple[int, int]], at: dict[int, At]) -> np.ndarray:
        table = np.zeros((len(at), 4), np.int64)
        for j, (number, (base, stride)) in enumerate(at.items()):
            table[j] = *spans[number], base, stride
        return table
