"""Several epochs, with what is measured and called after each."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import NonFiniteError, StructureError
from tapegrad.nn.callbacks import Callback, Progress, callbacks_of
from tapegrad.nn.checkpoints import read_training
from tapegrad.nn.counts import counted
from tapegrad.nn.history import History
from tapegrad.nn.passes import Fault
from tapegrad.nn.samples import Samples


class Stop(Exception):
    """A callback wants the training to end."""


def fit(
    training: Any, data: Any, epochs: int, validation: Any, callbacks: Any, rng: Any, progress: bool,
    resume: str | os.PathLike[str] | None, watch: bool,
) -> History:  # fmt: skip
    """See `Training.fit`."""
    epochs = counted(epochs, "the number of epochs", 0)
    found = callbacks_of(callbacks)
    if progress:
        found.append(Progress(epochs))
    samples = training.samples(data)
    checked = None if validation is None else training.samples(validation, "validation")
    if checked is not None and checked.key != samples.key:
        raise StructureError(f"the validation set must be nested as the data: {_apart(samples, checked)}")
    training.callbacks = found
    if resume is not None:
        read_training(resume, training, found)
    else:
        training.history, training.generator = History(), np.random.default_rng(rng)
    started = False
    try:
        for callback in found:
            callback.on_start(training)
        started = True
        while len(training.history) < epochs:
            if _epoch(training, samples, checked, found, watch):
                break
    finally:
        # In the opposite order: what was begun last ends first.
        for callback in reversed(found if started else []):
            callback.on_end(training)
    return training.history


def _epoch(
    training: Any, samples: Samples, validation: Samples | None, callbacks: Sequence[Callback], watch: bool
) -> bool:
    """An epoch; returns whether it was the last."""
    optimizer, begun = training.optimizer, time.perf_counter()
    state = training.generator.bit_generator.state
    order = training.generator.permutation(samples.count)
    number, stopped = len(training.history) + 1, False
    steppers = [callback for callback in callbacks if type(callback).on_step is not Callback.on_step]
    pending = {id(callback): [0, 0] for callback in steppers}

    def after(losses: np.ndarray, last: bool) -> None:
        # `losses` are those of all batches of this epoch so far.
        done = -(-len(losses) // training.accumulate)
        wanted = []
        for callback in steppers:
            told, steps = pending[id(callback)]
            if len(losses) > told and (done - steps >= callback.every or last):
                pending[id(callback)] = [len(losses), done]
                wanted.append(bool(callback.on_step(training, done, losses[told:])))
        if any(wanted):
            raise Stop

    every = min((max(1, int(callback.every)) for callback in steppers), default=None)
    try:
        result = training.run(samples, order, watch=watch, every=every, after=after)
    except Stop:
        # An epoch that was not finished has no row.
        return True
    except Fault as fault:
        raise _explained(training, samples, fault, number) from None
    except BaseException:
        # It is begun again in the same order if the training goes on.
        training.generator.bit_generator.state = state
        raise
    row = {"epoch": number, "steps": optimizer.steps, "loss": result.loss}
    if not np.isnan(result.accuracy):
        row["accuracy"] = result.accuracy
    if validation is not None:
        held = training.run(validation, None)
        row["validation_loss"] = held.loss
        if not np.isnan(held.accuracy):
            row["validation_accuracy"] = held.accuracy
    row["rate"] = optimizer.rate(max(optimizer.steps - 1, 0))
    row["seconds"] = time.perf_counter() - begun
    training.history.rows.append(row)
    for callback in callbacks:
        stopped = bool(callback.on_epoch(training, row)) or stopped
        for name in row:
            row[name] = row[name] if name in ("epoch", "steps") else float(row[name])
    return stopped


def _explained(training: Any, samples: Samples, fault: Fault, epoch: int) -> NonFiniteError:
    """What to say of a loss that is not finite: where it arose, and where the first number did that is not."""
    step = fault.batch // training.accumulate + 1
    what = "the loss" if not np.isfinite(fault.loss) else "what the update makes of the gradient"
    text = f"epoch {epoch}, step {step} (of the optimiser {training.optimizer.steps + 1}): {what} is not finite"
    report = training.blame(samples, fault.rows)
    text += f"\n{report}" if report is not None else ", though loss and gradient are, computed again at this batch"
    text += "\nThe model has the numbers that it had before this step; fit(..., watch=False) goes on in spite of it."
    return NonFiniteError(text, report)


def _apart(samples: Samples, other: Samples) -> str:
    if samples.structure != other.structure:
        return f"{samples.structure} and {other.structure}"
    mine, theirs = ([(shape, kind) for t in (s.x, s.y) for shape, kind in zip(t.shapes, t.kinds, strict=True)]
                    for s in (samples, other))  # fmt: skip
    for (shape, kind), (other_shape, other_kind) in zip(mine, theirs, strict=True):
        if shape != other_shape:
            return f"a sample has shape {shape} there and {other_shape} here"
        if kind != other_kind:
            return f"one has {kind} where the other has {other_kind}"
    return "they differ"
