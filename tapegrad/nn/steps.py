"""A training step, recorded once: what `loops.train` needs to know about it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.arguments import spec_of
from tapegrad.carried import Carrier, NeedsCarrierError, Plan, UnplannedError
from tapegrad.compiled import Frame
from tapegrad.errors import DTypeError, GuardError, NonScalarError
from tapegrad.nn import loops
from tapegrad.nn.module import Module
from tapegrad.nn.updates import Updates
from tapegrad.program import Branches, Program
from tapegrad.sweeps import ADJOINTS, VALUES, callbacks
from tapegrad.tape import EXPECT, current_tape, operand_error
from tapegrad.value import Value, as_value, contiguous

# How long a compiled call may take, about, while Ctrl-C waits.
_SECONDS = 0.2
# What is carried comes after the parameters, x and y among the inputs.
_CARRIED = 3


class Rule(NamedTuple):
    """How parameters are updated after each batch; without updates they stay as they are.

    There are as many batches as `rates`, which say nothing themselves. Gradients are kept to the limits.
    """

    updates: Updates | None
    rates: np.ndarray
    limits: np.ndarray


class Step:
    """The recording of loss(model(x), y) or loss(model, x, y) for one batch size, as a function of (parameters, x, y,
    buffers).

    Buffers that the model or the loss reads, and parameters of other models, which are constants here, are read before
    the first of several steps. Those that it writes go from step to step in compiled code, and are written after the
    last.

    Args:
        model: its parameters become the first slots of the recording's arena.
        loss: maps the output and y to a scalar.
        x, y: a batch to record at. Where y holds integers, the loss may index with it; so may the model with x.
        scored: whether the output is (batch, classes) and y holds labels, so that right answers are counted.
        whole: whether the loss takes the model itself, x and y.
    """

    def __init__(
        self, model: Module, loss: Any, x: np.ndarray, y: np.ndarray, scored: bool, whole: bool = False
    ) -> None:
        self._carried = Plan()

        def evaluate(flat: Any, x: Any, y: Any) -> Any:
            with model.bound(flat):
                output = x if whole else model(x)
                value = loss(model, x, y) if whole else loss(output, y)
            if np.size(value) != 1:
                raise NonScalarError(f"a loss must be one number, this one has shape {np.shape(value)}")
            # `loops.train` reads the output in row-major order, so a view is copied.
            return (value, contiguous(output)) if scored else (value,)

        self._evaluate = evaluate
        flat = np.array(model.flat.data)
        self.batch = len(x)
        self._sizes, self._dtype = (flat.size, x.size), flat.dtype
        self._x, self._y = x, y
        self._scored = scored
        try:
            self._record([flat, x, y])
        except (NeedsCarrierError, UnplannedError):
            self._record([flat, x, y], self._find([flat, x, y]))

    def _find(self, args: list[np.ndarray]) -> Plan:
        """Find out which buffers and other models' parameters are read, and which written, at a batch, besides those
        that were found at others."""
        plan = Plan()

        def find(*args: Any) -> Any:
            plan.__init__()  # type: ignore[misc]
            with Carrier(plan, models=True).in_force():
                return self._evaluate(*args)

        spec, leaves = spec_of(args)
        Branches(find, spec, leaves, [0], same_prefixes=False)
        # Another one, so that what there is stays as it is where recording fails.
        joined = Plan()
        joined.join(self._carried)
        joined.join(plan)
        joined.modes, joined.marks = plan.modes, plan.marks
        return joined

    def _record(
        self, args: list[np.ndarray], plan: Plan | None = None, carried: Sequence[np.ndarray] = ()
    ) -> None:
        """Record the step at a batch, with all that it carries, of which the first are `carried`. Where that fails, the
        step is as it was."""
        plan, evaluate = plan or self._carried, self._evaluate

        def carrying(flat: Any, x: Any, y: Any, *cells: Any) -> Any:
            carrier = Carrier(plan, cells, models=True)
            with carrier.in_force():
                results = evaluate(flat, x, y)
            return *results, *map(_own, carrier.written())

        cells = plan.inputs()
        spec, leaves = spec_of([*args, *cells])
        # Only the parameters are differentiated: the gradient of the images would cost a third of the time.
        branches = Branches(carrying, spec, leaves, [0])
        self._prepare(plan, branches, args[0], [*carried, *(x.reshape(-1) for x in cells[len(carried) :])])

    def _prepare(
        self, plan: Plan, branches: Branches, parameters: np.ndarray, carried: Sequence[np.ndarray]
    ) -> None:
        """Go on with another program, in whose arena these are the parameters and what is carried."""
        program = branches.program
        code = program.code
        if code.dtype != self._dtype:
            raise DTypeError(
                f"the model or loss meets an array of {code.dtype}, its parameters are {self._dtype}: convert the "
                f"array with .astype(np.{self._dtype})"
            )
        loss = code.outputs[0].place
        if loss is None:
            raise NonScalarError("the loss does not depend on the parameters or the data")
        program.prepare()
        workspace = program.take()
        workspace.values[: self._sizes[0]] = parameters
        for i, numbers in enumerate(carried):
            at, n = code.spans[_CARRIED + i]
            workspace.values[at : at + n] = numbers
        answers = code.outputs[1] if self._scored else None
        logits = None if answers is None else answers.place
        classes = answers.shape[1] if answers is not None and logits is not None else 0
        n_params, n_x = self._sizes
        layout = np.array([n_params, self.batch, n_params, n_params + n_x, loss, logits or 0, classes, 0])
        moves = self._carrying(plan, program)
        # All at once, with no call between, so that a signal finds one program or the other, with what was learnt.
        self.program, self._workspace, self._loss, self.classes = program, workspace, loss, classes
        self._carried, self._branches = plan, branches
        self._moves, self._plan = moves, layout

    def _carrying(self, plan: Plan, program: Program) -> np.ndarray:
        """What is copied after each step: (from, to, how many numbers)."""
        code, moves = program.code, []
        for i, output in zip(plan.written, code.outputs[2 if self._scored else 1 :], strict=True):
            to, n = code.spans[_CARRIED + i]
            moves.append((output.place, to, n))
        return np.array(moves, np.int64).reshape(-1, 3)

    def _cell(self, i: int) -> np.ndarray:
        """The numbers of a cell in this step's arena: a view."""
        at, n = self.program.code.spans[_CARRIED + i]
        return self._workspace.values[at : at + n]

    def _read(self) -> None:
        """Have the numbers that the buffers have now."""
        for i, cell in enumerate(self._carried.cells):
            self._cell(i)[:] = cell.numbers.reshape(-1)

    def _write(self, before: Any) -> None:
        """Have the buffers hold what the last step has left, if there was one."""
        plan = self._carried
        if plan.written and before:
            plan.put([self._cell(i) for i in plan.written])

    @property
    def parameters(self) -> np.ndarray:
        """The parameters in this step's arena: a view, through which they can be changed."""
        return self._workspace.values[: self._sizes[0]]

    def run(
        self, rule: Rule, counts: np.ndarray, xs: np.ndarray, ys: np.ndarray, order: np.ndarray, sums: np.ndarray
    ) -> None:
        """Run the batches of `order`, and count in counts[START] how many were done; see `loops.train`.

        A batch for which the model or loss takes another branch than recorded has the step recorded anew. Raises
        LabelError, IndexRangeError, GuardError, and what Python functions that the step calls raise.
        """
        first = int(counts[loops.START])
        self._read()
        if not self._carried.holds:
            self._record_again(first, xs, ys, order)
        try:
            self._run(rule, counts, xs, ys, order, sums)
        finally:
            self._write(int(counts[loops.START]) > first)

    def _run(
        self, rule: Rule, counts: np.ndarray, xs: np.ndarray, ys: np.ndarray, order: np.ndarray, sums: np.ndarray
    ) -> None:
        first, stuck, at_once = int(counts[loops.START]), -1, 1
        while counts[loops.START] < len(rule.rates):
            # The branches have another program where a signal came while the step was recorded again.
            if self._branches.stale or self._branches.program is not self.program:
                self._write(int(counts[loops.START]) > first)
                self._record_again(int(counts[loops.START]), xs, ys, order)
            before, started = int(counts[loops.START]), time.perf_counter()
            # Signals are seen between compiled calls only, so none may take long.
            end = before + (1 if self.program.calls or self.program.long else at_once)
            failed = self._train(rule._replace(rates=rule.rates[:end]), counts, xs, ys, order, sums)
            done = int(counts[loops.START])
            if failed < 0:
                at_once = max(1, int((done - before) * _SECONDS / max(time.perf_counter() - started, 1e-6)))
                continue
            row = self.program.steps[failed]
            if row[0] != EXPECT:
                error = callbacks.raised(row[0])
                raise error or operand_error(row, self.program.code.side, self._workspace.values)
            if done == stuck:
                raise GuardError("the step took another branch when it was recorded again at the same batch")
            stuck = done
            # What is recorded may hang on what buffers hold now.
            self._write(done > first)
            self._record_again(done, xs, ys, order)

    def _record_again(self, batch: int, xs: np.ndarray, ys: np.ndarray, order: np.ndarray) -> None:
        """Record the step anew, at a batch of this number."""
        rows = order[batch * self.batch : (batch + 1) * self.batch]
        x = xs[rows].reshape(self._x.shape).astype(self._x.dtype)
        y = ys[rows].reshape(self._y.shape).astype(self._y.dtype)
        args = [self.parameters.copy(), x, y]
        carried = [self._cell(i).copy() for i in range(len(self._carried.cells))]
        try:
            if not self._carried.holds:
                raise UnplannedError("in another mode")
            self._branches.renew([*args, *carried])
            self._prepare(self._carried, self._branches, args[0], carried)
        except (NeedsCarrierError, UnplannedError):
            # In another branch, or another mode, it reads or writes other buffers.
            self._record(args, self._find(args), carried)

    def _train(self, rule: Rule, counts: np.ndarray, *batches: np.ndarray) -> int:
        """`_compiled`, undone where a Python function that the step calls has failed on the way back."""
        if not self.program.calls or rule.updates is None:
            return self._compiled(rule, counts, *batches)
        rule.updates.bind(self.parameters, self._workspace.adjoints[: self._sizes[0]])
        sums = batches[-1]
        cells = [self._cell(i) for i in range(len(self._carried.cells))]
        kept = [(now, now.copy()) for now in (self.parameters, counts, sums, *cells, *rule.updates.changed())]
        failed = self._compiled(rule, counts, *batches)
        try:
            callbacks.check(self._workspace.scratch)
        except BaseException:
            for now, then in kept:
                now[...] = then
            raise
        return failed

    def _compiled(
        self, rule: Rule, counts: np.ndarray, xs: np.ndarray, ys: np.ndarray, order: np.ndarray, sums: np.ndarray
    ) -> int:
        program, workspace, updates = self.program, self._workspace, rule.updates
        real = program.code.dtype
        tasks = VALUES if updates is None else VALUES | ADJOINTS
        sweep = program.frame(workspace, tasks, self._loss, None)
        self._plan[loops.LEARN] = updates is not None
        values, adjoints = workspace.values, workspace.adjoints
        if updates is None:
            # Without updates nothing is called after a batch, so any function will do.
            after, update = program.sweeps.sweep.call_address(sweep, real), sweep
        else:
            n = self._sizes[0]
            updates.bind(values[:n], adjoints[:n])
            after, update = updates.frame(values, adjoints, self._loss, self.batch)
        function, frame = program.sweeps.sweep, sweep
        if program.long:
            # One batch takes so long that it is swept in pieces, between which signals are seen; then the loop finds it
            # done.
            batch = order[counts[loops.START] * self.batch :][: self.batch]
            for at, table in ((self._plan[loops.INPUTS], xs), (self._plan[loops.TARGETS], ys)):
                given = table[batch].reshape(-1)
                values[at : at + len(given)] = given
            failed = program.sweeps.run(sweep)
            if failed >= 0:
                return failed
            function, frame = loops.swept, loops.swept.frame(0)
        return loops.train(
            function.call_address(frame, real), _words(frame), after, _words(update), values, adjoints, self._plan,
            self._moves, counts, rule.rates, rule.limits, xs, ys, order, sums,
        )  # fmt: skip


def _own(x: Any) -> Value:
    """What a buffer is to hold after a step, as numbers of their own on the tape: what shows others would change with
    these when it is copied to its buffer, and the next step is to read what is a constant, too."""
    if not isinstance(x, Value):
        tape = current_tape()
        x = as_value(np.asarray(x, tape.dtype), tape, "a buffer")
    return x * 1.0


def _words(frame: Frame) -> np.ndarray:
    return np.frombuffer(frame.words, np.int64)
