"""The distributions of `stats` over vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from tapegrad.adjoint.evaluation import holds_values
from tapegrad.errors import OperationError, ShapeError
from tapegrad.flow import where
from tapegrad.scipy.families import of_plain_numbers
from tapegrad.value import Value

__all__ = ["dirichlet", "multivariate_normal"]


def _array(x: Any) -> Any:
    return x if isinstance(x, Value) else np.asarray(x, float)


class MultivariateNormal:
    """Normal distributions over vectors, given by mean and covariance."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return of_plain_numbers("stats.multivariate_normal", _stats().multivariate_normal, name)

    def logpdf(self, x: Any, mean: Any = None, cov: Any = 1.0, allow_singular: bool = False) -> Any:
        """The logarithm of the density at x, (..., d).

        Args:
            x: vectors; numbers where d is 1.
            mean: (d,), by default zeros.
            cov: (d, d), symmetric and positive definite; or its diagonal, (d,); or one number for all of the diagonal.
            allow_singular: a covariance of plain numbers may be singular. The density is then that on the subspace
                which it spans, and 0 outside.

        Gradients with respect to `cov` are those along symmetric matrices. Raises ShapeError, and
        numpy.linalg.LinAlgError where the covariance is not positive definite.

        >>> round(float(multivariate_normal.pdf([0.0, 0.0], cov=[[2.0, 0.0], [0.0, 2.0]])) * 4.0 * np.pi, 9)
        1.0
        """
        x, cov = _array(x), _array(cov)
        mean = None if mean is None else _array(mean)
        d = np.shape(cov)[0] if np.ndim(cov) else (np.size(mean) if mean is not None else 1)
        cov = cov * np.eye(d) if np.ndim(cov) < 2 else cov
        mean = np.zeros(d) if mean is None else mean.reshape(-1) if np.ndim(mean) else mean * np.ones(1)
        if np.shape(cov) != (d, d) or np.shape(mean) != (d,):
            raise ShapeError(
                f"multivariate_normal: a mean of shape {np.shape(mean)} does not fit a covariance of {np.shape(cov)}"
            )
        # As in SciPy, a vector is several numbers where there is one dimension, else one vector.
        if d == 1 and (np.ndim(x) == 0 or np.shape(x)[-1] != 1 or np.ndim(x) == 1):
            x = x.reshape(*np.shape(x), 1)
        if np.ndim(x) == 0 or np.shape(x)[-1] != d:
            raise ShapeError(f"multivariate_normal: x of shape {np.shape(x)} has no vectors of {d} numbers")
        lead = np.shape(x)[:-1]
        if allow_singular and not isinstance(cov, Value):
            return _on_subspace(x - mean, cov)
        factor = np.linalg.cholesky(cov)
        columns = np.transpose((x - mean).reshape(math.prod(lead), d))
        z = np.linalg.solve(factor, columns)
        size = 2.0 * np.sum(np.log(np.diagonal(factor))) + d * math.log(2.0 * math.pi)
        # SciPy leaves out axes of length 1.
        return np.squeeze((-0.5 * (np.sum(z * z, axis=0) + size)).reshape(lead))[()]

    def pdf(self, x: Any, mean: Any = None, cov: Any = 1.0, allow_singular: bool = False) -> Any:
        """The density; see `logpdf`."""
        return np.exp(self.logpdf(x, mean, cov, allow_singular))

    def entropy(self, mean: Any = None, cov: Any = 1.0) -> Any:
        """The differential entropy, (ln det(2 pi e cov)) / 2, which does not depend on the mean; `cov` as of `logpdf`.

        Raises ShapeError, and numpy.linalg.LinAlgError where the covariance is not positive definite.

        >>> round(float(multivariate_normal.entropy(cov=np.eye(2))), 6)
        2.837877
        """
        cov = _array(cov)
        d = np.shape(cov)[0] if np.ndim(cov) else (np.size(mean) if mean is not None else 1)
        cov = cov * np.eye(d) if np.ndim(cov) < 2 else cov
        if np.shape(cov) != (d, d):
            raise ShapeError(f"multivariate_normal: a covariance is square, not of shape {np.shape(cov)}")
        half = np.sum(np.log(np.diagonal(np.linalg.cholesky(cov))))
        return half + 0.5 * d * (1.0 + math.log(2.0 * math.pi))


