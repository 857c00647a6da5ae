"""What goes into a compiled program and comes out of it, as Numba code sees it: shapes, dtypes, how they are nested."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.core.errors import NumbaError, TypingError
from numba.np.numpy_support import as_dtype

from tapegrad.njit.numbers import is_recorded, recorded_array


class Leaf(NamedTuple):
    """A number, where `shape` is None, or an array; `dtype` is its name.

    Of an argument: `static` is what it must be that is a part of the recording, True or False. Of a result: `strides`
    are those in the arena, `stored` is the dtype of what stands there.
    """

    shape: tuple[int, ...] | None
    dtype: str
    static: bool | None = None
    strides: tuple[int, ...] = ()
    stored: str = ""

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return int(np.prod(self.shape or ()))

    @property
    def dense(self) -> bool:
        """Whether a result stands in the arena number by number, in the order of its elements."""
        expected = 1
        for n, stride in zip(reversed(self.shape or ()), reversed(self.strides), strict=True):
            if n > 1 and stride != expected:
                return False
            expected *= n
        return True


class Nest(NamedTuple):
    """A tuple, or with `named` a named tuple of that class, of leaves, numbers of leaves, or other tuples."""

    parts: tuple[Any, ...]
    named: Any = None


class Form(NamedTuple):
    """What goes in and comes out.

    Attributes:
        arguments: a `Leaf` or `Nest` for each.
        results: all that the program computes, as leaves.
        returned: what a call returns of these: a number of a result, or a `Nest` of such.
        dtype: the name of the dtype of the arena.
        most: the largest whole number that is exact there.
    """

    arguments: tuple[Any, ...]
    results: tuple[Leaf, ...]
    returned: Any
    dtype: str
    most: int

    @property
    def digest(self) -> str:
        """A text that is another one for another form."""
        text = repr(self) + "".join(f" {id(n.named)}" for n in _nests((*self.arguments, self.returned)) if n.named)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _nests(parts: Any) -> Iterator[Nest]:
    for part in parts:
        if isinstance(part, Nest):
            yield part
            yield from _nests(part.parts)


def leaves(node: Any, path: str) -> Iterator[tuple[Leaf, str]]:
    """The leaves of an argument, and how Python would write each."""
    if isinstance(node, Leaf):
        yield node, path
    else:
        for i, part in enumerate(node.parts):
            yield from leaves(part, f"{path}[{i}]")


def described(node: Any) -> str:
    """An argument in words."""
    if isinstance(node, Nest):
        return f"a {node.named.__name__ if node.named else 'tuple'} of {len(node.parts)}"
    if node.static is not None:
        return str(node.static)
    if node.shape is None:
        return "an integer" if node.dtype == "int64" else f"a {node.dtype} number"
    return f"a {node.dtype} array of shape {node.shape}"


def check(where: str, t: Any, node: Any) -> None:
    """Raise TypingError where an argument of a Numba type is another one than recorded, but for its shape."""
    if isinstance(node, Nest):
        named = getattr(t, "instance_class", None)
        if isinstance(t, types.BaseTuple) and named is node.named and len(t) == len(node.parts):
            for i, (one, part) in enumerate(zip(t, node.parts, strict=True)):
                check(f"{where}[{i}]", one, part)
            return
    elif node.static is not None:
        if isinstance(t, types.Boolean):
            return
    elif node.shape is None:
        whole = node.dtype == "int64" and isinstance(t, types.Integer)
        if whole or (isinstance(t, types.Float) and _name(t) == node.dtype):
            return
    elif isinstance(t, types.Array) and t.ndim == len(node.shape) and _name(t.dtype) == node.dtype:
        return
    if is_recorded(t) or recorded_array(t) is not None:
        raise TypingError(
            "a Numba function that calls a recording cannot be differentiated itself: call the Python function's "
            "gradient there, or record all of it"
        )
    raise TypingError(f"{where}: recorded with {described(node)}, called with {_of_type(t)}")


def _name(t: Any) -> str:
    try:
        return str(as_dtype(t).name)
    except (NumbaError, NotImplementedError):
        return ""


def _of_type(t: Any) -> str:
    if isinstance(t, types.Array):
        axes = "1 axis" if t.ndim == 1 else f"{t.ndim} axes"
        return f"an array of {t.dtype} with {axes}"
    return f"a {t}" if not isinstance(t, types.Integer) else "an integer"
