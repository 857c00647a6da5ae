"""Names of Python's own modules that stand for other functions while a function is being recorded.

Python's `max` asks for the truth of comparisons, and `math.sqrt` for a plain number: neither can be recorded. While a
recording is going on, functions that can be stand in their place, for all code alike, also for that which the recorded
function calls. They do what the originals do unless they are given Values that are being recorded, so that other
threads, and code that kept one of them, notice nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

_lock = threading.RLock()
_offered: list[tuple[ModuleType, str, Any, Any]] = []
# How many recordings are going on, and how many pieces of code need the originals meanwhile.
_recording = _suspended = 0


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
    global _recording
    try:
        with _lock:
            _recording += 1
            if not _suspended and _recording == 1:
                _type_for_numba()
                _set(True)
        yield
    finally:
        with _lock:
            _recording -= 1
            if not _recording:
                _set(False)


@contextmanager
def originals() -> Iterator[None]:
    """Within the block the names stand for Python's own functions, for Numba, which knows these."""
    global _suspended
    with _lock:
        _suspended += 1
        _set(False)
    try:
        yield
    finally:
        with _lock:
            _suspended -= 1
            if _recording and not _suspended:
                _set(True)


def _type_for_numba() -> None:
    # Functions of the user's that Numba compiles while something is recorded may name these functions too.
    registry = sys.modules.get("numba.core.registry")
    if registry is None or not _offered or hasattr(_offered[0][-1], "_numba_type_"):
        return
    known = registry.cpu_target.typing_context
    for _, _, original, function in _offered:
        with suppress(ValueError):
            # Those that Numba does not know it is not to take for something else.
            function._numba_type_ = known.resolve_value_type(original)
