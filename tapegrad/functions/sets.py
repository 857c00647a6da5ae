"""Sets of numbers. Which elements there are is held by guards; their numbers are Values, with gradients."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tapegrad.errors import UnsupportedError
from tapegrad.functions.choosing import argsort, truths
from tapegrad.functions.indexing import sort
from tapegrad.functions.joining import concatenate, values
from tapegrad.functions.registry import implements, refuse
from tapegrad.value import Value

refuse("it makes complex numbers; write np.sort(v)", np.sort_complex)


@implements(np.unique)
def unique(
    ar: Any, return_index: bool = False, return_inverse: bool = False, return_counts: bool = False, axis: Any = None,
    *, equal_nan: bool = True, sorted: bool = True,
) -> Any:  # fmt: skip
    """The different numbers in ascending order. Of equal ones the first gets the gradient."""
    if axis is not None and ar.ndim != 1:
        raise UnsupportedError(
            "np.unique with axis= is not supported on a Value: write v[np.unique(v.data, axis=0, return_index=True)[1]]"
        )
    flat = ar.reshape(-1)
    if not flat.size:
        firsts = np.zeros(0, bool)
    else:
        lines = sort(flat)
        same = lines[1:] == lines[:-1]
        if equal_nan:
            same = np.logical_or(same, np.logical_and(lines[1:] != lines[1:], lines[:-1] != lines[:-1]))
        firsts = np.append(True, ~truths(same))
    found: list[Any] = [sort(flat)[firsts]]
    places = np.flatnonzero(firsts)
    if return_index or return_inverse:
        order = argsort(flat)
    if return_index:
        found.append(order[places])
    if return_inverse:
        inverse = np.empty(flat.size, int)
        inverse[order] = np.cumsum(firsts) - 1
        found.append(inverse.reshape(ar.shape))
    if return_counts:
        found.append(np.diff(np.append(places, flat.size)))
    return found[0] if len(found) == 1 else tuple(found)


def _result(function: Any) -> Any:
    # What NumPy returns has names; the class is that of its result for plain numbers.
    return type(function(np.zeros(1)))


implements(np.unique_values)(lambda x, /: unique(x, equal_nan=False))
implements(np.unique_counts)(
    lambda x, /: _result(np.unique_counts)(*unique(x, return_counts=True, equal_nan=False)))  # fmt: skip
implements(np.unique_inverse)(
    lambda x, /: _result(np.unique_inverse)(*unique(x, return_inverse=True, equal_nan=False)))  # fmt: skip
implements(np.unique_all)(
    lambda x, /: _result(np.unique_all)(
        *unique(x, return_index=True, return_inverse=True, return_counts=True, equal_nan=False)))  # fmt: skip


@implements(np.isin)
def isin(
    element: Any, test_elements: Any, assume_unique: bool = False, invert: bool = False, *, kind: Any = None
) -> Any:
    """Which elements are among others: plain truth values, or held by guards."""
    x, test = values("isin", element, test_elements)
    if not test.size:
        return np.full(x.shape, invert)[()]
    found = np.any(x.reshape(*x.shape, 1) == test.reshape(-1), -1)
    return ~found if isinstance(found, np.ndarray) and invert else found != invert


@implements(np.union1d)
def union1d(ar1: Any, ar2: Any) -> Value:
    """The different numbers of both arrays."""
    return cast(Value, unique(concatenate(values("union1d", ar1, ar2), None)))


@implements(np.intersect1d)
def intersect1d(ar1: Any, ar2: Any, assume_unique: bool = False, return_indices: bool = False) -> Any:
    """The different numbers that are in both arrays; those of the first get the gradient."""
    if return_indices:
        raise UnsupportedError(
            "np.intersect1d with return_indices= is not supported on a Value: write np.flatnonzero(np.isin(x, y))"
        )
    a, b = values("intersect1d", ar1, ar2)
    a = sort(a.reshape(-1)) if assume_unique else unique(a)
    return a[isin(a, b)] if a.size else a


@implements(np.setdiff1d)
def setdiff1d(ar1: Any, ar2: Any, assume_unique: bool = False) -> Any:
    """The different numbers of the first array that are not in the second."""
    a, b = values("setdiff1d", ar1, ar2)
    a = a.reshape(-1) if assume_unique else unique(a)
    return a[isin(a, b, invert=True)] if a.size else a


@implements(np.setxor1d)
def setxor1d(ar1: Any, ar2: Any, assume_unique: bool = False) -> Any:
    """The different numbers that are in one of the arrays only."""
    a, b = values("setxor1d", ar1, ar2)
    return sort(concatenate([setdiff1d(a, b), setdiff1d(b, a)]))
