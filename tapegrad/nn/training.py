"""`Training`: whole epochs in compiled code, around a step that was recorded once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tapegrad.arguments import spec_of
from tapegrad.errors import DTypeError, ShapeError, StructureError
from tapegrad.nn.loops import START
from tapegrad.nn.losses import LOSSES, check_labels
from tapegrad.nn.module import Module, structure_version
from tapegrad.nn.steps import Rule, Step
from tapegrad.optim.optimizer import Optimizer
from tapegrad.pickling import to_pickle
from tapegrad.recording import Recording
from tapegrad.threads import blas_threads


class Result(NamedTuple):
    """The mean loss, and the share of right answers: NaN where the loss is not cross-entropy."""

    loss: float
    accuracy: float


class Training:
    """Training a model, an epoch a call.

    The step from a batch to its gradient is recorded at the first batch. An epoch is then one compiled call, without
    the GIL: for each batch, rows are copied into the recording's arena, values and adjoints swept, and the optimiser
    runs over the parameters where they stand. After it the model's own parameters are up to date.

    Args:
        model: its parameters are trained.
        optimizer: with its learning rate or schedule; it is made with the model, or without parameters.
        loss: "cross_entropy" (targets are labels, shape (n,)), "mean_squared_error" (targets have the shape of the
            output), or a function of the model's output and the targets of a batch that returns a scalar: a mean, for
            the epoch's loss to be one. Integer targets are integers there, good to index with.
        batch_size: samples in a step.
        clip_norm: limit of the gradient's norm; see `tapegrad.optim.clip_by_norm`.
        clip_value: limit of each number of the gradient, applied before that of the norm.
        drop_last: leave out samples that do not fill a batch, instead of taking a smaller step.
        threads: threads of the BLAS; one is fastest for layers of hundreds of units. None leaves it as it is.

    What the model or loss computes outside the tape (random numbers, say) is computed once, when recorded.

    Raises ValueError for an unknown loss, a batch size or limit that is not positive; StructureError for a model
    without parameters.

    >>> from tapegrad.nn import MLP
    >>> from tapegrad.optim import Adam
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> model = MLP([1, 16, 1], "tanh")
    >>> training = Training(model, Adam(model, 0.01), loss="mean_squared_error", batch_size=16)
    >>> losses = [training.epoch(x, x * x, rng=epoch).loss for epoch in range(100)]
    >>> losses[-1] < 0.01 < losses[0]
    True
    """

    def __init__(
        self,
        model: Module,
        optimizer: Optimizer,
        loss: str | Callable[[Any, Any], Any] = "cross_entropy",
        *,
        batch_size: int = 64,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        drop_last: bool = False,
        threads: int | None = 1,
    ) -> None:
        if isinstance(loss, str) and loss not in LOSSES:
            raise ValueError(f"there is no loss {loss!r}; there are {', '.join(sorted(LOSSES))}, or give a function")
        if batch_size < 1:
            raise ValueError(f"the batch size must be positive, not {batch_size!r}")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive, not {limit!r}")
        if not model.flat.size:
            raise StructureError(f"{type(model).__name__} has no parameters to train")
        self.model = model
        self.optimizer = optimizer
        self.loss = LOSSES[loss] if isinstance(loss, str) else loss
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.threads = threads
        self._labels = self.loss is LOSSES["cross_entropy"]
        self._clips = float(clip_norm or 0.0), float(clip_value or 0.0)
        self._steps: dict[Any, Step] = {}
        self._outputs: dict[Any, Recording] = {}
        self._version = structure_version()

    def __getstate__(self) -> dict[str, Any]:
        # The steps are recorded again, and compiled code is found on disk.
        made: dict[str, Any] = {"_steps": {}, "_outputs": {}, "_version": -1}
        return self.__dict__ | made | {"loss": to_pickle(self.loss, "the loss")}

    def __repr__(self) -> str:
        name = getattr(self.loss, "__name__", repr(self.loss))
        return f"Training({self.optimizer!r}, loss={name}, batch_size={self.batch_size})"

    def steps_per_epoch(self, samples: int) -> int:
        """How many steps an epoch over so many samples takes, for schedules that end.

        >>> from tapegrad.nn import Linear
        >>> from tapegrad.optim import SGD
        >>> Training(Linear(2, 2), SGD(), batch_size=64).steps_per_epoch(100)
        2
        """
        full, rest = divmod(samples, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def epoch(self, x: Any, y: Any, rng: np.random.Generator | int | None = None) -> Result:
        """One pass over the samples in random order, one optimiser step a batch.

        Args:
            x: (n, ...), samples; converted to the model's dtype if they have another.
            y: (n, ...), targets.
            rng: a generator for the order, or a seed.

        Returns:
            The mean loss and the accuracy over the epoch, each batch before its step.

        Ctrl-C takes effect within a second; the batches before it stay learnt.

        Raises LabelError, before anything is changed, for labels that are NaN or out of range; ShapeError for x and y
        of different lengths, or what does not fit the model; DTypeError.
        """
        order = np.random.default_rng(rng).permutation(len(x))
        return self._run(x, y, order, self.batch_size, self.optimizer)

    def evaluate(self, x: Any, y: Any, *, batch_size: int = 500) -> Result:
        """The mean loss and the accuracy on samples, without training. Takes and raises what `epoch` does."""
        return self._run(x, y, np.arange(len(x)), batch_size, None)

    def predict(self, x: Any, *, batch_size: int = 500) -> np.ndarray:
        """The model's output for samples x of shape (n, ...), replayed in batches. Raises ShapeError."""
        self._forget_if_changed()
        x = self._array(x, "x")
        flat = np.array(self.model.flat.data)
        parts = []
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size]
            recording = self._outputs.get(batch.shape)
            if recording is None:
                spec, leaves = spec_of([flat, batch])
                recording = self._outputs[batch.shape] = Recording(self.model.call_with, spec, leaves, [])
            with blas_threads(self.threads):
                parts.append(recording(flat, batch))
        if not parts:
            raise ShapeError("predict needs at least one sample")
        return np.concatenate(parts)

    # One pass

    def _forget_if_changed(self) -> None:
        self.model.parameters()
        if self._version != structure_version():
            self._steps.clear()
            self._outputs.clear()
            self._version = structure_version()

    def _run(self, x: Any, y: Any, order: np.ndarray, batch: int, optimizer: Optimizer | None) -> Result:
        self._forget_if_changed()
        integers = np.asarray(y).dtype.kind in "iub"
        x, y = self._array(x, "x"), self._array(y, "y")
        if len(x) != len(y):
            raise ShapeError(f"x has {len(x)} samples, y {len(y)}")
        if not len(x):
            raise ShapeError("an epoch needs at least one sample")
        full = len(x) // batch * batch
        parts = [order[:full]] if full else []
        if full < len(x) and not (optimizer and self.drop_last):
            parts.append(order[full:])
        if not parts:
            raise ShapeError(f"drop_last leaves none of {len(x)} samples: the batch size is {batch}")
        steps = [self._step(x, y, min(batch, len(part)), integers) for part in parts]
        if self._labels:
            check_labels(y, steps[0].classes)
        xs, ys = x.reshape(len(x), -1), y.reshape(len(y), -1)
        sums = np.zeros(2)
        p = np.array(self.model.flat.data)
        try:
            with blas_threads(self.threads):
                for step, part in zip(steps, parts, strict=True):
                    p = self._stretch(step, p, xs, ys, part, optimizer, sums)
        finally:
            # If there is an error, the batches before it still count: model and optimiser keep what they learnt.
            if optimizer:
                self.model.flat.data = p
        n = sum(len(part) for part in parts)
        return Result(float(sums[0] / n), float(sums[1] / n) if self._labels else float("nan"))

    def _stretch(
        self, step: Step, p: np.ndarray, xs: np.ndarray, ys: np.ndarray, order: np.ndarray, optimizer: Optimizer | None,
        sums: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        count = len(order) // step.batch
        rates = np.zeros(count)
        if optimizer:
            rates[:] = [optimizer.rate(optimizer.steps + i) for i in range(count)]
        rule = Rule(optimizer, rates, np.array(self._clips))
        step.parameters[:] = p
        counts = np.array([0, optimizer.steps if optimizer else 0])
        try:
            step.run(rule, counts, xs, ys, order, sums)
        finally:
            if optimizer:
                optimizer.steps += int(counts[START])
                p[:] = step.parameters
        return p

    def _step(self, x: np.ndarray, y: np.ndarray, batch: int, integers: bool) -> Step:
        key = (batch, x.shape[1:], y.shape[1:], integers)
        if key not in self._steps:
            first = y[:batch].astype(np.int64) if integers else y[:batch]
            if self._labels:
                if y.ndim != 1:
                    raise ShapeError(f"cross_entropy takes labels of shape (n,), not {y.shape}")
                # The step can be recorded at any labels; those given are checked when the classes are known.
                first = np.zeros_like(first)
            self._steps[key] = Step(self.model, self.loss, x[:batch], first, self._labels)
        return self._steps[key]

    def _array(self, given: Any, what: str) -> np.ndarray:
        array = np.asarray(given)
        if array.dtype.kind not in "fiub":
            raise DTypeError(f"{what} must be an array of real numbers, not {array.dtype}")
        if array.ndim == 0:
            raise ShapeError(f"{what} must have one row for each sample, this is a single number")
        return np.ascontiguousarray(array, self.model.dtype)
