"""A compiled replay beside the main thread: signals are seen there only, and not while it runs compiled code."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from typing import Any

_HERE, _BESIDE = "here", "beside"


class Beside:
    """One run of a compiled function in another thread, which a signal can stop.

    A signal may come at any place: before there is a thread, while it is made, or after it has ended. So the thread
    asks whether it may begin, and whoever stops the run asks whether it has begun; the first to ask decides both.

    Args:
        run: the function. It gives up soon after the word `stop` of the table is not zero any more.
        table: the words that it is given.
        stop: the position of that word.
        keep: what must stay in memory while it runs, whoever else has let go of it.
    """

    def __init__(self, run: Callable[[], int], table: Any, stop: int, keep: Any) -> None:
        self._run, self._table, self._stop, self._keep = run, table, stop, keep
        self._first: dict[str, str] = {}
        self._found: list[int] = []
        self._over = False
        self._ended = threading.Lock()
        self._ended.acquire()

    def _work(self) -> None:
        # `setdefault` is one step, which no other thread can come between.
        if self._first.setdefault("first", _BESIDE) == _BESIDE:
            try:
                self._found.append(self._run())
            finally:
                self._over = True
                self._ended.release()

    def result(self) -> int:
        """Run, and return what the function returns. Whoever catches an exception must call `stop`."""
        try:
            # One call, where `threading.Thread.start` is many, and waits for the thread as well.
            _thread.start_new_thread(self._work, ())
        except RuntimeError as error:
            if "new thread" not in str(error):
                raise
            # There can be no more threads.
            return self._run()
        self._ended.acquire()
        return self._found[0]

    def stop(self) -> None:
        """Have it stop, and return when it runs no more, and never will."""
        self._table[self._stop] = 1
        if self._first.setdefault("first", _HERE) == _BESIDE:
            while not self._over:
                time.sleep(1e-3)
