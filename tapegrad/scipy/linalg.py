"""`scipy.linalg` for Values: functions of the same names and arguments; plain arrays go to SciPy's own.

Leading axes are a batch. SciPy's arguments `overwrite_a`, `overwrite_b` and `check_finite` may be given by name, and
change nothing.

>>> import numpy as np
>>> import tapegrad as tg
>>> from tapegrad.scipy import linalg
>>> tg.grad(lambda t: linalg.expm(t * np.array([[0.0, 1.0], [-1.0, 0.0]]))[0, 1])(0.0)
1.0
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tapegrad.calls.arrays import arrays_of, require
from tapegrad.calls.linalg import banded, functions
from tapegrad.calls.linalg.basic import fitting, square, transposed, triangular
from tapegrad.errors import OperationError, StructureError
from tapegrad.functions.registry import holds_value

__all__ = [
    "block_diag", "cho_factor", "cho_solve", "cholesky", "det", "expm", "inv", "logm", "lu_factor", "lu_solve", "solve",
    "solve_banded", "solve_sylvester", "solve_triangular", "solveh_banded", "sqrtm", "toeplitz",
]  # fmt: skip


_WITHOUT_MEANING = ("overwrite_a", "overwrite_b", "check_finite")


def _as_scipy(function: Any) -> Any:
    """Decorator: call SciPy's function of that name where there is no Value among the arguments."""

    @functools.wraps(function)
    def either(*args: Any, **kwargs: Any) -> Any:
        if holds_value(args) or holds_value(list(kwargs.values())):
            return function(*args, **{name: x for name, x in kwargs.items() if name not in _WITHOUT_MEANING})
        import scipy.linalg

        return getattr(scipy.linalg, function.__name__)(*args, **kwargs)

    return either


def _pair(name: str, given: Any, what: str) -> tuple[Any, Any]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise StructureError(f"{name}: the first argument must be a pair, {what}, not {type(given).__name__}")
    first, second = given
    return first, second


@_as_scipy
def cholesky(a: Any, lower: bool = False) -> Any:
    """The triangular factor of symmetric positive definite matrices (..., n, n): a = u' u, or a = l l' if `lower`.

    Derivatives as of `np.linalg.cholesky`. Raises ShapeError, LinAlgError where a matrix is not positive definite.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: cholesky(np.eye(2) * x)[0, 0])(4.0)
    0.25
    """
    return np.linalg.cholesky(square("cholesky", a), upper=not lower)


@_as_scipy
def cho_factor(a: Any, lower: bool = False) -> tuple[Any, bool]:
    """What `cho_solve` takes: the factor of `cholesky`, and whether it is the lower one. The other triangle is zero.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: cho_factor(np.eye(2) * x)[0][0, 0])(4.0)
    0.25
    """
    return cholesky(a, lower), lower


@_as_scipy
def cho_solve(c_and_lower: tuple[Any, bool], b: Any) -> Any:
    """x with a x = b, of what `cho_factor` returns for a, and b of shape (n,) or (..., n, k). Raises ShapeError.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: cho_solve(cho_factor(np.eye(2) * x), np.ones(2))[0])(4.0)
    -0.0625
    """
    c, lower = _pair("cho_solve", c_and_lower, "what cho_factor returns")
    c, b, restored = fitting("cho_solve", c, b)
    first, second = triangular(bool(lower), not lower), triangular(bool(lower), bool(lower))
    return restored(second(c, first(c, b)))


@_as_scipy
def solve_triangular(a: Any, b: Any, trans: Any = 0, lower: bool = False, unit_diagonal: bool = False) -> Any:
    """x with a x = b, or a' x = b for `trans` 1 or "T"; only one triangle of a (..., n, n) is read and gets a gradient.

    b has shape (n,) or (..., n, k). With `unit_diagonal` the diagonal is taken for ones. Raises ShapeError,
    OperationError for another `trans`, LinAlgError where an element of the diagonal is zero.

    >>> import tapegrad as tg
    >>> tg.grad(lambda a: np.sum(solve_triangular(a, np.ones(2), lower=True)))(np.eye(2))
    array([[-1.,  0.],
           [-1., -1.]])
    """
    if trans not in (0, 1, 2, "N", "T", "C"):
        raise OperationError(f"solve_triangular: trans is 0, 1, 2, 'N', 'T' or 'C', not {trans!r}")
    a, b, restored = fitting("solve_triangular", a, b)
    return restored(triangular(bool(lower), trans not in (0, "N"), bool(unit_diagonal), True)(a, b))


