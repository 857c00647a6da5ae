"""Nested arguments, taken apart into leaves and put together: tuples, lists, dicts, dataclasses, registered classes."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from tapegrad.errors import StructureError


class Node(NamedTuple):
    """How one container was built: its type, what must be equal for two of a kind, and its parts."""

    kind: type
    extra: Hashable
    parts: tuple[Any, ...]


LEAF = None
_registered: dict[type, tuple[Callable[[Any], tuple[tuple[Any, ...], Hashable]], Callable[[Hashable, Any], Any]]] = {}


def register(
    kind: type,
    flatten: Callable[[Any], tuple[tuple[Any, ...], Hashable]],
    unflatten: Callable[[Hashable, Any], Any],
) -> None:
    """Teach `flatten` a container class.

    `flatten(x)` returns (children, extra), extra being hashable; `unflatten(extra, children)` builds one again.

    >>> class Pair:
    ...     def __init__(self, a, b):
    ...         self.a, self.b = a, b
    >>> register(Pair, lambda p: ((p.a, p.b), None), lambda extra, parts: Pair(*parts))
    >>> flatten(Pair(1.0, 2.0))[0]
    [1.0, 2.0]
    """
    _registered[kind] = (flatten, unflatten)


def _children(x: Any) -> tuple[tuple[Any, ...], Hashable] | None:
    kind = type(x)
    if kind in (tuple, list):
        return tuple(x), None
    if x is None:
        return (), None
    if kind in (dict, OrderedDict):
        keys = tuple(x)
        return tuple(x.values()), keys
    if kind in _registered:
        return _registered[kind][0](x)
    if isinstance(x, tuple) and hasattr(kind, "_fields"):
        return tuple(x), None
    if dataclasses.is_dataclass(kind):
        names = tuple(f.name for f in dataclasses.fields(x))
        return tuple(getattr(x, name) for name in names), names
    return None


def flatten(x: Any) -> tuple[list[Any], Any]:
    """The leaves of a nested structure in order, and a hashable description to put them together with.

    >>> flatten({"w": [1.0, 2.0], "b": 3.0})[0]
    [1.0, 2.0, 3.0]
    """
    leaves: list[Any] = []

    def visit(x: Any) -> Any:
        found = _children(x)
        if found is None:
            leaves.append(x)
            return LEAF
        children, extra = found
        return Node(type(x), extra, tuple(visit(c) for c in children))

    return leaves, visit(x)


def flatten_once(x: Any) -> tuple[tuple[Any, ...], Node | None]:
    """The children of a container, and how it was built; nothing for a leaf."""
    found = _children(x)
    return ((), None) if found is None else (found[0], Node(type(x), found[1], ()))


def unflatten(structure: Any, leaves: Any) -> Any:
    """Put leaves together again.

    Raises StructureError if a dataclass cannot be built from its fields.

    >>> leaves, structure = flatten((1.0, {"a": 2.0}))
    >>> unflatten(structure, [10.0, 20.0])
    (10.0, {'a': 20.0})
    """
    rest = iter(leaves)

    def build(node: Any) -> Any:
        if node is LEAF:
            return next(rest)
        kind, extra, nodes = node
        parts = [build(n) for n in nodes]
        if kind in _registered:
            return _registered[kind][1](extra, parts)
        if kind is type(None):
            return None
        if kind in (dict, OrderedDict):
            return kind(zip(extra, parts, strict=True))
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            # Around __init__, which may compute or refuse: the fields are all there is.
            made: Any = object.__new__(kind)
            for name, part in zip(extra, parts, strict=True):
                try:
                    object.__setattr__(made, name, part)
                except AttributeError:
                    raise StructureError(f"cannot set field {name!r} of a {kind.__name__}") from None
            return made
        return kind(*parts) if hasattr(kind, "_fields") else kind(parts)

    return build(structure)
