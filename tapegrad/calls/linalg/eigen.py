"""Eigenvalues and eigenvectors of symmetric matrices.

With a v = v diag(w): dw = diag(v' da v), dv = v (F * (v' da v)), F_ij = 1 / (w_j - w_i) off the diagonal (M. B. Giles,
Collected matrix derivative results, 2008, section 3.1).

Where eigenvalues are equal, eigenvectors have no derivative: any rotation of them is as good. What does not involve
them is right all the same: the gradient of a function of eigenvalues alone that treats equal ones alike, and
eigenvectors of other eigenvalues. Everything else is NaN. Eigenvalues count as equal where rounding may have made the
difference. Along a tangent, equal eigenvalues change by the diagonal elements, whose sum is what counts.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from tapegrad.calls.arrays import ArrayFunction, Shape, family
from tapegrad.calls.linalg.basic import eye, square, transposed
from tapegrad.errors import OperationError, UnsupportedError
from tapegrad.functions.registry import implements


def rounding(x: Any, n: int) -> Any:
    """What rounding may make of n numbers x along the last axis, which is kept."""
    return np.max(np.abs(x), -1, keepdims=True) * _eps(x, 8.0 * n)


def _eps(x: Any, factor: float) -> Any:
    return x.dtype.type(factor * np.finfo(x.dtype).eps)


def largest(x: Any) -> Any:
    """The largest absolute number of each matrix; the two axes are kept."""
    return np.max(np.abs(x), (-2, -1), keepdims=True)


def pairs(x: Any) -> tuple[Any, Any]:
    """Numbers along the last axis as rows and as columns: x_j and x_i at place ij."""
    return x.reshape(*x.shape[:-1], 1, x.shape[-1]), x.reshape(*x.shape, 1)


def equal(w: Any, tolerance: Any = None) -> Any:
    """Where w_i and w_j cannot be told apart, i and j being different."""
    right, left = pairs(w)
    tolerance = rounding(w, w.shape[-1]) if tolerance is None else tolerance
    tolerance = tolerance.reshape(*tolerance.shape, 1)
    return (np.abs(right - left) <= tolerance) & (eye(w.shape[-1], w.dtype) == 0.0)


def diagonal_matrix(x: Any) -> Any:
    """Matrices with these numbers along the diagonal."""
    return x.reshape(*x.shape[:-1], 1, x.shape[-1]) * eye(x.shape[-1], x.dtype)


def quotients(x: Any, differences: Any, same: Any) -> Any:
    """x_ij divided by differences off the diagonal, 0 on it and where two are the same."""
    skipped = same | (eye(x.shape[-1], x.dtype) != 0.0)
    return np.where(skipped, 0.0, x / np.where(skipped, 1.0, differences))


def undefined(same: Any, used: Any) -> Any:
    """What makes NaN of places that are undefined and used, and leaves others: to be added."""
    return np.where(same & used, np.nan, 0.0)


def unlike(w: Any) -> Any:
    """Where gradients of numbers differ by more than those of numbers that rounding has moved apart could."""
    right, left = pairs(w)
    bound = np.maximum(np.abs(right), np.abs(left)) * w.dtype.type(np.sqrt(np.finfo(w.dtype).eps))
    return np.abs(right - left) > bound


def noticeable(x: Any, of: Any) -> Any:
    """Where elements of x are more than rounding can make of products with matrices `of`."""
    return np.abs(x) > largest(of) * _eps(x, 64.0 * of.shape[-2])


def involved(gv: Any) -> Any:
    """Whether the gradient by vectors, the columns, reaches vector i or j."""
    right, left = pairs(np.max(np.where(noticeable(gv, gv), 1.0, 0.0), -2))
    return np.maximum(right, left) > 0.0


class EighResult(NamedTuple):
    """What `np.linalg.eigh` returns."""

    eigenvalues: Any
    eigenvectors: Any


def gap(numbers: Any, n: int) -> float:
    """The smallest difference of sorted numbers; 0 where it may be due to rounding."""
    if not numbers.size:
        return np.inf
    smallest = np.abs(np.diff(numbers, axis=-1)) if n > 1 else np.full((1, 1), np.inf)
    return float(np.min(np.where(smallest <= rounding(numbers, n), 0.0, smallest)))


def _vectors_shapes(a: Shape) -> list[Shape]:
    return [a[:-1], a]


def _symmetric(g: Any) -> Any:
    return (g + transposed(g)) * g.dtype.type(0.5)


def _eigh_vjp(g: Any, z: Any, a: Any) -> Any:
    (gw, gv), (w, v) = g, z
    m, same, (right, left) = np.matmul(transposed(v), gv), equal(w), pairs(w)
    inner = quotients(m, right - left, same) + diagonal_matrix(gw)
    inner = inner + undefined(same, involved(gv) | unlike(gw))
    return (_symmetric(np.matmul(np.matmul(v, inner), transposed(v))),)


def _eigh_jvp(ts: Any, z: Any, a: Any) -> Any:
    w, v = z
    along = _symmetric(ts[0])
    m, same, (right, left) = np.matmul(np.matmul(transposed(v), along), v), equal(w), pairs(w)
    inner = quotients(m, right - left, same) + undefined(same, largest(along) > 0.0)
    return np.diagonal(m, 0, -2, -1), np.matmul(v, inner)


def _values_vjp(g: Any, w: Any, a: Any) -> Any:
    _, v = _eigh(a)
    inner = diagonal_matrix(g) + undefined(equal(w), unlike(g))
    return (_symmetric(np.matmul(np.matmul(v, inner), transposed(v))),)


def _values_jvp(ts: Any, w: Any, a: Any) -> Any:
    _, v = _eigh(a)
    return np.sum(v * np.matmul(_symmetric(ts[0]), v), -2)


@family("eigh")
def _eigh_of(uplo: Literal["L", "U"]) -> ArrayFunction:
    # LAPACK signs vectors otherwise where it reads the other triangle.
    return ArrayFunction(
        ("eigh", uplo), lambda a: tuple(np.linalg.eigh(a, uplo)), _vectors_shapes, _eigh_vjp, _eigh_jvp,
        lambda a: gap(np.linalg.eigvalsh(a), a.shape[-1]),
    )  # fmt: skip


_eigh = _eigh_of("L")
_eigvalsh = ArrayFunction(
    ("eigvalsh",), np.linalg.eigvalsh, lambda a: a[:-1], _values_vjp, _values_jvp,
    lambda a: gap(np.linalg.eigvalsh(a), a.shape[-1]),
)  # fmt: skip


def _one_triangle(what: str, a: Any, UPLO: str) -> Any:
    a = square(what, a)
    if UPLO.upper() not in ("L", "U"):
        raise OperationError(f"{what}: UPLO is 'L' or 'U', not {UPLO!r}")
    return a if UPLO.upper() == "L" else transposed(a)


@implements(np.linalg.eigh)
def eigh(a: Any, UPLO: str = "L") -> EighResult:
    """Eigenvalues in ascending order and eigenvectors of symmetric matrices (..., n, n).

    Only one triangle is read. Derivatives take the matrix for symmetric: gradients are, and of a tangent the symmetric
    part counts. Where eigenvalues are equal, gradients that involve their eigenvectors, or treat them differently, are
    NaN. Raises ShapeError.
    """
    a = _one_triangle("np.linalg.eigh", a, UPLO)
    return EighResult(*(_eigh_of("U")(transposed(a)) if UPLO.upper() == "U" else _eigh(a)))


@implements(np.linalg.eigvalsh)
def eigvalsh(a: Any, UPLO: str = "L") -> Any:
    """Eigenvalues of symmetric matrices (..., n, n) in ascending order, with derivatives as those of `eigh`.

    The gradient is right for equal eigenvalues too, if the function treats them alike (a sum over all of them, say),
    and NaN if it does not.
    """
    return _eigvalsh(_one_triangle("np.linalg.eigvalsh", a, UPLO))


def _refused(name: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(
            f"np.linalg.{name} is not supported on a Value: eigenvalues of a matrix that is not symmetric are complex. "
            "For a symmetric matrix use np.linalg.eigh or np.linalg.eigvalsh, for singular values np.linalg.svd"
        )

    refuse.__doc__ = f"np.linalg.{name} is refused."
    return refuse


for _function in (np.linalg.eig, np.linalg.eigvals):
    implements(_function)(_refused(_function.__name__))
