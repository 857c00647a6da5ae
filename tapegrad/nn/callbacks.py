"""What is told of the course of a training, and may end it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tapegrad.errors import ExtraMissingError, OperationError, StructureError

if TYPE_CHECKING:
    from tapegrad.nn.history import Row


class Callback:
    """Base class of what `Training.fit` calls. All methods do nothing here; those that are wanted are overridden.

    `on_epoch` and `on_step` end the training by returning True. What they raise ends it too, and nothing that was
    learnt is lost. `every` says after how many steps `on_step` is called: the steps between are one call of compiled
    code.

    `state_dict` and `load_state_dict` keep in a checkpoint what a callback has to remember.

    >>> from tapegrad.nn import Linear, Training
    >>> from tapegrad.optim import SGD
    >>> class Told(Callback):
    ...     def on_epoch(self, training, row):
    ...         return row["loss"] < 0.01
    >>> training = Training(Linear(1, 1, rng=0), SGD(lr=0.5), "mean_squared_error", batch_size=8)
    >>> x = np.linspace(-1.0, 1.0, 32)[:, None]
    >>> history = training.fit((x, 2.0 * x), epochs=100, callbacks=[Told()], rng=0)
    >>> len(history) < 100 and history[-1]["loss"] < 0.01
    True
    """

    every = 1
    # Whether it is called after others, so that it sees what they have remembered.
    late = False

    def on_start(self, training: Any) -> None:
        """Before the first epoch."""

    def on_step(self, training: Any, step: int, losses: np.ndarray) -> Any:
        """After `every` steps, and after the last of an epoch. It may give the model other numbers, which the next step
        goes on from.

        Args:
            step: how many steps were made in this epoch.
            losses: of the batches since it was called before.
        """

    def on_epoch(self, training: Any, row: Row) -> Any:
        """After an epoch.

        Args:
            row: the epoch's row of the history; what is added is kept there, if it is a number.
        """

    def on_end(self, training: Any) -> None:
        """After the last epoch, also where the training is ended by an exception."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """What it has to remember for a training that is resumed."""
        return {}

    def load_state_dict(self, saved: Mapping[str, np.ndarray]) -> None:
        """Take up what `state_dict` has returned."""


class _Function(Callback):
    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def on_epoch(self, training: Any, row: Row) -> Any:
        return self.function(training, row)


def callbacks_of(given: Any) -> list[Callback]:
    """Callbacks, and functions that are called as `on_epoch` is. Raises StructureError for anything else."""
    items = list(given) if isinstance(given, Iterable) else [given]
    found: list[Callback] = []
    for item in items:
        if not isinstance(item, Callback) and (isinstance(item, type) or not callable(item)):
            what = f"the class {item.__name__}" if isinstance(item, type) else f"a {type(item).__name__}"
            raise StructureError(f"a callback is a Callback or a function of (training, row), not {what}")
        found.append(item if isinstance(item, Callback) else _Function(item))
    return sorted(found, key=lambda callback: callback.late)


class EarlyStopping(Callback):
    """End the training when it does not get better, and take the best weights.

    Args:
        patience: for how many epochs in succession it may not get better.
        monitor: which number of the history's rows counts; by default "validation_loss".
        min_delta: how much better it has to be to count.
        maximize: whether larger is better; by default where the name ends with "accuracy".
        restore_best: whether the model has the numbers of its best epoch afterwards, buffers included. Also where the
            training ends for another reason.

    `best` is the best number, `best_epoch` its epoch.

    Raises OperationError for a patience below 1; StructureError where the rows have no such number.
    """

    def __init__(
        self, patience: int = 5, monitor: str = "validation_loss", *, min_delta: float = 0.0,
        maximize: bool | None = None, restore_best: bool = True,
    ) -> None:  # fmt: skip
        if patience < 1:
            raise OperationError(f"the patience must be 1 epoch or more, not {patience!r}")
        self.patience, self.monitor, self.min_delta, self.restore_best = patience, monitor, min_delta, restore_best
        self.sign = -1.0 if (monitor.endswith("accuracy") if maximize is None else maximize) else 1.0
        self._forget()

    def _forget(self) -> None:
        self.best, self.best_epoch, self.waited = math.inf * self.sign, 0, 0
        self._weights: dict[str, np.ndarray] = {}

    def on_start(self, training: Any) -> None:
        if not training.history:
            self._forget()

    def on_epoch(self, training: Any, row: Row) -> bool:
        if self.monitor not in row:
            raise StructureError(
                f"EarlyStopping looks at {self.monitor!r}, the epoch has {', '.join(row)}"
                + ("; give fit a validation set" if self.monitor.startswith("validation") else "")
            )
        found = row[self.monitor]
        # NaN is never better.
        if self.sign * found < self.sign * self.best - self.min_delta:
            self.best, self.best_epoch, self.waited = found, int(row["epoch"]), 0
            if self.restore_best:
                self._weights = training.model.state_dict()
            return False
        self.waited += 1
        return self.waited >= self.patience

    def on_end(self, training: Any) -> None:
        if self._weights:
            training.model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, np.ndarray]:
        numbers = np.array([self.best, self.best_epoch, self.waited], np.float64)
        return {"numbers": numbers, **{f"best.{name}": array for name, array in self._weights.items()}}

    def load_state_dict(self, saved: Mapping[str, np.ndarray]) -> None:
        best, epoch, waited = np.asarray(saved["numbers"], float).tolist()
        self.best, self.best_epoch, self.waited = best, int(epoch), int(waited)
        self._weights = {name[5:]: np.array(array) for name, array in saved.items() if name.startswith("best.")}


class Progress(Callback):
    """A bar by tqdm, which moves on with each epoch and shows its numbers."""

    def __init__(self, epochs: int) -> None:
        try:
            from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise ExtraMissingError(
                "progress=True draws a bar by tqdm, which is not installed: pip install tapegrad[examples]"
            ) from None
        self._made, self._epochs = tqdm, epochs
        self._bar: Any = None

    def on_start(self, training: Any) -> None:
        self._bar = self._made(total=self._epochs, initial=len(training.history), unit="epoch")

    def on_epoch(self, training: Any, row: Row) -> None:
        shown = {name: f"{number:.4g}" for name, number in row.items() if name.endswith(("loss", "accuracy"))}
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(1)

    def on_end(self, training: Any) -> None:
        if self._bar is not None:
            self._bar.close()
