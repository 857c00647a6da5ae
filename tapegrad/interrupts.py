"""Ctrl-C that waits while something is brought up to date that must not be cut short."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Waiting:
    """Interrupts that wait. Python runs signal handlers in the main thread only, and they can be set only there: in
    another thread there is nothing to wait."""

    def __init__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        # What is no handler of Python's, or ignores interrupts, is left alone.
        before = signal.getsignal(signal.SIGINT) if main else None
        self._before: Any = before if callable(before) else None
        self._came: list[Any] = []

    def hold(self) -> None:
        """From now on interrupts wait."""
        if self._before is not None:
            signal.signal(signal.SIGINT, lambda number, frame: self._came.append((number, frame)))

    def release(self) -> None:
        """From now on they do not wait; one that has come takes effect."""
        if self._before is None:
            return
        signal.signal(signal.SIGINT, self._before)
        if self._came:
            came = self._came[0]
            self._came.clear()
            self._before(*came)

    @contextmanager
    def released(self) -> Iterator[None]:
        """Within the block they do not wait."""
        try:
            self.release()
            yield
        finally:
            self.hold()


@contextmanager
def interrupts_wait() -> Iterator[Waiting]:
    """Within the block Ctrl-C waits for its end.

    >>> try:
    ...     with interrupts_wait():
    ...         signal.raise_signal(signal.SIGINT)
    ...         done = True
    ... except KeyboardInterrupt:
    ...     print("interrupted, done:", done)
    interrupted, done: True
    """
    waiting = Waiting()
    waiting.hold()
    try:
        yield waiting
    finally:
        waiting.release()
