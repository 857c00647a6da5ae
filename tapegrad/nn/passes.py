"""One pass over some data: batches in compiled code, and between stretches of them what Python has to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import ShapeError, TapegradError
from tapegrad.interrupts import interrupts_wait
from tapegrad.nn.buffers import Buffer, buffers_of
from tapegrad.nn.losses import check_labels
from tapegrad.nn.samples import Samples
from tapegrad.nn.steps import Rule, Step
from tapegrad.nn.updates import Updates
from tapegrad.optim.optimizer import Optimizer
from tapegrad.threads import blas_threads


class Fault(Exception):
    """A batch's loss is not finite, or the parameters after its update. `batch` is its number in the pass, `rows` are
    its samples."""

    def __init__(self, batch: int, rows: np.ndarray, loss: float) -> None:
        self.batch, self.rows, self.loss = batch, rows, loss


def one_pass(
    training: Any, samples: Samples, order: np.ndarray | None, batch: int, *, optimizer: Optimizer | None = None,
    watch: bool = False, every: int | None = None, after: Callable[[np.ndarray, bool], None] | None = None,
) -> tuple[float, float]:  # fmt: skip
    """One pass; returns the mean loss and the share of right answers.

    Args:
        training: whose model is trained, with its limits.
        order: of the samples. Without one, they are taken in their own, and nothing is learnt.
        batch: samples in a batch.
        optimizer: in place of the training's own.
        watch: raise `Fault` at a loss that is not finite. The model and the optimiser are then as before that batch.
        every, after: a function that is called after so many updates, and after the last, with the losses so far and
            whether it was the last. The model and the optimiser are up to date then. It may give the model other
            numbers.

    If there is an error, the batches before it still count: model and optimiser keep what they learnt.

    Raises IndexRangeError, IntegerInputError or ShapeError for an order that is none, before anything is done.
    """
    learns = order is not None
    optimizer = (optimizer or training.optimizer) if learns else None
    order = np.arange(samples.count) if order is None else samples.checked(order)
    accumulate = training.accumulate if learns else 1
    if learns and training.drop_last:
        order = order[: len(order) // (batch * accumulate) * batch * accumulate]
    full = len(order) // batch * batch
    parts = [part for part in (order[:full], order[full:]) if len(part)]
    if not parts:
        raise ShapeError(f"drop_last leaves none of {samples.count} samples: the batch size is {batch * accumulate}")
    steps = [training.recorded(samples, min(batch, len(part))) for part in parts[:1]]
    steps += [_of_the_rest(training, samples, len(part), learns) for part in parts[1:]]
    if training.labels:
        check_labels(samples.y.rows[:, 0], steps[0].classes)
    count = sum(len(part) // step.batch for step, part in zip(steps, parts, strict=True))
    limits, none = training.limits, np.zeros(2)
    updates = None
    if optimizer is not None:
        # Where gradients are added up, it is their mean that is kept to the limits.
        limits, added = (limits, none) if accumulate == 1 else (none, limits)
        updates = Updates(optimizer, training.model, count, accumulate, added, watch)
    running = _Pass(training, samples, updates, limits)
    start = _Start.here(training.model, updates) if watch and updates is not None else None
    stride = None if every is None else every * accumulate
    with blas_threads(training.threads):
        for step, piece in _pieces(steps, parts, stride):
            running.stretch(step, piece)
            if updates is None:
                continue
            if updates.fault is not None:
                break
            if after is not None and updates.whole:
                try:
                    after(updates.losses[: running.done], running.done == count)
                finally:
                    if running.take() and start is not None:
                        start = _Start.here(training.model, updates)
    if start is not None and updates is not None and (updates.fault is not None or not np.isfinite(running.p).all()):
        raise _fault(training, order, updates, start, samples)
    return float(running.sums[0] / len(order)), float(running.sums[1] / len(order))


def _of_the_rest(training: Any, samples: Samples, count: int, learns: bool) -> Step:
    """The step for the last samples, which do not fill a batch."""
    try:
        return training.recorded(samples, count)
    except TapegradError as error:
        if learns:
            error.add_note(f"of {samples.count} samples the last batch has {count}; drop_last=True leaves it out")
        raise


def _pieces(steps: list[Step], parts: list[np.ndarray], stride: int | None) -> Iterator[tuple[Step, np.ndarray]]:
    for step, part in zip(steps, parts, strict=True):
        size = len(part) if stride is None else stride * step.batch
        for start in range(0, len(part), size):
            yield step, part[start : start + size]


class _Pass:
    """How far a pass is: the parameters, the sums of losses and right answers, and how many batches are done."""

    def __init__(self, training: Any, samples: Samples, updates: Updates | None, limits: np.ndarray) -> None:
        self.model, self.samples, self.updates, self.limits = training.model, samples, updates, limits
        self.p = np.array(self.model.flat.data)
        self.sums, self.done = np.zeros(2), 0
        self._before = updates.optimizer.steps if updates else 0

    def stretch(self, step: Step, order: np.ndarray) -> None:
        """Batches of one size in compiled code. The model and the optimiser have what was learnt afterwards, also where
        there is an error or an interrupt, which waits until they do."""
        count = len(order) // step.batch
        if self.updates:
            self.updates.begin(count)
        rule, counts = Rule(self.updates, np.zeros(count), self.limits), np.array([0, self.done])
        with interrupts_wait() as waiting:
            step.parameters[:] = self.p
            try:
                step.run(rule, counts, self.samples.x.rows, self.samples.y.rows, order, self.sums, waiting)
            finally:
                if self.updates:
                    self.p[:] = step.parameters
                    self.updates.optimizer.steps = self._before + self.updates.done
                    self.model.flat.data = self.p
        self.done += count

    def take(self) -> bool:
        """Go on with the numbers that the model has now. Returns whether they are others."""
        now = self.model.flat.data
        same = np.array_equal(now, self.p, equal_nan=True)
        self.p[:] = now
        return not same


class _Start(NamedTuple):
    """From where updates can be made again: how many were done, and model and optimiser as they were then."""

    done: int
    model: Any
    optimizer: dict[str, Any]

    @classmethod
    def here(cls, model: Any, updates: Updates) -> _Start:
        """As they are now."""
        kept = updates.optimizer.state_dict()
        # A rate that a callback sets meanwhile stays.
        kept.pop("lr", None)
        return cls(updates.done, whole_state(model), kept)


def _fault(training: Any, order: np.ndarray, updates: Updates, start: _Start, samples: Samples) -> Fault:
    """What says at which batch the first number arose that is not finite, with model and optimiser as before it."""
    optimizer, batch = updates.optimizer, training.batch_size
    size = batch * training.accumulate
    fault, done = updates.fault, start.done

    def again(count: int, **how: Any) -> None:
        restore(training.model, start.model)
        optimizer.load_state_dict(start.optimizer)
        some = order[start.done * size : count * size]
        if len(some):
            one_pass(training, samples, some, batch, optimizer=optimizer, **how)

    def look(losses: np.ndarray, last: bool) -> None:
        nonlocal done
        if not np.isfinite(training.model.flat.data).all():
            raise _FoundError
        done += 1

    if fault is not None and np.isfinite(training.model.flat.data).all():
        if training.model.buffers():
            # They were written by that batch, and by others after it.
            again(updates.done)
        return Fault(fault, order[fault * batch :][:batch], float(updates.losses[fault]))
    # An update has made the parameters so; losses may still be finite. The updates are made again, and looked at one by
    # one.
    try:
        again(updates.done, every=1, after=look)
    except _FoundError:
        again(done)
    fault = done * training.accumulate
    return Fault(fault, order[done * size :][:size], float(updates.losses[fault]))


class _FoundError(Exception):
    """The parameters are not finite any more."""


def whole_state(model: Any) -> tuple[np.ndarray, list[tuple[Buffer, np.ndarray]]]:
    """The numbers of a model: parameters and all buffers, those too that are not kept in files."""
    return np.array(model.flat.data), [(buffer, buffer.numbers) for _, buffer in buffers_of(model)]


def restore(model: Any, state: tuple[np.ndarray, list[tuple[Buffer, np.ndarray]]]) -> None:
    """Give a model the numbers that `whole_state` found."""
    model.flat.data = state[0]
    for buffer, numbers in state[1]:
        buffer.put(numbers)
