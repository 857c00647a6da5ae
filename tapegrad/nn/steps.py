"""A training step, recorded once: what `kernels.train` needs to know about it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.arguments import spec_of
from tapegrad.errors import GuardError, NonScalarError
from tapegrad.nn import kernels
from tapegrad.nn.kernels import Plan, Rule, address_of
from tapegrad.nn.module import Module
from tapegrad.optim.optimizer import Optimizer
from tapegrad.program import Branches
from tapegrad.sweeps import sweeps_for
from tapegrad.tape import EXPECT, operand_error
from tapegrad.value import contiguous

_EMPTY = {np.dtype(t): np.zeros(0, t) for t in (np.float64, np.float32)}


class Step:
    """The recording of loss(model(x), y) for one batch size, as a function of (parameters, x, y).

    Args:
        model: its parameters become the first slots of the recording's arena.
        loss: maps the output and y to a scalar.
        x, y: a batch to record at. Where y holds integers, the loss may index with it.
        scored: whether the output is (batch, classes) and y holds labels, so that right answers are counted.
    """

    def __init__(self, model: Module, loss: Any, x: np.ndarray, y: np.ndarray, scored: bool) -> None:
        def evaluate(flat: Any, x: Any, y: Any) -> Any:
            output = model.call_with(flat, x)
            value = loss(output, y)
            if np.size(value) != 1:
                raise NonScalarError(f"a loss must be one number, this one has shape {np.shape(value)}")
            # The answers must stand in order, whatever view the model returned.
            return (value, contiguous(output)) if scored else (value,)

        flat = np.array(model.flat.data)
        spec, leaves = spec_of([flat, x, y])
        self.batch = len(x)
        self._sizes = flat.size, x.size
        # Only the parameters are differentiated: the gradient of the images would cost a third of the time.
        self._branches = Branches(evaluate, spec, leaves, [0])
        self._y = y
        self._scored = scored
        self._prepare()

    def _prepare(self) -> None:
        program = self._branches.program
        value = program.outputs[0].places
        if value is None:
            raise NonScalarError("the loss does not depend on the parameters or the data")
        loss = int(value[0])
        program.prepare()
        n_params, n_x = self._sizes
        nothing = _EMPTY[program.values.dtype]
        # Kept alive here: the plan holds but its address.
        self._sweep = sweeps_for(program.values.dtype).module.sweep
        answers = program.outputs[1] if self._scored else None
        self.program = program
        arrays = program.code, program.side, program.values, program.adjoints, nothing
        self.plan = Plan(
            address_of(self._sweep, *arrays, loss, kernels.GRADIENT), *arrays,
            n_params, self.batch, n_params, n_params + n_x, loss,
            int(answers.places[0]) if answers and answers.places is not None else 0,
            answers.shape[1] if answers and answers.places is not None else 0,
        )  # fmt: skip

    @property
    def parameters(self) -> np.ndarray:
        """The parameters as this step's arena has them: a window."""
        return self.plan.values[: self.plan.n_params]

    def run(self, rule: Rule, xs: np.ndarray, ys: np.ndarray, order: np.ndarray, learn: bool, sums: np.ndarray) -> int:
        """Run the batches of `order`; see `kernels.train`. Returns how many were done, for an exception that follows.

        A batch for which the model or loss takes another branch than recorded has the step recorded anew. Raises
        LabelError, IndexRangeError, GuardError.
        """
        start, stuck = 0, -1
        while True:
            done, failed = kernels.train(self.plan, rule, xs, ys, order, start, learn, sums)
            if failed < 0:
                return int(done)
            row = self.plan.code[failed]
            if row[0] != EXPECT:
                raise _stopped(operand_error(row, self.plan.side, self.plan.values), done)
            if done == stuck:
                error = GuardError("the step took another branch when it was recorded again at the same batch")
                raise _stopped(error, done)
            start = stuck = done
            rows = order[done * self.batch : (done + 1) * self.batch]
            x = xs[rows].reshape(self.program.feeds[1][0].shape)
            y = ys[rows].reshape(self._y.shape).astype(self._y.dtype)
            leaves = [self.parameters.copy(), x, y]
            self._branches.program = self._branches.record(leaves)
            self._prepare()


def _stopped(error: Exception, done: int) -> Exception:
    error.batches_done = int(done)  # type: ignore[attr-defined]
    return error


def rule_for(optimizer: Optimizer | None, p: np.ndarray, rates: np.ndarray, clips: tuple[float, float]) -> Rule:
    """How `optimizer` updates parameters like p, one update for each rate; for None, a rule that is never followed."""
    if optimizer is None:
        return Rule(0, np.zeros((0, 0), p.dtype), np.zeros(0), rates, 0, *clips)
    state = optimizer.state(p.size, p.dtype)
    hyper = optimizer.constants()
    update = address_of(type(optimizer).kernel, p, p, state, hyper, 0.0, 1)
    return Rule(update, state, hyper, rates, optimizer.steps, *clips)
