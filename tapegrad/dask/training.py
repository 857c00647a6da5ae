"""`Training`: networks trained on data that lie on a cluster, by steps that all workers take together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.dask.arguments import Arguments
from tapegrad.dask.sums import Sums
from tapegrad.errors import OperationError, ShapeError, StructureError, UnsupportedError
from tapegrad.nn.buffers import Buffer
from tapegrad.nn.losses import LOSSES
from tapegrad.nn.module import Module, structure_version
from tapegrad.optim.optimizer import Optimizer


class Training:
    """Training a model on Dask arrays, an epoch a call.

    A step takes some chunks of the data, in random order: each is one task, the gradient of its rows at the same
    parameters; the optimiser then runs on the client, over the mean of all rows. So a step is the step that one process
    would take over these rows, whatever the number of workers. How many rows it takes is decided by the lengths of the
    chunks: `x.rechunk` changes these.

    Args:
        model: its parameters are trained.
        optimizer: with its learning rate or schedule; it is made with the model, or without parameters.
        loss: "cross_entropy" (targets are labels), "mean_squared_error" (targets have the shape of the output), or a
            function of the model's output and the targets of a batch. It is called for batches of one row, and its mean
            over the rows of a step is what the step goes down.
        chunks_per_step: how many chunks a step takes; as many as there are workers, or a multiple, keeps all at work.
        patience: as for `tapegrad.dask.value_and_grad`.

    What the model or loss computes outside the tape (random numbers, say) is computed once, when recorded. Rows are
    computed one by one, so a model that mixes the rows of a batch is not trained as by `tapegrad.nn.Training`.

    Raises OperationError for an unknown loss, or fewer chunks than one; StructureError for a model without parameters;
    UnsupportedError for one with buffers (`BatchNorm1d`, `Dropout`) that are in training.

    >>> import dask.array as da
    >>> from tapegrad.nn import MLP
    >>> from tapegrad.optim import Adam
    >>> x = da.linspace(-1.0, 1.0, 64, chunks=8)[:, None]
    >>> model = MLP([1, 16, 1], "tanh")
    >>> training = Training(model, Adam(model, 0.02), loss="mean_squared_error", chunks_per_step=4)
    >>> losses = [training.epoch(x, x * x, rng=epoch) for epoch in range(10)]
    >>> losses[-1] < losses[0]
    True
    """

    def __init__(
        self, model: Module, optimizer: Optimizer, loss: str | Callable[[Any, Any], Any] = "cross_entropy", *,
        chunks_per_step: int, patience: float = 60.0,
    ) -> None:  # fmt: skip
        if isinstance(loss, str) and loss not in LOSSES:
            known = ", ".join(sorted(LOSSES))
            raise OperationError(f"there is no loss {loss!r}; there are {known}, or give a function")
        if chunks_per_step < 1:
            raise OperationError(f"a step takes at least one chunk, not {chunks_per_step!r}")
        if not model.flat.size:
            raise StructureError(f"{type(model).__name__} has no parameters to train")
        _refuse_state(model)
        self.model, self.optimizer, self.chunks_per_step = model, optimizer, chunks_per_step
        self.loss = LOSSES[loss] if isinstance(loss, str) else loss
        self._patience = patience
        self._sums: Sums | None = None
        self._version = structure_version()

    def epoch(self, x: Any, y: Any, rng: np.random.Generator | int | None = None) -> float:
        """One pass over the chunks in random order, one optimiser step for each `chunks_per_step` of them.

        Args:
            x: (n, ...), samples, a Dask array; computed with in the model's dtype if they have another.
            y: (n, ...), targets, a Dask array.
            rng: a generator for the order, or a seed.

        Returns the mean loss over all rows, each step before its update. The chunks of a step are computed when it is
        their turn; x.persist() keeps them in the workers' memory from one epoch to the next.

        Raises what `tapegrad.dask.value_and_grad` raises. The steps before the error stay learnt.
        """
        _refuse_state(self.model)
        summed = self._recorded()
        arguments = Arguments((x, y))
        x, y = [
            # Integers among the targets are labels, good to index with.
            a if a.dtype == self.model.dtype or (own and a.dtype.kind in "iu") else a.astype(self.model.dtype)
            for a, own in zip(arguments.arrays, (False, True), strict=True)
        ]
        order = np.random.default_rng(rng).permutation(arguments.chunks)
        p, total, count = np.array(self.model.flat.data), 0.0, 0
        # What the optimiser was made for, and the groups, as `nn.Training` takes them.
        runs = self.optimizer.runs_of_model(self.model)
        try:
            for start in range(0, len(order), self.chunks_per_step):
                # In the order of the data, so that sums are the same whatever the order within a step.
                some = np.sort(order[start : start + self.chunks_per_step])
                if all(x.chunks[0][i] == 0 for i in some):
                    continue
                rows, value, gradient = summed.over((p, x.blocks[some], y.blocks[some]), True)
                if rows:
                    self.optimizer.apply(p, np.ascontiguousarray(gradient, p.dtype), runs)
                    total, count = total + value * rows, count + rows
        finally:
            self.model.flat.data = p
        if not count:
            raise ShapeError("an epoch needs at least one row")
        return total / count

    def _recorded(self) -> Sums:
        self.model.parameters()
        if self._sums is None or self._version != structure_version():
            model, loss = self.model, self.loss

            def of_row(flat: Any, x: Any, y: Any) -> Any:
                x, y = (np.reshape(a, (1, *np.shape(a))) for a in (x, y))
                return loss(model.call_with(flat, x), y)

            self._sums, self._version = Sums(of_row, 0, None, self._patience), structure_version()
        return self._sums


def _refuse_state(model: Module) -> None:
    """Raise UnsupportedError where a part of the model would write buffers, or draw random numbers, at each step."""
    for name, part in model.named_modules():
        if part.training and any(isinstance(x, Buffer) for x in vars(part).values()):
            raise UnsupportedError(
                f"{name or 'the model'} is a {type(part).__name__} in training, which changes its buffers (running "
                "statistics, random numbers) at each step, and rows on a cluster are computed one by one, without "
                "them: put it into evaluation with .eval(), use LayerNorm or GroupNorm, or train with "
                "tapegrad.nn.Training"
            )
