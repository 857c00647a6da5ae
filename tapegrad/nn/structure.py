"""Modules as pytrees. The leaves of a module are the numbers of its parameters; `unflatten` makes a copy of the module
in which given Values or arrays take the place of the parameters."""

from __future__ import annotations

from typing import Any

from tapegrad import pytree
from tapegrad.nn.buffers import modes_of
from tapegrad.nn.parameter import Parameter
from tapegrad.tape import recording_tape

_kinds: set[type] = set()


def register(kind: type) -> None:
    """Teach `pytree` a class of modules."""
    _kinds.add(kind)
    pytree.register(kind, _flatten, _unflatten)


def _flatten(module: Any) -> tuple[tuple[Any, ...], Any, tuple[str, ...]]:
    named = list(module._tree())
    leaves = tuple(p.value() if p.is_fixed else p.data() for _, p in named)
    names = tuple(name for name, _ in named)
    # In another mode it is another structure, and so another recording.
    return leaves, (module, names, modes_of(module)), names


def _unflatten(extra: Any, leaves: Any) -> Any:
    module = extra[0]
    made = {id(p): Parameter.fixed(x) for (_, p), x in zip(module._tree(), leaves, strict=True)}
    return _copy(module, made)


def _copy(x: Any, made: dict[int, Any]) -> Any:
    if id(x) in made:
        return made[id(x)]
    if type(x) in _kinds:
        copy = made[id(x)] = object.__new__(type(x))
        for name, value in vars(x).items():
            if name not in ("_known", "_made_on"):
                object.__setattr__(copy, name, _copy(value, made))
        object.__setattr__(copy, "_made_on", recording_tape())
        return copy
    if isinstance(x, list | tuple):
        items = [_copy(item, made) for item in x]
        return type(x)(*items) if hasattr(x, "_fields") else type(x)(items)
    return x
