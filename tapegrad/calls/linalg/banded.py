"""Systems of equations with banded matrices, given by their diagonals.

Row r of these has at place j the element a[j + r - u, j], where u is the number of diagonals above the main one.

With a x = b, and g from a' g = w, the gradient by a_ij is -g_i x_j.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.calls.arrays import ArrayFunction, family, require


def _slanted(rows: Any, before: int, after: int) -> Any:
    """Of rows (d, n), zeros beside them, those where row r is moved to the right by r - before; of the same length."""
    d, n = rows.shape
    wide = np.concatenate([np.zeros((d, after), rows.dtype), rows, np.zeros((d, before), rows.dtype)], 1)
    return wide[np.arange(d)[:, None], np.arange(n) + (after + before - np.arange(d))[:, None]]


def flipped(ab: Any, below: int, above: int) -> Any:
    """The diagonals of the transposed matrix."""
    return _slanted(ab, above, below)[::-1]


def _product(ab: Any, x: Any, below: int, above: int) -> Any:
    """The matrix times columns x (n, k)."""
    return np.stack([np.sum(_slanted(ab * x[:, j], above, below), 0) for j in range(x.shape[1])], 1)


@family("solve_banded")
def solver(below: int, above: int) -> ArrayFunction:
    """The function (ab, b) -> x with a x = b, for b of shape (n, k)."""

    def value(ab: Any, b: Any) -> Any:
        import scipy.linalg

        return scipy.linalg.solve_banded((below, above), ab, b, check_finite=False)

    def vjp(w: Any, x: Any, ab: Any, b: Any) -> Any:
        g = solver(above, below)(flipped(ab, below, above), w)
        n, k = x.shape
        padded = np.concatenate([np.zeros((above, k), x.dtype), g, np.zeros((below, k), x.dtype)], 0)
        places = np.arange(below + above + 1)[:, None] + np.arange(n)
        return -np.sum(padded[places] * x, -1), g

    def jvp(ts: Any, x: Any, ab: Any, b: Any) -> Any:
        right = 0.0 if ts[1] is None else ts[1]
        return solver(below, above)(ab, right if ts[0] is None else right - _product(ts[0], x, below, above))

    return ArrayFunction(("solve_banded", below, above), value, lambda ab, b: b, vjp, jvp)


def solve_banded(what: str, below: int, above: int, ab: Any, b: Any) -> Any:
    """x with a x = b, for b of shape (n,) or (n, k). Raises ShapeError."""
    require(
        ab.ndim == 2 and below >= 0 and above >= 0 and ab.shape[0] == below + above + 1,
        f"{what}: {below} diagonals below and {above} above want {below + above + 1} rows, not shape {ab.shape}",
    )
    n = ab.shape[1]
    require(
        b.ndim in (1, 2) and b.shape[0] == n, f"{what}: diagonals of shape {ab.shape} and b of {b.shape} do not fit"
    )
    if not n:
        return b * 1.0
    return solver(below, above)(ab, b.reshape(n, -1 if b.size else b.shape[-1])).reshape(*b.shape)


def of_symmetric(ab: Any, lower: bool) -> Any:
    """All diagonals of a symmetric matrix, of those on one side and the main one."""
    m = ab.shape[0] - 1
    if lower:
        others = _slanted(ab, 0, m)
        return np.concatenate([others[1:][::-1], ab], 0)
    others = _slanted(ab, m, 0)
    return np.concatenate([ab, others[:-1][::-1]], 0)
