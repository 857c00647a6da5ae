"""How many threads the BLAS under a matrix product uses."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def blas_threads(count: int | None) -> Iterator[None]:
    """Within the block the BLAS uses `count` threads; None changes nothing.

    This takes the package threadpoolctl, which scikit-learn brings. Without it nothing changes either: set the
    environment variable OPENBLAS_NUM_THREADS before NumPy is imported.

    >>> with blas_threads(1):
    ...     pass
    """
    if count is None:
        yield
        return
    control = _control()
    if control is None:
        yield
        return
    with control.limit(limits=count, user_api="blas"):
        yield


@functools.cache
def _control() -> Any:
    """What sets the threads of the BLAS that there are; None without threadpoolctl.

    It is kept, since finding the libraries of a process takes milliseconds, as long as several steps of training.
    """
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return None
    # The sweeps load SciPy's BLAS at their first product, and only what is loaded is found.
    import scipy.linalg.cython_blas  # noqa: F401

    return ThreadpoolController()
