"""Modules as pytrees. The leaves of a module are the numbers of its parameters; `unflatten` makes a copy of the module
in which given Values or arrays take the place of the parameters."""

from __future__ import annotations

from typing import Any

from tapegrad import pytree
from tapegrad.nn.buffers import modes_of
from tapegrad.nn.parameter import Parameter
from tapegrad.nn.tree import NOTES, replaced
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
    # What a recording depends on is a part of the structure: after a change of the module, or in another mode, it is
    # another one.
    return leaves, (module._marks(), names, modes_of(module)), names


def _unflatten(extra: Any, leaves: Any) -> Any:
    module = extra[0].module
    assert module is not None
    made = {id(p): Parameter.fixed(x) for (_, p), x in zip(module._tree(), leaves, strict=True)}
    return _copy(module, made)


def _copy(module: Any, made: dict[int, Any]) -> Any:
    if id(module) in made or type(module) not in _kinds:
        return made.get(id(module), module)
    copy = made[id(module)] = object.__new__(type(module))
    for name, value in vars(module).copy().items():
        if name not in NOTES:
            object.__setattr__(copy, name, replaced(value, made, lambda x: _copy(x, made)))
    object.__setattr__(copy, "_made_on", recording_tape())
    return copy
