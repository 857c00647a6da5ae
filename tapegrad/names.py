"""Names of Python's own modules that stand for other functions while a function is being recorded.

Python's `max` asks for the truth of comparisons, and `math.sqrt` for a plain number: neither can be recorded. While a
recording is going on, functions that can be stand in their place, for all code alike, also for that which the recorded
function calls. They do what the originals do unless they are given Values that are being recorded, so that other
threads, and code that kept one of them, notice nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

_lock = threading.RLock()


def _new_lock() -> None:
    # A process that is forked off has no other threads, and so nobody who would give the lock back.
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)
_offered: list[tuple[ModuleType, str, Any, Any]] = []
# One object for each recording that is going on, and for each piece of code that needs the originals meanwhile. Sets,
# because an interrupt may come anywhere: what is taken out twice, or was never put in, does no harm.
_recordings: set[object] = set()
_suspensions: set[object] = set()


def offer(module: ModuleType, name: str, function: Callable[..., Any]) -> None:
    """Have `function` stand for what a module has under a name, while something is being recorded."""
    _offered.append((module, name, getattr(module, name), function))


def _set(replace: bool) -> None:
    for module, name, original, function in _offered:
        # What somebody else has put there stays.
        if getattr(module, name) is (original if replace else function):
            setattr(module, name, function if replace else original)


@contextmanager
def replaced() -> Iterator[None]:
    """Within the block the names stand for the functions that were offered."""
    own = object()
    try:
        with _lock:
            _recordings.add(own)
            if not _suspensions and len(_recordings) == 1:
                _type_for_numba()
                _set(True)
        yield
    finally:
        with _lock:
            _recordings.discard(own)
            if not _recordings:
                _set(False)


@contextmanager
def originals() -> Iterator[None]:
    """Within the block the names stand for Python's own functions, for Numba, which knows these."""
    own = object()
    try:
        with _lock:
            _suspensions.add(own)
            _set(False)
        yield
    finally:
        with _lock:
            _suspensions.discard(own)
            if _recordings and not _suspensions:
                _set(True)


def _type_for_numba() -> None:
    # Functions of the user's that Numba compiles while something is recorded may name these functions too.
    registry = sys.modules.get("numba.core.registry")
    if registry is None or not _offered or hasattr(_offered[0][-1], "_numba_type_"):
        return
    known = registry.cpu_target.typing_context
    # Numba learns what it knows of `math` when it first compiles something, and must not learn it of what stands there.
    known.refresh()
    registry.cpu_target.target_context.refresh()
    for _, _, original, function in _offered:
        with suppress(ValueError):
            # Those that Numba does not know it is not to take for something else.
            function._numba_type_ = known.resolve_value_type(original)
