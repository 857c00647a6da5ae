"""Blocks of lanes, one after the other or on several threads, always the same blocks, so always the same bits."""

from __future__ import annotations

import itertools
import operator
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.errors import OperationError
from tapegrad.threads import blas_threads


def thread_count(threads: Any = None) -> int:
    """How many threads a batch is computed on: as many as `threads` says, else TAPEGRAD_THREADS, else one.

    One is the standard because those who compute much often have several processes at work already, and because nobody
    should find all of a shared machine taken by a call that did not ask for it.

    Raises OperationError unless that is a whole number, at least 1.
    """
    said = os.environ.get("TAPEGRAD_THREADS", "") if threads is None else threads
    if said == "":
        return 1
    try:
        count = int(said) if isinstance(said, str) else operator.index(said)
    except (TypeError, ValueError):
        count = 0
    if count < 1 or isinstance(said, bool):
        what = "TAPEGRAD_THREADS" if threads is None else "threads"
        raise OperationError(f"{what} must be a whole number of threads, at least 1, not {said!r}")
    return count


def on_threads(count: int, work: Callable[[int], Any], threads: int) -> None:
    """work(0), ..., work(count - 1), on so many threads. Raises what the first of them raised; then blocks that were
    not begun are left out."""
    threads = min(threads, count)
    if threads <= 1:
        for number in range(count):
            work(number)
        return
    numbers, failed = itertools.count(), dict[int, BaseException]()

    def some() -> None:
        # Taking the next number is one step, which no other thread can come between.
        while not failed and (number := next(numbers)) < count:
            try:
                work(number)
            except BaseException as error:
                failed[number] = error

    helpers = [threading.Thread(target=some, name="tapegrad lanes", daemon=True) for _ in range(threads - 1)]
    with blas_threads(1):
        started = []
        try:
            for helper in helpers:
                helper.start()
                started.append(helper)
        except RuntimeError:
            # There can be no more threads: those that there are do all the work.
            pass
        try:
            some()
        except BaseException as error:
            # A signal has come: the others end after the block that they are at.
            failed[-1] = error
        for helper in started:
            helper.join()
    if failed:
        raise failed[min(failed)]


class Block:
    """Some lanes of a batch.

    Args:
        chosen: the lanes of the batch that are wanted, or None for all `total` of them.
        start, stop: which of these the block has.
        lanes: how many there is room for. Where there are fewer, the last one is repeated.
    """

    def __init__(self, chosen: np.ndarray | None, start: int, stop: int, lanes: int) -> None:
        self.count, self._lanes = stop - start, lanes
        short = self.count < lanes
        if chosen is not None:
            self.target: Any = chosen[start:stop]
            self._source: Any = np.concatenate([self.target, np.repeat(self.target[-1:], lanes - self.count)])
        else:
            self.target = slice(start, stop)
            self._source = np.minimum(np.arange(start, start + lanes), stop - 1) if short else self.target

    @property
    def counts(self) -> np.ndarray:
        """For each lane that there is room for, 1 where it is wanted, 0 where it repeats another."""
        return (np.arange(self._lanes) < self.count).astype(float)

    def numbers(self) -> list[int]:
        """The numbers of its lanes in the batch."""
        target = self.target
        return list(range(target.start, target.stop)) if isinstance(target, slice) else [int(i) for i in target]

    def of(self, x: np.ndarray, axis: int) -> np.ndarray:
        """The lanes of an array, as its last axis."""
        if isinstance(self._source, slice):
            part = x[(slice(None),) * axis + (self._source,)]
        else:
            part = np.take(x, self._source, axis)
        return np.moveaxis(part, axis, -1)


def blocks(chosen: np.ndarray | None, total: int, lanes: int) -> list[Block]:
    """The blocks of a batch of `total` lanes, or of those that are chosen."""
    count = total if chosen is None else len(chosen)
    return [Block(chosen, at, min(at + lanes, count), lanes) for at in range(0, count, lanes)]