@_as_scipy
def solve(a: Any, b: Any, lower: bool = False, *, assume_a: Any = None, transposed: bool = False) -> Any:
    """x with a x = b, or a' x = b if `transposed`; a of shape (..., n, n), b of (n,) or (..., n, k).

    `assume_a` as in SciPy: of a matrix that is "sym", "her", "pos" or triangular only one triangle is read (the lower
    one if `lower`); all others are solved as general ones. Raises ShapeError, OperationError for another `assume_a`,
    LinAlgError for a singular matrix.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: solve(np.eye(2) * x, np.ones(2), assume_a="pos")[0])(4.0)
    -0.0625
    """
    kind = {
        "symmetric": "sym", "hermitian": "sym", "her": "sym", "positive definite": "pos", None: "gen",
        "upper triangular": "upper", "lower triangular": "lower",
        "general": "gen", "diagonal": "gen", "tridiagonal": "gen", "banded": "gen",
    }.get(assume_a, assume_a)  # fmt: skip
    if kind not in ("gen", "sym", "pos", "upper", "lower"):
        raise OperationError(f"solve: assume_a={assume_a!r} is none of SciPy's")
    if kind in ("upper", "lower"):
        return solve_triangular(a, b, int(transposed), kind == "lower")
    if kind == "pos":
        return cho_solve(cho_factor(a, lower), b)
    a = square("solve", a)
    if kind == "sym":
        half = np.tril(a) if lower else np.triu(a)
        return np.linalg.solve(half + (np.tril if not lower else np.triu)(a.swapaxes(-1, -2), 1 if lower else -1), b)
    return np.linalg.solve(a.swapaxes(-1, -2) if transposed else a, b)


@_as_scipy
def solve_banded(l_and_u: Any, ab: Any, b: Any) -> Any:
    """x with a x = b, for a matrix of l diagonals below and u above the main one: ab[u + i - j, j] is a[i, j].

    ab has shape (l + u + 1, n), b (n,) or (n, k). What of ab lies outside of the matrix gets no gradient. Raises
    ShapeError, LinAlgError for a singular matrix.

    >>> import tapegrad as tg
    >>> tg.grad(lambda d: solve_banded((0, 1), tg.stack([[0.0, 1.0], [d, d]]), np.ones(2))[0])(2.0)
    0.0
    """
    below, above = map(int, _pair("solve_banded", l_and_u, "the numbers of diagonals below and above"))
    ab, b = arrays_of("solve_banded", ab, b)
    return banded.solve_banded("solve_banded", below, above, ab, b)


@_as_scipy
def solveh_banded(ab: Any, b: Any, lower: bool = False) -> Any:
    """x with a x = b, for a symmetric positive definite matrix, of the diagonals on one side.

    ab[u + i - j, j] is a[i, j] for i <= j, or ab[i - j, j] for i >= j if `lower`. Raises as `solve_banded`.
    """
    ab, b = arrays_of("solveh_banded", ab, b)
    require(ab.ndim == 2 and ab.shape[0], f"solveh_banded takes diagonals as rows of a matrix, not shape {ab.shape}")
    m = ab.shape[0] - 1
    return banded.solve_banded("solveh_banded", m, m, banded.of_symmetric(ab, lower), b)


@_as_scipy
def inv(a: Any) -> Any:
    """The inverses of square matrices (..., n, n), as `np.linalg.inv`."""
    return np.linalg.inv(square("inv", a))


@_as_scipy
def det(a: Any) -> Any:
    """The determinants of square matrices (..., n, n), as `np.linalg.det`."""
    return np.linalg.det(square("det", a))


@_as_scipy
def expm(A: Any) -> Any:
    """The exponential of square matrices (..., n, n), with derivatives of any order. Raises ShapeError.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: np.trace(expm(np.eye(2) * x)))(0.0)
    2.0
    """
    return functions.expm(square("expm", A))


@_as_scipy
def logm(A: Any) -> Any:
    """The principal logarithm of square matrices (..., n, n) where it is real, with derivatives of any order.

    Raises ShapeError, OperationError where it is complex (for an eigenvalue that is negative).

    >>> import tapegrad as tg
    >>> round(tg.grad(lambda x: np.trace(logm(np.eye(2) * x)))(2.0), 12)
    1.0
    """
    return functions.logm(square("logm", A))


