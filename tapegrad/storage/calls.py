"""Functions of the library that instructions call, and how a file names them.

Whoever makes such calls has a `Kind` of them here. A function of a user's has none: its code cannot be in a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tapegrad.errors import DataError, UnsupportedError


class Kind(NamedTuple):
    """One kind of calls.

    Attributes:
        to_json: to_json(call, writer) returns an object of JSON; `writer` numbers programs and arrays.
        from_json: from_json(entries, reader) returns the call again. It trusts nothing, and raises DataError.
        sizes: sizes(call) returns the size of the result and those of the operands.
    """

    to_json: Callable[[Any, Any], dict[str, Any]]
    from_json: Callable[[dict[str, Any], Any], Any]
    sizes: Callable[[Any], tuple[int, list[int]]]


_kinds: dict[str, Kind] = {}
_names: dict[type, str] = {}


def kind_of_call(name: str, kind: type, to_json: Any, from_json: Any, sizes: Any) -> None:
    """Have calls of a class be saved under a name; see `Kind`."""
    _kinds[name], _names[kind] = Kind(to_json, from_json, sizes), name


def to_json(call: Any, writer: Any) -> dict[str, Any]:
    """A call as JSON. Raises UnsupportedError for one that cannot be saved."""
    name = _names.get(type(call))
    if name is None:
        called = getattr(getattr(call, "rules", None), "name", type(call).__name__)
        raise UnsupportedError(
            f"it calls the Python function {called}, whose code cannot stand in a file. A function that is written in "
            "NumPy can be recorded itself, without `external`, `checkpoint`, `custom_vjp` or `custom_jvp` around it"
        )
    return {"call": name, **_kinds[name].to_json(call, writer)}


def from_json(x: Any, reader: Any) -> tuple[Any, int, list[int]]:
    """The call that stands in a file, the size of its result and those of its operands."""
    name = x.pop("call", None) if type(x) is dict else None
    if type(name) is not str or name not in _kinds:
        raise DataError(f"an instruction calls {name!r:.50}, which is no function of tapegrad's")
    call = _kinds[name].from_json(x, reader)
    return call, *_kinds[name].sizes(call)
