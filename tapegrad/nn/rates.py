"""Looking for a learning rate: a few steps at rates that grow."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import ExtraMissingError, OperationError
from tapegrad.nn.passes import Fault, restore, whole_state
from tapegrad.optim.schedules import exponential

# How much a mean over the last losses keeps of itself, and how much higher than the lowest loss ends the search.
_KEEP, _DIVERGED = 0.9, 4.0


class Rates(NamedTuple):
    """What `Training.find_rate` has tried.

    Attributes:
        rates: of the steps, up to where the loss was no number any more.
        losses: of their batches, each before its step.
        suggestion: a tenth of the rate at which the loss was lowest, smoothed; a rate that learns fast and is safe.
    """

    rates: np.ndarray
    losses: np.ndarray
    suggestion: float

    def plot(self, axis: Any = None) -> Any:
        """Draw the losses over the rates; returns matplotlib's figure. Raises ExtraMissingError without matplotlib."""
        if axis is None:
            try:
                from matplotlib.figure import Figure
            except ImportError:
                raise ExtraMissingError("plot needs matplotlib: pip install tapegrad[examples]") from None
            axis = Figure(layout="constrained").subplots()
        axis.plot(self.rates, self.losses)
        axis.axvline(self.suggestion, linestyle="--", color="gray")
        axis.set(xscale="log", xlabel="learning rate", ylabel="loss")
        return axis.figure


def find_rate(training: Any, data: Any, low: float, high: float, steps: int, rng: Any) -> Rates:
    """See `Training.find_rate`."""
    if not 0.0 < low < high < np.inf:
        raise OperationError(f"rates are tried from low to high, 0 < low < high, not from {low!r} to {high!r}")
    if steps < 10:
        raise OperationError(f"ten steps or more are needed to find a rate, not {steps!r}")
    samples, generator = training.samples(data), np.random.default_rng(rng)
    wanted = steps * training.batch_size * training.accumulate
    passes = -(-wanted // samples.count)
    order = np.concatenate([generator.permutation(samples.count) for _ in range(passes)])[:wanted]
    optimizer, before = _fresh(training.optimizer), whole_state(training.model)
    optimizer.lr = exponential(low, high / low, steps - 1)
    losses: list[float] = []

    def note(found: np.ndarray, last: bool) -> None:
        losses[:] = found.tolist()

    try:
        training.run(samples, order, optimizer=optimizer, watch=True, every=1, after=note)
    except Fault:
        pass
    finally:
        restore(training.model, before)
    found = np.array(losses)[:: training.accumulate]
    rates = np.array([optimizer.rate(step) for step in range(len(found))])
    return Rates(rates, found, _suggestion(rates, found))


def _fresh(optimizer: Any) -> Any:
    """An optimiser like this one that has made no step, all of whose groups have its own rate."""
    made = copy.copy(optimizer)
    made.steps, made._state, made._of, made._update = 0, None, (), None
    made.groups = [copy.copy(group) for group in optimizer.groups]
    for group in made.groups:
        group.lr = None
    return made


def _suggestion(rates: np.ndarray, losses: np.ndarray) -> float:
    smooth, mean = [], 0.0
    for i, loss in enumerate(losses.tolist(), start=1):
        mean = _KEEP * mean + (1.0 - _KEEP) * loss
        smooth.append(mean / (1.0 - _KEEP**i))
        if smooth[-1] > _DIVERGED * min(smooth):
            break
    return float(rates[int(np.argmin(smooth))]) / 10.0 if smooth else float("nan")