@_as_scipy
def sqrtm(A: Any) -> Any:
    """The principal square root of square matrices (..., n, n) where it is real, with derivatives of any order.

    Raises ShapeError, OperationError where it is complex (for an eigenvalue that is negative).

    >>> import tapegrad as tg
    >>> round(tg.grad(lambda x: np.trace(sqrtm(np.eye(2) * x)))(4.0), 12)
    0.5
    """
    return functions.sqrtm(square("sqrtm", A))


@_as_scipy
def solve_sylvester(a: Any, b: Any, q: Any) -> Any:
    """x with a x + x b = q: a of shape (m, m), b of (n, n), q of (m, n), or batches of them. Raises ShapeError.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: solve_sylvester(np.eye(1) * x, np.eye(1), np.ones((1, 1)))[0, 0])(1.0)
    -0.25
    """
    a, b, q = arrays_of("solve_sylvester", a, b, q)
    square("solve_sylvester", a), square("solve_sylvester", b)
    require(
        q.ndim >= 2 and q.shape == (*a.shape[:-1], b.shape[-1]) and a.shape[:-2] == b.shape[:-2],
        f"solve_sylvester: a of shape {a.shape}, b of {b.shape} and q of {q.shape} do not fit",
    )
    return functions.sylvester(a, b, q)


@_as_scipy
def lu_factor(a: Any) -> tuple[Any, Any]:
    """What `lu_solve` takes: both factors of square matrices (..., n, n) in one, and the pivots as numbers.

    The derivative is that at fixed pivots. Raises ShapeError.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: lu_solve(lu_factor(np.eye(2) * x), np.ones(2))[0])(2.0)
    -0.25
    """
    return functions.lu(square("lu_factor", a))


@_as_scipy
def lu_solve(lu_and_piv: tuple[Any, Any], b: Any, trans: int = 0) -> Any:
    """x with a x = b, or a' x = b for `trans` 1 or 2, of what `lu_factor` returns for a; b of (n,) or (..., n, k).

    Raises ShapeError where they do not fit.
    """
    lu, pivots = _pair("lu_solve", lu_and_piv, "what lu_factor returns")
    lu, b, restored = fitting("lu_solve", lu, b)
    order = functions.permutation(arrays_of("lu_solve", lu, pivots)[1])
    if order.ndim < lu.ndim:
        order = np.broadcast_to(order, lu.shape)
    if trans:
        inner = triangular(True, True, True)(lu, triangular(False, True)(lu, b))
        return restored(np.matmul(transposed(order), inner))
    return restored(triangular(False)(lu, triangular(True, False, True)(lu, np.matmul(order, b))))


@_as_scipy
def block_diag(*arrs: Any) -> Any:
    """A matrix with these matrices along its diagonal and zeros elsewhere; one axis is a row, none one element.

    Raises ShapeError for more than two axes.

    >>> import tapegrad as tg
    >>> block_diag(tg.Value([[1.0, 2.0]]), 3.0)
    Value([[1., 2., 0.],
           [0., 0., 3.]])
    """
    given = arrays_of("block_diag", *arrs)
    require(all(x.ndim <= 2 for x in given), f"block_diag takes matrices, not shapes {[x.shape for x in given]}")
    parts = [x.reshape((1,) * (2 - x.ndim) + x.shape) for x in given]
    width, rows, before = sum(x.shape[1] for x in parts), [], 0
    for x in parts:
        m, n = x.shape
        rows.append(np.concatenate([np.zeros((m, before), x.dtype), x, np.zeros((m, width - before - n), x.dtype)], 1))
        before += n
    return np.concatenate(rows, 0)


@_as_scipy
def toeplitz(c: Any, r: Any = None) -> Any:
    """The matrix with c down its first column and r along its first row (r[0] is not read), constant along diagonals.

    c has shape (m,), r (n,), by default c. Raises ShapeError for other shapes.

    >>> import tapegrad as tg
    >>> toeplitz(tg.Value([1.0, 2.0]), np.array([1.0, 5.0]))
    Value([[1., 5.],
           [2., 1.]])
    """
    c, r = arrays_of("toeplitz", c, c if r is None else r)
    require(c.ndim == r.ndim == 1, f"toeplitz takes vectors, not shapes {c.shape} and {r.shape}")
    m, n = c.shape[0], r.shape[0]
    line = np.concatenate([r[1:][::-1], c])
    return line[np.arange(m)[:, None] - np.arange(n) + n - 1] if m and n else np.zeros((m, n), c.dtype)
