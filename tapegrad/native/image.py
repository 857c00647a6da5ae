"""The room that one replay of a compiled program takes, as bytes that compiled code can copy without Python.

A workspace is the arena, scratch, and the words by which machine code finds these. All of them are put into one block,
an image. Whoever needs another workspace copies the image, and adds where the copy stands to the words that are
addresses within it.

What compiled code is told of a program are the words of a record: places for blocks that nobody uses, and then where
all else is, by the names below.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.sweeps import VALUES
from tapegrad.value import Value

# How many blocks that nobody uses are kept. They stand at the beginning of a record.
IDLE = 16
# The words behind these: the image, its length in bytes, the positions of words in it that are addresses, and how many
# these are; the machine code; where arena and table are in a block; for each input and each result where it stands and
# where the pointer to it, -1 where there is none; which steps are guards.
IMAGE, SIZE, ADDRESSES, COUNT, CODE, VALUES_AT, TABLE_AT, INPUTS, RESULTS, GUARDS = range(IDLE, IDLE + 10)

# Blocks begin at multiples of so many bytes, as arenas do; their first word says where their memory begins.
ALIGNED = 128


class _Region(NamedTuple):
    start: int
    size: int
    at: int


def constant_of(output: Any) -> np.ndarray:
    """A result that does not depend on the inputs, as an array."""
    found = output.constant
    return np.zeros(output.shape) if isinstance(found, Value) else np.array(found, order="C")


class Image:
    """The image of a compiled program, and the record that tells of it.

    Args:
        native: the program.
        leaves: arguments at which it is replayed once, so that whatever is loaded at the first replay is there.
        free: gives back memory that compiled code has taken, by its address.

    Attributes:
        address: that of the record.
    """

    def __init__(self, native: Any, leaves: Sequence[Any], free: Callable[[int], Any]) -> None:
        workspace = native.take()
        workspace.fill(leaves)
        workspace.bring_in()
        native.sweep(workspace, VALUES, -1, None)
        (values, table), (own, pointed, keep) = workspace.frames["native"]
        constants = [constant_of(o) if o.place is None else np.zeros(()) for o in native.code.outputs]
        arena = workspace.values.base
        words = [own, *(np.frombuffer(frame.words, np.int64) for frame, _ in keep)]
        self._size = ALIGNED
        regions = [self._region(x) for x in (arena, workspace.scratch, *words, *constants)]
        image = np.zeros(self._size, np.uint8)
        for x, region in zip((arena, workspace.scratch, *words, *constants), regions, strict=True):
            image[region.at : region.at + region.size] = np.frombuffer(np.ascontiguousarray(x), np.uint8)
        self._image = image
        self._addresses = self._within(regions, regions[2 : 2 + len(words)])
        base, pointers = regions[0], regions[2]
        first = pointers.at + 8 * (len(own) - len(pointed))

        def place(number: int) -> int:
            return values - base.start + base.at + number * workspace.values.itemsize

        outer, made = native.outer, regions[2 + len(words) :]
        inputs = [
            (place(start), first + 8 * outer.inputs[i].number if i in outer.inputs else -1)
            for i, (start, _) in enumerate(native.code.spans)
        ]
        results = [
            (place(o.place), first + 8 * outer.outputs[i].number if i in outer.outputs else -1)
            if o.place is not None else (made[i].at, -1) for i, o in enumerate(native.code.outputs)
        ]  # fmt: skip
        self._inputs, self._results = (np.array([*x, (0, 0)], np.int64) for x in (inputs, results))
        self._guards = np.zeros(len(native.steps) + 1, np.uint8)
        self._guards[native.guards] = 1
        # The machine code has the addresses of steps, records and flags, which must stay; it stays itself.
        self._keep = workspace
        self._record = np.zeros(IDLE + 10, np.int64)
        self._record[IDLE:] = (
            image.ctypes.data, len(image), self._addresses.ctypes.data, len(self._addresses),
            ctypes.cast(native.run, ctypes.c_void_p).value or 0, place(0), pointers.at + table - pointers.start,
            self._inputs.ctypes.data, self._results.ctypes.data, self._guards.ctypes.data,
        )  # fmt: skip
        self.address = int(self._record.ctypes.data)
        # When nobody refers to this any more, nobody replays in the blocks.
        weakref.finalize(self, _give_back, self._record, free).atexit = False

    def _region(self, x: np.ndarray) -> _Region:
        # In a block everything is aligned as it is now.
        start = int(x.__array_interface__["data"][0])
        at = self._size + (start - self._size) % ALIGNED
        self._size = at + x.nbytes
        return _Region(start, x.nbytes, at)

    def _within(self, regions: Sequence[_Region], words: Sequence[_Region]) -> np.ndarray:
        """Make the addresses in words that lead into a region positions in the image; returns where these words are."""
        found = []
        for region in words:
            for at in range(region.at, region.at + region.size, 8):
                word = self._image[at : at + 8].view(np.int64)
                for to in regions:
                    if to.start <= word[0] < to.start + max(to.size, 1):
                        word[0] += to.at - to.start
                        found.append(at)
                        break
        return np.array([*found, 0], np.int64)[: len(found)] if found else np.zeros(0, np.int64)


def _give_back(record: np.ndarray, free: Callable[[int], Any]) -> None:
    for block in record[:IDLE].tolist():
        if block:
            free(ctypes.c_int64.from_address(block).value)
