"""How many threads the BLAS under a matrix product uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield
        return
    # The sweeps load SciPy's BLAS at their first product; a limit reaches only what is loaded.
    import scipy.linalg.cython_blas  # noqa: F401

    with threadpool_limits(count, user_api="blas"):
        yield
