"""What a function calls its arguments."""

from __future__ import annotations

import inspect
from typing import Any


def parameters_of(f: Any) -> list[str]:
    """The names of the positional parameters of a function, as far as it says."""
    try:
        given = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
