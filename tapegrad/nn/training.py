"""`Training`: whole epochs in compiled code, around a step that was recorded once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import OperationError, ShapeError, StructureError
from tapegrad.nn.buffers import in_mode, modes_of
from tapegrad.nn.callbacks import Callback
from tapegrad.nn.checkpoints import read_training, write_training
from tapegrad.nn.counts import counted
from tapegrad.nn.fitting import fit
from tapegrad.nn.history import History
from tapegrad.nn.losses import LOSSES
from tapegrad.nn.module import Module, structure_version
from tapegrad.nn.parameter import constant_models
from tapegrad.nn.passes import one_pass
from tapegrad.nn.rates import Rates, find_rate
from tapegrad.nn.samples import Samples, Table, here
from tapegrad.nn.steps import Step
from tapegrad.optim.optimizer import Optimizer
from tapegrad.pickling import to_pickle
from tapegrad.recording import Recording, record
from tapegrad.threads import blas_threads

# Samples in a batch where nothing is learnt.
_EVALUATED = 500


class Result(NamedTuple):
    """The mean loss, and the share of right answers: NaN where the loss is not cross-entropy."""

    loss: float
    accuracy: float


class Training:
    """Training a model, an epoch a call of `epoch`, or several by `fit`.

    The step from a batch to its gradient is recorded at the first batch. An epoch is then one compiled call, without
    the GIL: for each batch, rows are copied into the recording's arena, values and adjoints swept, and the optimiser
    runs over the parameters where they stand. After it the model's own parameters are up to date.

    Args:
        model: its parameters are trained.
        optimizer: with its learning rate or schedule; it is made with the model, with groups of its parameters, or
            without parameters. Parameters of the model that it was not made for stay as they are.
        loss: "cross_entropy" (targets are labels, shape (n,); this is the default), "mean_squared_error" (targets have
            the shape of the output), or a function of the model's output and the targets of a batch that returns a
            scalar: a mean, for the epoch's loss to be one. Integers are integers there, good to index with.
        step: in place of `loss`, a function of the model and a batch that returns a scalar. A batch is nested as the
            data are: a tuple or dict of arrays, say, whose first axis counts samples.
        batch_size: samples in a step.
        accumulate: of how many batches the gradients are added up for one update, which takes their mean. That is the
            gradient of a batch so many times as large where the loss is a plain mean over samples: not where it is
            divided by something that differs from batch to batch, as a mean with class weights or `ignore_index` is,
            and not where batches do something besides (normalisation, dropout).
        clip_norm: limit of the gradient's norm; see `tapegrad.optim.clip_by_norm`.
        clip_value: limit of each number of the gradient, applied before that of the norm.
        drop_last: leave out samples that do not fill a batch, instead of taking a smaller step.
        threads: threads of the BLAS; one is fastest for layers of hundreds of units. None leaves it as it is.

    Buffers of the model, as running statistics and the state of `Dropout`, go from step to step. Parameters of other
    models that the loss or step reads, a teacher's say, are constants, read anew for each epoch. What the model or loss
    computes outside the tape (random numbers of other generators, say) is computed once, when recorded.

    Raises OperationError for an unknown loss, a loss and a step, a batch size or limit that is not positive;
    StructureError for a model without parameters, and for what is no model or optimiser. A loss or step that gives
    anything but one number is a NonScalarError of the first epoch, an optimiser that was made for other parameters a
    StructureError.

    >>> from tapegrad.nn import MLP
    >>> from tapegrad.optim import Adam
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> model = MLP([1, 16, 1], "tanh")
    >>> training = Training(model, Adam(model, 0.01), loss="mean_squared_error", batch_size=16)
    >>> losses = [training.epoch(x, x * x, rng=epoch).loss for epoch in range(100)]
    >>> losses[-1] < 0.01 < losses[0]
    True

    >>> def step(model, batch):
    ...     return np.mean(batch["weight"] * (model(batch["x"]) - batch["y"])[:, 0] ** 2)
    >>> training = Training(model, Adam(model, 0.01), step=step, batch_size=16)
    >>> history = training.fit({"x": x, "y": x**3, "weight": np.ones(64)}, epochs=100, rng=0)
    >>> history[-1]["loss"] < 0.1 * history[0]["loss"]
    True
    """

    def __init__(
        self, model: Module, optimizer: Optimizer, loss: str | Callable[[Any, Any], Any] | None = None, *,
        step: Callable[[Any, Any], Any] | None = None, batch_size: int = 64, accumulate: int = 1,
        clip_norm: float | None = None, clip_value: float | None = None, drop_last: bool = False,
        threads: int | None = 1,
    ) -> None:  # fmt: skip
        if step is not None and loss is not None:
            raise OperationError("a training has a loss or a step, not both")
        loss = "cross_entropy" if loss is None else loss
        if isinstance(loss, str) and loss not in LOSSES:
            names = ", ".join(sorted(LOSSES))
            raise OperationError(f"there is no loss {loss!r}; there are {names}, or give a function")
        for name, f in (("loss", loss), ("step", step)):
            if f is not None and not isinstance(f, str) and not callable(f):
                raise OperationError(f"the {name} must be a function, not {f!r}")
        batch_size = counted(batch_size, "the batch size")
        accumulate = counted(accumulate, "the number of batches to accumulate")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not limit > 0:
                raise OperationError(f"{name} must be positive, not {limit!r}")
        if not isinstance(model, Module):
            raise StructureError(f"the model of a training must be a tapegrad.nn.Module, not a {type(model).__name__}")
        if not isinstance(optimizer, Optimizer):
            raise StructureError(f"the optimizer must be one of tapegrad.optim, as Adam(lr=0.01), not {optimizer!r}")
        if not model.flat.size:
            raise StructureError(f"{type(model).__name__} has no parameters to train")
        if getattr(optimizer, "kernel", None) is None:
            raise StructureError(f"{type(optimizer).__name__} does not work batch by batch: it has no kernel")
        self.model, self.optimizer = model, optimizer
        self.loss = LOSSES[loss] if isinstance(loss, str) else loss
        self.step = step
        self.batch_size, self.accumulate, self.drop_last, self.threads = batch_size, accumulate, drop_last, threads
        self.history = History()
        self.generator = np.random.default_rng()
        self.callbacks: list[Callback] = []
        self.labels = step is None and self.loss is LOSSES["cross_entropy"]
        self.limits = np.array([clip_norm or 0.0, clip_value or 0.0], float)
        self._steps: dict[Any, Step] = {}
        self._outputs: dict[Any, Recording] = {}
        self._version = structure_version()

    def __getstate__(self) -> dict[str, Any]:
        # The steps are recorded again, and compiled code is found on disk.
        made: dict[str, Any] = {"_steps": {}, "_outputs": {}, "_version": -1}
        return self.__dict__ | made | {
            "loss": to_pickle(self.loss, "the loss"), "step": to_pickle(self.step, "the step")
        }  # fmt: skip

    def __repr__(self) -> str:
        function = self.loss if self.step is None else self.step
        name = getattr(function, "__name__", repr(function))
        kind = "loss" if self.step is None else "step"
        return f"Training({self.optimizer!r}, {kind}={name}, batch_size={self.batch_size})"

    def steps_per_epoch(self, samples: int) -> int:
        """How many updates an epoch over so many samples takes, for schedules that end.

        >>> from tapegrad.nn import Linear
        >>> from tapegrad.optim import SGD
        >>> Training(Linear(2, 2), SGD(), batch_size=64).steps_per_epoch(100)
        2
        """
        full, rest = divmod(samples, self.batch_size * self.accumulate)
        return full + (rest > 0 and not self.drop_last)

    def samples(self, data: Any, what: str = "data") -> Samples:
        """Data as a pass takes them: converted to the model's dtype once. Raises what `Samples` raises.

        Where there is a loss, they are the pair (x, y).
        """
        if self.step is None:
            if not isinstance(data, list | tuple) or len(data) != 2:
                raise StructureError(f"{what} must be a pair (x, y) for a loss of output and targets")
            data = (here(data[0], "x"), here(data[1], "y"))
        return Samples(data, self.model.dtype, what)

    def epoch(self, x: Any, y: Any = None, rng: np.random.Generator | int | None = None) -> Result:
        """One pass over the samples in random order, one optimiser step a batch.

        Args:
            x: (n, ...), samples; converted to the model's dtype if they have another. For a training with a step, all
                data, nested as the step takes a batch.
            y: (n, ...), targets.
            rng: a generator for the order, or a seed.

        Returns:
            The mean loss and the accuracy over the epoch, each batch before its step.

        A model in evaluation is in training meanwhile; of one in training, parts that are in evaluation stay there.
        After the epoch its buffers are up to date, and all parts are in their own modes.

        Ctrl-C takes effect within a second; the batches before it stay learnt.

        Raises LabelError, before anything is changed, for labels that are NaN or out of range; ShapeError for x and y
        of different lengths, or what does not fit the model; DTypeError; StructureError.
        """
        samples = self.samples(x if y is None else (x, y))
        return self.run(samples, np.random.default_rng(rng).permutation(samples.count))

    def evaluate(self, x: Any, y: Any = None, *, batch_size: int = _EVALUATED) -> Result:
        """The mean loss and the accuracy on samples, without training. Takes and raises what `epoch` does.

        The model is in evaluation meanwhile (see `Module.eval`), and afterwards in its own mode.
        """
        batch_size = counted(batch_size, "the batch size")
        return self.run(self.samples(x if y is None else (x, y)), None, batch_size=batch_size)

    def predict(self, x: Any, *, batch_size: int = _EVALUATED) -> np.ndarray:
        """The model's output for samples x of shape (n, ...), replayed in batches. Raises ShapeError.

        The model is in evaluation meanwhile (see `Module.eval`), and afterwards in its own mode.
        """
        batch_size = counted(batch_size, "the batch size")
        table = Samples(here(x, "x"), self.model.dtype, "x").x
        with in_mode(self.model, False):
            return self._predicted(table, batch_size)

    def _predicted(self, table: Table, batch_size: int) -> np.ndarray:
        self._forget_if_changed()
        flat = np.array(self.model.flat.data)
        parts = []
        for start in range(0, len(table.rows), batch_size):
            batch = table.batch(slice(start, start + batch_size))
            key = (batch.shape, batch.dtype)
            recording = self._outputs.get(key)
            if recording is None:
                recording = self._outputs[key] = record(self.model.call_with, flat, batch)
            with blas_threads(self.threads):
                parts.append(recording(flat, batch))
        return np.concatenate(parts)

    # Several epochs

    def fit(
        self, data: Any, *, epochs: int, validation: Any = None, callbacks: Any = (),
        rng: np.random.Generator | int | None = None, progress: bool = False,
        resume: str | os.PathLike[str] | None = None, watch: bool = True,
    ) -> History:  # fmt: skip
        """Several epochs.

        Args:
            data: the pair (x, y); for a training with a step, arrays nested as the step takes a batch.
            epochs: how many in all. With `resume`, those of the checkpoint count.
            validation: data like these that are not learnt, for the loss and the accuracy after each epoch.
            callbacks: `Callback`s, or functions of the training and an epoch's row of the history. The training ends
                where one returns True.
            rng: a generator for the order, or a seed.
            progress: draw a bar.
            resume: a checkpoint, from which the training goes on with the same bits: model, optimiser, order, history,
                and what callbacks remember.
            watch: raise NonFiniteError at the first batch whose loss is NaN or infinite, and say where it began.

        Returns:
            The history, which is also `training.history`.

        Ctrl-C and what callbacks raise end it; the epochs before are in `training.history`, and what was learnt stays.

        Raises what `epoch` raises; StructureError for a validation set that is nested otherwise, and for what is no
        callback; NonFiniteError; ExtraMissingError where there is no tqdm for a bar; what `load` raises.
        """
        return fit(self, data, epochs, validation, callbacks, rng, progress, resume, watch)

    def find_rate(
        self, data: Any, *, low: float = 1e-6, high: float = 1.0, steps: int = 100, rng: Any = None
    ) -> Rates:
        """Try learning rates from low to high, growing by a factor from step to step; the model is left as it was.

        Returns the rates, the losses of the batches, and a rate to begin with: see `Rates`. Raises OperationError
        unless 0 < low < high and there are ten steps or more; and what `epoch` raises.

        Source: Smith, "Cyclical learning rates for training neural networks", WACV 2017, section 3.3.
        """
        return find_rate(self, data, low, high, steps, rng)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint: model, optimiser, history, the generator of the order, what callbacks remember."""
        write_training(path, self, self.callbacks)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote. Nothing is changed unless all of it fits.

        Raises FileNotFoundError, DataError, and what `load_state_dict` of the model and the optimiser raise.
        """
        read_training(path, self, self.callbacks)

    # One pass

    def _forget_if_changed(self) -> None:
        self.model.parameters()
        if self._version != structure_version():
            self._steps.clear()
            self._outputs.clear()
            self._version = structure_version()

    def run(self, samples: Samples, order: np.ndarray | None, **how: Any) -> Result:
        """One pass over the samples in an order, or without one in their own, and then nothing is learnt. See
        `passes.one_pass`."""
        self._forget_if_changed()
        batch_size = how.pop("batch_size", None) or (_EVALUATED if order is None else self.batch_size)
        with in_mode(self.model, order is not None):
            loss, right = one_pass(self, samples, order, batch_size, **how)
        return Result(loss, right if self.labels else float("nan"))

    def blame(self, samples: Samples, rows: np.ndarray) -> Any:
        """What is wrong first with the loss or its gradient at some samples, a `tapegrad.debugging.Blame`, or None."""
        loss, step = self.loss, self.step
        x, y = samples.x.batch(rows), samples.y.batch(rows)

        def named(model: Any, x: Any, y: Any) -> Any:
            return loss(model(x), y)

        named.__qualname__ = getattr(loss, "__qualname__", "loss")
        with in_mode(self.model, True), constant_models():
            if step is None:
                return record(named, self.model, x, y).blame(self.model, x, y)
            batch = samples.nesting(x, y)
            return record(step, self.model, batch).blame(self.model, batch)

    def recorded(self, samples: Samples, batch: int) -> Step:
        """The step for batches of a size, recorded at the first samples."""
        key = (batch, samples.key, modes_of(self.model))
        if key not in self._steps:
            x, y = samples.x.batch(slice(batch)), samples.y.batch(slice(batch))
            if self.labels:
                if samples.y.shape:
                    shape = (samples.count, *samples.y.shape)
                    raise ShapeError(f"cross_entropy takes labels of shape (n,), not {shape}")
                # The step can be recorded at any labels; those given are checked when the classes are known.
                y = np.zeros_like(y)
            if self.step is None:
                self._steps[key] = Step(self.model, self.loss, x, y, self.labels)
            else:
                step, nested = self.step, samples.nesting

                def taking(model: Any, x: Any, y: Any) -> Any:
                    return step(model, nested(x, y))

                taking.__qualname__ = getattr(step, "__qualname__", type(step).__qualname__)
                self._steps[key] = Step(self.model, taking, x, y, False, whole=True)
        return self._steps[key]
