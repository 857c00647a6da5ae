"""What stands for a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.errors import OperationError, StructureError
from tapegrad.recording.in_numba import InNumba


class StandIn(InNumba):
    """What stands for a function `f`: differentiating it is differentiating f.

    Attributes:
        forced: whether its programs are compiled: True for always, False for never, None where that is chosen.
    """

    f: Callable[..., Any]
    forced: bool | None = None


def checked_compile(compile: bool | None) -> bool | None:
    """What is said of compiling. Raises OperationError where that is no truth value."""
    if compile is not None and not isinstance(compile, bool):
        raise OperationError(f"compile must be True, False or None, not {compile!r}")
    return compile


def behind(f: Any, forced: bool | None) -> tuple[Any, bool | None]:
    """The function that another may stand for, and whether its programs are compiled, where that is said.

    Raises OperationError where what is said is no truth value, StructureError where f is no function.
    """
    if not callable(f):
        raise StructureError(
            f"a function is needed to differentiate or record, not {f!r:.60} ({type(f).__name__}): "
            "give the function f itself, not its value f(x)"
        )
    forced = checked_compile(forced)
    while isinstance(f, StandIn):
        f, forced = f.f, f.forced if forced is None else forced
    return f, forced
