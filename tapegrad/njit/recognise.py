"""Telling Numba's functions from others, without importing Numba: a process in which nobody did has none of them."""

from __future__ import annotations

import sys
from typing import Any


def is_numba(f: Any) -> bool:
    """Whether f is a function compiled by Numba, as `numba.njit` returns it.

    >>> is_numba(len)
    False
    """
    module = sys.modules.get("numba.core.dispatcher")
    return module is not None and isinstance(f, module.Dispatcher)
