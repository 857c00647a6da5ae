"""Functions that transforms have made."""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from tapegrad.recording.in_numba import InNumba
from tapegrad.recording.standing import behind


class _Made(InNumba, functools.partial[Any]):
    """What a transform has made. Pickled, it is the transform and what that was given, without recordings."""

    keeps_attached = True
    made: tuple[Any, ...]

    def __reduce__(self) -> Any:
        made = self.made
        found: Any = sys.modules.get(getattr(self, "__module__", None) or "")
        for name in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, name, None)
        # A decorated function is found by its name.
        return self.__qualname__ if found is self else (made[0], made[1:])

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else types.MethodType(self, owner)


def made(function: Any, compile: bool | None, transform: Any, *given: Any) -> Any:
    """What a transform returns: a function, which knows by what it was made, and from what.

    Raises StructureError where it was given no function, and OperationError for another `compile`.
    """
    behind(given[0], compile)
    found = _Made(function)
    functools.update_wrapper(found, function)
    found.made = (transform if compile is None else functools.partial(transform, compile=compile)), *given
    return found
