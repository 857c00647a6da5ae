"""What is known of a sparse matrix before it is evaluated: its pattern, and which columns or rows go together."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import ExtraMissingError


class Sparsity:
    """Which entries of a matrix of derivatives can be different from zero, and how few sweeps give them all.

    Attributes:
        pattern: `scipy.sparse.csr_array` of bool, (outputs, inputs).
        mode: "forward" (columns are coloured), "reverse" (rows) or "symmetric" (a Hessian's columns, starwise).
        colors: the colour of each column, or row; -1 for those without entries.
        count: how many colours, which is how many directions are swept.
    """

    def __init__(self, pattern: Any, mode: str, colors: np.ndarray, count: int) -> None:
        for own in (pattern.data, pattern.indices, pattern.indptr, colors):
            # Users can reach these arrays, and evaluations rely on them.
            own.flags.writeable = False
        self.pattern = pattern
        self.mode = mode
        self.colors = colors
        self.count = count

    def __repr__(self) -> str:
        m, n = self.pattern.shape
        return f"<Sparsity of {m} x {n}: {self.pattern.nnz} entries, {self.count} colours ({self.mode})>"

    def draw(self, ax: Any = None, *, size: float | None = None) -> Any:
        """Plot the entries, each in the colour of its column or row; returns the matplotlib axes.

        Raises ExtraMissingError without matplotlib.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise ExtraMissingError(
                "drawing a pattern needs matplotlib: pip install 'tapegrad[examples]'"
            ) from None
        m, n = self.pattern.shape
        ax = ax or plt.figure(figsize=(6, 6 * min(2.0, max(0.25, m / max(n, 1))))).gca()
        entries = self.pattern.tocoo()
        shade = self.colors[entries.row if self.mode == "reverse" else entries.col]
        ax.scatter(
            entries.col, entries.row, c=shade, cmap="tab20" if self.count > 10 else "tab10", marker="s",
            s=size or max(0.2, (250.0 / max(m, n, 1)) ** 2), linewidths=0, vmin=0, vmax=max(self.count - 1, 1),
        )  # fmt: skip
        ax.set(xlim=(-0.5, n - 0.5), ylim=(m - 0.5, -0.5), xlabel="input", ylabel="output")
        colors = "one colour" if self.count == 1 else f"{self.count} colours"
        ax.set_title(f"{entries.nnz:,} entries, {colors} ({self.mode})")
        ax.set_aspect("equal" if 0.2 < m / max(n, 1) < 5 else "auto")
        return ax
