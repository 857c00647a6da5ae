"""How arguments and results are nested, as JSON.

Classes are never imported by the name that a file says: that could run any code. Named tuples and dataclasses are found
among those that the reader gives, and among the library's own; else a class with the same name and fields is made.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import keyword
from collections.abc import Callable, Sequence
from typing import Any

from tapegrad import pytree
from tapegrad.errors import DataError, StructureError
from tapegrad.storage.plain import DEEPEST, Arrays, decoded, encoded, items, text_of

_PLAIN: dict[type, str] = {tuple: "tuple", list: "list"}
_KEYED: dict[type, str] = {dict: "dict", collections.OrderedDict: "ordered dict"}
# The library's own containers by name: their classes, and the attributes that are their parts.
_own: dict[str, tuple[type, tuple[str, ...], Callable[..., Any]]] = {}
# Named tuples that functions of the library return.
_named: list[type] = []


def own_container(name: str, kind: type, parts: tuple[str, ...], make: Callable[..., Any]) -> None:
    """Have a class of the library be found by a name: `make` puts its parts together."""
    _own[name] = kind, parts, make


def own_named_tuple(kind: type) -> None:
    """Have a class of named tuples be found by its name and fields."""
    _named.append(kind)


def to_json(structure: Any, arrays: Arrays) -> Any:
    """A structure as JSON. Raises StructureError for containers that cannot be saved."""
    return _taken_apart(structure, arrays, 0)


def _taken_apart(structure: Any, arrays: Arrays, depth: int) -> Any:
    if pytree.is_leaf(structure):
        return ["leaf"]
    kind = pytree.kind(structure)
    if kind is type(None):
        return ["none"]
    if depth > DEEPEST:
        raise StructureError("containers within containers are nested too deeply to be saved")
    parts = [_taken_apart(part, arrays, depth + 1) for part in pytree.children(structure)]
    if kind in _PLAIN:
        return [_PLAIN[kind], parts]
    if kind in _KEYED:
        return [_KEYED[kind], [encoded(key, arrays) for key in pytree.names(structure)], parts]
    for name, (own, *_) in _own.items():
        if kind is own:
            return [name, parts]
    for said in ("named tuple", "dataclass"):
        names = _fields_of(said, kind)
        if names is not None:
            return [said, kind.__name__, list(names), parts]
    raise StructureError(
        f"a {kind.__name__} cannot be saved: arguments and results may be tuples, lists, dicts, named tuples and "
        "dataclasses of numbers and arrays"
    )


def from_json(x: Any, arrays: Arrays, classes: Sequence[type]) -> Any:
    """The structure that a file says. Raises DataError for what `to_json` does not write."""
    return pytree.flatten(_put_together(x, arrays, classes, 0))[1]


def _put_together(x: Any, arrays: Arrays, classes: Sequence[type], depth: int) -> Any:
    kind, *rest = items(x, "a structure", most=4) or [None]
    if x == ["leaf"]:
        return 0.0
    if x == ["none"]:
        return None

    def each(parts: Any) -> list[Any]:
        return [_put_together(part, arrays, classes, depth + 1) for part in items(parts, "parts of a container")]

    if type(kind) is not str or not rest or depth > DEEPEST:
        raise DataError(f"{x!r:.50} is no structure of arguments or results")
    if kind in _PLAIN.values() and len(rest) == 1:
        return (tuple if kind == "tuple" else list)(each(rest[0]))
    if kind in _KEYED.values() and len(rest) == 2:
        keys, parts = [decoded(key, arrays) for key in items(rest[0], "keys")], each(rest[1])
        made = (dict if kind == "dict" else collections.OrderedDict)(_pairs(keys, parts))
        if len(made) != len(parts):
            raise DataError("a dict has a key twice")
        return made
    if kind in _own and len(rest) == 1:
        _, names, make = _own[kind]
        parts = each(rest[0])
        if len(parts) == len(names):
            return make(*parts)
    if kind in ("named tuple", "dataclass") and len(rest) == 3:
        name = text_of(rest[0], "the name of a class")
        names = tuple([text_of(field, "the name of a field") for field in items(rest[1], "fields")])
        parts = each(rest[2])
        if len(parts) != len(names):
            raise DataError(f"{name!r:.50} has {len(names)} fields and {len(parts)} parts")
        return _made(_class_of(kind, name, names, classes), names, parts)
    raise DataError(f"{x!r:.50} is no structure of arguments or results")


def _pairs(keys: list[Any], parts: list[Any]) -> Any:
    try:
        hash(tuple(keys))
    except TypeError:
        raise DataError("a key of a dict is an array") from None
    if len(keys) != len(parts):
        raise DataError(f"a dict has {len(keys)} keys and {len(parts)} parts")
    return zip(keys, parts, strict=True)


def _class_of(kind: str, name: str, names: tuple[str, ...], classes: Sequence[type]) -> type:
    for known in (*classes, *(_named if kind == "named tuple" else ())):
        if known.__name__ == name and _fields_of(kind, known) == names:
            return known
    if not all(map(is_name, (name, *names))):
        raise DataError(f"{(name, *names)!r:.80} are no names of a class and its fields")
    if len(set(names)) != len(names) or any(word.startswith("_") for word in names):
        raise DataError(f"{name} has a field twice, or one that begins with an underscore")
    return _new_class(kind, name, names)


def is_name(word: str) -> bool:
    """Whether Python code could call something so."""
    return word.isidentifier() and not keyword.iskeyword(word) and len(word) <= 200


def _fields_of(kind: str, known: Any) -> tuple[str, ...] | None:
    if kind == "named tuple":
        return tuple(known._fields) if issubclass(known, tuple) and hasattr(known, "_fields") else None
    return tuple(field.name for field in dataclasses.fields(known)) if dataclasses.is_dataclass(known) else None


@functools.lru_cache(256)
def _new_class(kind: str, name: str, names: tuple[str, ...]) -> type:
    # The same class for the same file, however often it is loaded.
    if kind == "named tuple":
        return collections.namedtuple(name, names)
    return dataclasses.make_dataclass(name, names)


def _made(kind: Any, names: tuple[str, ...], parts: list[Any]) -> Any:
    if issubclass(kind, tuple):
        return tuple.__new__(kind, parts)
    made = object.__new__(kind)
    for name, part in zip(names, parts, strict=True):
        object.__setattr__(made, name, part)
    return made
