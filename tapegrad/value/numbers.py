"""Numbers of a tape or a buffer, as NumPy arrays that cannot be changed in place: that would not change the tape, or
would change what others hold."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from tapegrad.errors import UnsupportedError


def refuse_unlike(x: Any, what: str) -> None:
    """Raise UnsupportedError for arrays that calculate otherwise than arrays do: matrices, and those with a mask."""
    if isinstance(x, np.matrix):
        raise UnsupportedError(f"{what}: an np.matrix would be multiplied element by element: write np.asarray(x)")
    if isinstance(x, np.ma.MaskedArray):
        raise masked(what)
    refuse_sparse(x, what)


def refuse_sparse(x: Any, what: str) -> None:
    """Raise UnsupportedError for a sparse matrix of SciPy's: what comes of it would be one of Values."""
    sparse: Any = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(x):
        raise UnsupportedError(
            f"{what}: a Value meets a sparse matrix: write A @ v for their product, s * (A @ v) for a multiple of it, "
            "A.toarray() for all elements, or make a matrix with Values as its entries by "
            "tapegrad.scipy.sparse.csr_array((data, A.indices, A.indptr), A.shape)"
        )


def masked(what: str) -> UnsupportedError:
    """The exception for an array with a mask."""
    return UnsupportedError(
        f"{what}: the mask of an np.ma array would be lost: write x.filled(0.0), and np.where or a product with "
        "~x.mask where it matters"
    )


class Numbers(np.ndarray):
    """Numbers of a tape or of a module's buffer, read-only, whose in-place operators make new arrays.

    So `p.data -= step` assigns a new array to `p.data`, and `self.mean += step` one to the buffer, while
    `p.data[0] = 1.0`, which could not reach the tape, raises.
    """

    def __repr__(self) -> str:
        return repr(self.view(np.ndarray))

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False) -> Any:
        plain = array.view(np.ndarray)
        return plain[()] if return_scalar else plain

    def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) + other

    def __isub__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) - other

    def __imul__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) * other

    def __itruediv__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) / other

    def __ifloordiv__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) // other

    def __imod__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) % other

    def __imatmul__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) @ other

    def __ipow__(self, other: Any) -> Any:  # type: ignore[misc, override]
        return self.view(np.ndarray) ** other

    def __iand__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) & other

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) | other

    def __ixor__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) ^ other

    def __ilshift__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) << other

    def __irshift__(self, other: Any) -> Any:  # type: ignore[misc]
        return self.view(np.ndarray) >> other


def numbers(array: np.ndarray) -> Numbers:
    """A read-only copy of an array."""
    copy = np.array(array).view(Numbers)
    copy.flags.writeable = False
    return copy
