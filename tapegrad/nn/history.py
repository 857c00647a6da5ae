"""The course of a training: a row for each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from tapegrad.errors import ExtraMissingError

Row = dict[str, float]


class History(Sequence[Row]):
    """What `Training.fit` has measured, an epoch a row.

    A row is a dict: "epoch" (from 1), "steps" (updates so far), "loss", "rate" (of the last step), "seconds";
    "accuracy" for cross-entropy; "validation_loss" and "validation_accuracy" where there is a validation set; and what
    callbacks have added. `history["loss"]` is a column, NaN where a row has no such number.

    >>> history = History([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 0.5}])
    >>> history["loss"]
    array([2. , 0.5])
    >>> history[-1]["epoch"], len(history)
    (2, 2)
    >>> history
    epoch  loss
        1     2
        2   0.5
    """

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows = [dict(row) for row in rows]

    @overload
    def __getitem__(self, which: int) -> Row: ...
    @overload
    def __getitem__(self, which: slice) -> History: ...
    @overload
    def __getitem__(self, which: str) -> np.ndarray: ...
    def __getitem__(self, which: int | slice | str) -> Row | History | np.ndarray:
        if isinstance(which, str):
            if self.rows and which not in self.columns:
                raise KeyError(f"the history has no {which!r}; it has {', '.join(self.columns)}")
            return np.array([row.get(which, np.nan) for row in self.rows])
        if isinstance(which, slice):
            return History(self.rows[which])
        return self.rows[which]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def columns(self) -> list[str]:
        """The names of all that was measured."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __repr__(self) -> str:
        if not self.rows:
            return "History(no epochs)"
        names = self.columns
        table = [names, *([f"{row.get(name, np.nan):.5g}" for name in names] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in table)

    def to_dataframe(self) -> Any:
        """A table of pandas, with the epochs as its index.

        Raises ExtraMissingError where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ExtraMissingError("to_dataframe needs pandas: pip install tapegrad[pandas]") from None
        return pandas.DataFrame(self.rows, columns=self.columns or None).set_index("epoch" if self.rows else [])

    def plot(self, axes: Any = None) -> Any:
        """Draw losses, and accuracies where there are some, over the epochs; returns matplotlib's figure.

        Args:
            axes: one or two axes to draw in; made if None.

        Raises ExtraMissingError where matplotlib is not installed.
        """
        kinds = [kind for kind in ("loss", "accuracy") if any(name.endswith(kind) for name in self.columns)] or ["loss"]
        axes = np.atleast_1d(_axes(len(kinds)) if axes is None else axes)
        for kind, axis in zip(kinds, axes):
            for name in self.columns:
                if name.endswith(kind):
                    style = "--" if name.startswith("validation") else "-"
                    axis.plot(self["epoch"], self[name], style, label=name.replace("_", " "))
            axis.set_xlabel("epoch")
            axis.set_ylabel(kind)
            if self.rows:
                axis.legend()
        return axes[0].figure


def _axes(count: int) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ExtraMissingError("plot needs matplotlib: pip install tapegrad[examples]") from None
    return Figure(figsize=(5.0 * count, 3.5), layout="constrained").subplots(1, count)
