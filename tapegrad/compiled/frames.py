"""Calling compiled functions from compiled functions, by address, with the words of a frame."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from tapegrad.compiled.marks import compiled_in

# Where nothing is compiled, a number stands for a function instead of an address.
_functions: dict[int, Callable[[], int]] = {}


def stand_in(number: int, function: Callable[[], int]) -> int:
    """A number by which `call_frame` finds a function where nothing is compiled."""
    _functions[number] = function
    return number


@compiled_in("tapegrad.compiled.pointers")
def call_frame(address: int, words: np.ndarray) -> int:
    """Call the function at an address with the arguments in the words of a frame; returns what the function returns."""
    return _functions[address]()


@compiled_in("tapegrad.compiled.pointers")
def float_bits(x: float) -> int:
    """The whole number whose bits are those of a float64, as which a frame holds a float."""
    return int(struct.unpack("q", struct.pack("d", x))[0])
