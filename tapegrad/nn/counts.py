"""Sizes and other numbers of things, as they are given."""

from __future__ import annotations

import operator
from typing import Any

from tapegrad.errors import OperationError


def counted(n: Any, what: str, least: int = 1) -> int:
    """How many. Raises OperationError for what is no whole number, or too few."""
    try:
        number = operator.index(n)
    except TypeError:
        raise OperationError(f"{what} must be a whole number, not {n!r}") from None
    if number < least:
        raise OperationError(f"{what} must be {'positive' if least else '0 or more'}, not {n!r}")
    return number