def _on_subspace(x: Any, cov: np.ndarray) -> Any:
    """The logarithm of the density at deviations x, on the subspace that a covariance of numbers spans."""
    sizes, vectors = np.linalg.eigh(cov)
    # SciPy's bound for what counts as zero.
    bound = {"f": 1e3, "d": 1e6}[sizes.dtype.char] * np.finfo(sizes.dtype).eps * np.max(np.abs(sizes), initial=0.0)
    if np.min(sizes, initial=0.0) < -bound:
        raise np.linalg.LinAlgError("multivariate_normal: the covariance has eigenvalues below 0")
    inside = sizes > bound
    z = x @ (vectors[:, inside] / np.sqrt(sizes[inside]))
    outside = np.sum((x @ vectors[:, ~inside]) ** 2, axis=-1)
    size = np.sum(np.log(sizes[inside])) + np.sum(inside) * math.log(2.0 * math.pi)
    result = -0.5 * (np.sum(z * z, axis=-1) + size)
    # SciPy's bound again, for the distance.
    return np.squeeze(where(outside < (1e3 * bound) ** 2, result, -np.inf) if not np.all(inside) else result)[()]


def _stats() -> Any:
    from scipy import stats

    return stats


class Dirichlet:
    """Distributions over vectors of numbers that are not negative and add up to 1."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return of_plain_numbers("stats.dirichlet", _stats().dirichlet, name)

    def logpdf(self, x: Any, alpha: Any) -> Any:
        """The logarithm of the density at x, (k,) or (k, n), for alpha of shape (k,).

        The last row of x may be left out: it is 1 minus the others. Plain numbers that are no such vectors raise
        ValueError, as in SciPy; where Values are none, the result is -infinity.

        >>> round(float(dirichlet.logpdf([0.2, 0.8], [1.0, 1.0])), 12)
        0.0
        """
        x, alpha = _array(x), _array(alpha)
        if np.ndim(alpha) != 1 or np.ndim(x) not in (1, 2):
            raise ShapeError(
                f"dirichlet: alpha is a vector and x one or a matrix of columns, not of shapes {np.shape(alpha)} and "
                f"{np.shape(x)}"
            )
        if np.shape(x)[0] == np.shape(alpha)[0] - 1:
            x = np.concatenate([x, (1.0 - np.sum(x, axis=0)).reshape(1, *np.shape(x)[1:])])
        if np.shape(x)[0] != np.shape(alpha)[0]:
            raise ShapeError(
                f"dirichlet: x of shape {np.shape(x)} has not as many rows as alpha has numbers, {np.shape(alpha)[0]}, "
                "nor one less"
            )
        good = (np.min(x, axis=0) >= 0.0) * (np.abs(np.sum(x, axis=0) - 1.0) <= 1e-9)
        if not holds_values((x,)) and not np.all(good):
            raise OperationError("dirichlet: the numbers of x must lie between 0 and 1 and add up to 1")
        if not holds_values((alpha,)) and not np.all(alpha > 0.0):
            raise OperationError("dirichlet: all numbers of alpha must be above 0")
        powers = (alpha if np.ndim(x) == 1 else alpha.reshape(-1, 1)) - 1.0
        inside = where(x >= 0.0, x, 1.0)
        size = np.sum(special.gammaln(alpha)) - special.gammaln(np.sum(alpha))
        return where(good, np.sum(special.xlogy(powers, inside), axis=0) - size, -np.inf)

    def pdf(self, x: Any, alpha: Any) -> Any:
        """The density; see `logpdf`."""
        return np.exp(self.logpdf(x, alpha))


multivariate_normal = MultivariateNormal()
dirichlet = Dirichlet()
