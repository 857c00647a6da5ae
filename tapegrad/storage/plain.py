"""Plain values as JSON, with arrays put aside, and read back without trust."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import DataError, StructureError

# Dtypes of arrays and numbers that may stand in a file, by name.
_DTYPES = {
    np.dtype(kind).name: np.dtype(kind)
    for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
}
# Containers within containers are followed so far.
DEEPEST = 100


class Arrays:
    """The arrays of a file that are constants of programs' surroundings, by their numbers.

    Args:
        found: the bytes of each, where a file is read.
    """

    def __init__(self, found: Sequence[np.ndarray] = ()) -> None:
        self.raw = list(found)

    def put(self, x: np.ndarray) -> list[Any]:
        """What stands for an array in the JSON."""
        if x.dtype.name not in _DTYPES:
            raise StructureError(f"an array of {x.dtype} cannot be saved")
        order = x.dtype.newbyteorder("<")
        self.raw.append(np.frombuffer(np.ascontiguousarray(x, order).tobytes(), np.uint8))
        return ["array", x.dtype.name, list(x.shape), len(self.raw) - 1]

    def get(self, name: Any, shape: Any, number: Any) -> np.ndarray:
        """The array again."""
        dtype, lengths = dtype_named(name), shape_of(shape)
        raw = self.raw[whole(number, "the number of an array", 0, len(self.raw) - 1)]
        # A length of zero does not make others harmless: NumPy would refuse them.
        size = math.prod(lengths) * dtype.itemsize
        if len(raw) != size or math.prod(n for n in lengths if n) >= 1 << 48:
            raise DataError(f"an array of {name} and shape {lengths} has {len(raw)} bytes")
        return np.frombuffer(raw.tobytes(), dtype.newbyteorder("<")).astype(dtype).reshape(lengths)


def dtype_named(name: Any) -> np.dtype:
    """The dtype that a file names."""
    if not isinstance(name, str) or name not in _DTYPES:
        raise DataError(f"{name!r} is no dtype that numbers can be of")
    return _DTYPES[name]


def whole(x: Any, what: str, low: int, high: int) -> int:
    """A whole number within bounds. Raises DataError for anything else."""
    if type(x) is not int or not low <= x <= high:
        raise DataError(f"{what} must be a whole number from {low} to {high}, not {x!r:.50}")
    return x


def shape_of(x: Any) -> tuple[int, ...]:
    """A shape."""
    lengths = items(x, "a shape", most=64)
    return tuple([whole(n, "a length", 0, (1 << 48) - 1) for n in lengths])


def items(x: Any, what: str, count: int | None = None, most: int | None = None) -> list[Any]:
    """A list, of so many entries where that is said."""
    if type(x) is not list or (count is not None and len(x) != count) or (most is not None and len(x) > most):
        raise DataError(f"{what} must be a list{'' if count is None else f' of {count}'}, not {x!r:.50}")
    return x


def text_of(x: Any, what: str) -> str:
    """A text."""
    if type(x) is not str:
        raise DataError(f"{what} must be a text, not {x!r:.50}")
    return x


def fields(x: Any, what: str, *names: str) -> list[Any]:
    """The entries of an object that has just these names, in order."""
    if type(x) is not dict or x.keys() != set(names):
        raise DataError(f"{what} must have the entries {', '.join(names)}")
    return [x[name] for name in names]


def encoded(x: Any, arrays: Arrays, depth: int = 0) -> Any:
    """A value as JSON. Raises StructureError for what is neither a number, a text, an array nor a tuple of these."""
    if depth > DEEPEST:
        raise StructureError("a tuple is nested too deeply to be saved")
    if x is None:
        return ["none"]
    if type(x) is bool or type(x) is str:
        return [type(x).__name__, x]
    if type(x) is int:
        return ["int", hex(x)]
    if type(x) is float:
        return ["float", x.hex()]
    if type(x) is bytes:
        return ["bytes", x.hex()]
    if isinstance(x, np.generic) and x.dtype.name in _DTYPES:
        return ["number", arrays.put(np.asarray(x))]
    if type(x) is np.ndarray:
        return arrays.put(x)
    if type(x) is tuple:
        return ["tuple", [encoded(y, arrays, depth + 1) for y in x]]
    raise StructureError(f"a {type(x).__name__} cannot be saved")


def decoded(x: Any, arrays: Arrays, depth: int = 0) -> Any:
    """The value that stands in a file. Raises DataError for what `encoded` does not write."""
    kind, *rest = items(x, "a value", most=4) or [None]
    given = rest[0] if len(rest) == 1 else None
    if kind == "none" and not rest:
        return None
    if (kind == "bool" and type(given) is bool) or (kind == "str" and type(given) is str):
        return given
    try:
        if kind == "int" and type(given) is str:
            return int(given, 16)
        if kind == "float" and type(given) is str:
            return float.fromhex(given)
        if kind == "bytes" and type(given) is str:
            return bytes.fromhex(given)
    except (ValueError, OverflowError):
        raise DataError(f"{given!r:.50} is no {kind}") from None
    if kind == "number" and depth <= DEEPEST:
        made = decoded(given, arrays, DEEPEST + 1)
        if isinstance(made, np.ndarray) and made.shape == ():
            return made[()]
    if kind == "array" and len(rest) == 3:
        return arrays.get(*rest)
    if kind == "tuple" and depth < DEEPEST:
        return tuple([decoded(y, arrays, depth + 1) for y in items(given, "a tuple")])
    raise DataError(f"{x!r:.50} is no value that can stand in a file")


