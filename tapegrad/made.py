"""Functions that transforms have made."""

from __future__ import annotations

import functools
import types
from typing import Any

from tapegrad.pickling import find, to_pickle, written_by_value
from tapegrad.recording.in_numba import InNumba
from tapegrad.recording.standing import behind


class _Made(InNumba, functools.partial[Any]):
    """What a transform has made. Pickled, it is the transform and what that was given, without recordings."""

    keeps_attached = True
    made: tuple[Any, ...]

    def __reduce__(self) -> Any:
        transform, f, *given = self.made
        # A decorated function is found by its name.
        if find(self) is self and not written_by_value(self, True):
            return self.__qualname__
        what = f"the function of {getattr(transform, 'func', transform).__name__}"
        return transform, (to_pickle(f, what), *given)

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
