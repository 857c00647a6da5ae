"""What stands for a function in a pickle.

Pickle writes a function as its name, and finds that again in the other process. Two kinds of functions have no name
that leads to them: those whose name a decorator has taken (`@tg.recorded`, `@tg.grad`), and lambdas and functions that
are made within others. The former are found behind what stands in their place. The latter go only with those who write
functions by value, such as cloudpickle, with which joblib hands work to its processes.
"""

from __future__ import annotations

import copy
import functools
import os
import pickle
import sys
from types import FrameType, FunctionType
from typing import Any

from tapegrad.errors import PickleError


class _Behind:
    """Pickled, it is a function that is found behind so many decorators of what has its name."""

    def __init__(self, f: Any, depth: int) -> None:
        self._found = f.__module__, f.__qualname__, depth

    def __reduce__(self) -> Any:
        return behind_name, self._found


def behind_name(module: str, name: str, depth: int) -> Any:
    """The function behind so many decorators of what a module has under a name."""
    __import__(module)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    for _ in range(depth):
        found = found.__wrapped__
    return found


def find(f: Any) -> Any:
    """What has the name of a function, or of what stands for one; None where there is nothing."""
    try:
        return behind_name(f.__module__, f.__qualname__, 0)
    except (ImportError, KeyError, AttributeError, TypeError, ValueError):
        return None


def to_pickle(f: Any, what: str) -> Any:
    """What to put into a pickle in place of a function, which comes out as that function.

    `what` says what of the pickle it is. Raises PickleError where it cannot be found by name in another process, and is
    not written by value either.
    """
    if type(f) is functools.partial:
        # What it consists of goes by name, or not at all. A class derived from it says itself how it is pickled.
        for part in (f.func, *f.args, *f.keywords.values()):
            to_pickle(part, what)
    if not isinstance(f, FunctionType):
        return f
    depth = _depth(f)
    if depth == 0 or written_by_value(f, depth is not None):
        return f
    if depth is None:
        code = f.__code__
        raise PickleError(
            f"{what} is {f.__qualname__} ({os.path.basename(code.co_filename)}:{code.co_firstlineno}), which pickle "
            f"cannot find by name in {f.__module__} in another process: "
            "define it with `def` at the top of a module, or pickle with cloudpickle, which writes functions by value "
            "(cloudpickle.dumps in place of pickle.dumps; joblib's default, loky, does so by itself)"
        )
    return _Behind(f, depth)


def written_by_value(f: Any, named: bool) -> bool:
    """Whether who pickles now writes a function by value: cloudpickle does where there is no name, or the name is one
    of the script that runs, which other processes do not have. A copy in this process keeps the function itself."""
    writer = _writer(sys._getframe(1))
    if writer is copy:
        return not named
    by_value = hasattr(writer, "reducer_override") or (
        getattr(writer, "dispatch", _plain).get(FunctionType) is not _plain.get(FunctionType)
    )
    return by_value and (not named or getattr(f, "__module__", None) == "__main__")


_plain: dict[Any, Any] = pickle._Pickler.dispatch


def _writer(frame: FrameType | None) -> Any:
    """The pickler that is at work, as far as it can be seen: an object of a class that changes how functions are
    written stands in the variables of who called it. Plain `pickle.dumps` leaves nothing to be seen."""
    while frame is not None:
        if frame.f_globals.get("__name__") == "copy":
            return copy
        for found in frame.f_locals.values():
            if isinstance(found, pickle.Pickler | pickle._Pickler):
                return found
        frame = frame.f_back
    return None


def _depth(f: Any) -> int | None:
    """Behind how many decorators of what has its name a function is found; None where it is not."""
    found, depth = find(f), 0
    while found is not f:
        found, depth = getattr(found, "__wrapped__", None), depth + 1
        if found is None:
            return None
    return depth
