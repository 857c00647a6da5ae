"""Nested parameters as the one vector that an optimiser works on, and back; and gradients that are nested alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.errors import DTypeError, ShapeError, StructureError
from tapegrad.optim.groups import Entry, is_module
from tapegrad.tape.edits import check_editable
from tapegrad.value import Value

_REAL = (np.dtype(np.float64), np.dtype(np.float32))


class Room:
    """What an optimiser keeps from step to step so that a step is fast: memory, and the shapes in a module."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._known: tuple[Any, list[tuple[str, tuple[int, ...]]]] = (None, [])

    def of(self, name: str, size: int, dtype: np.dtype) -> np.ndarray:
        """Memory for a vector."""
        found = self._arrays.get(name)
        if found is None or found.size != size or found.dtype != dtype:
            found = self._arrays[name] = np.empty(size, dtype)
        return found

    def shapes(self, module: Any, flat: Value) -> list[tuple[str, tuple[int, ...]]]:
        """The names and shapes of a module's parameters. They are the same as long as its vector is the same."""
        if self._known[0] is not flat:
            self._known = flat, [(name, v.shape) for name, v in module.named_parameters()]
        return self._known[1]

    def __reduce__(self) -> Any:
        return Room, ()


class Nested:
    """Parameters nested in any way: modules and Values, which are changed in place, arrays and plain floats, in place
    of which new ones are given. A module counts as one leaf.

    Raises DTypeError for what holds no float32 or float64, and for both in one nesting.
    """

    def __init__(self, params: Any, leaves: list[Any] | None = None, structure: Any = None) -> None:
        if leaves is None:
            leaves, structure = pytree.flatten(params, is_module)
        self.leaves, self.structure = leaves, structure
        modules = [x for x in leaves if is_module(x)]
        if len(modules) > 1:
            found = [id(p) for x in modules for _, p in x._tree()]
            if len(set(found)) < len(found):
                raise StructureError(
                    "modules with a parameter in common are given: put them into one module (a ModuleList will do), or "
                    "give the parameters() of both, each once"
                )
        # What has the numbers: for a module its vector. To ask for that takes a walk through the module.
        self.handles = [x.flat if is_module(x) else x for x in leaves]

    @property
    def in_place(self) -> bool:
        """Whether all that is changed is changed in place."""
        return all(isinstance(handle, Value) for handle in self.handles)

    def path(self, i: int) -> str:
        """How Python would write a leaf."""
        return pytree.paths(self.structure, "params")[i]

    def check_editable(self) -> None:
        """Raise InPlaceError where a Value cannot be changed, before any is."""
        for handle in self.handles:
            if isinstance(handle, Value) and handle.size:
                tape = handle.tape
                tape.flush()
                check_editable(tape, tape.code[tape.row_of(tape.locate(handle._slot))])

    def vector(self, room: Room | None = None) -> np.ndarray:
        """A copy of all numbers, one leaf after another; in the room, if there is some."""
        parts: list[np.ndarray] = []
        dtypes: dict[np.dtype, int] = {}
        for i, x in enumerate(self.handles):
            if isinstance(x, float | np.floating) and not isinstance(x, np.float32):
                # A plain number takes the dtype of the arrays beside it.
                parts.append(np.array([x]))
                continue
            array = self._array(i, x)
            dtypes.setdefault(array.dtype, i)
            parts.append(array.reshape(-1))
        if len(dtypes) > 1:
            found = " and ".join(f"{self.path(i)} is {dtype}" for dtype, i in dtypes.items())
            raise DTypeError(
                f"the parameters of an optimiser must have one dtype, but {found}: convert them, or make an optimiser "
                "for each dtype"
            )
        if not parts:
            return np.zeros(0)
        dtype = next(iter(dtypes), _REAL[0])
        if room is None:
            return np.concatenate(parts, dtype=dtype, casting="same_kind")
        out = room.of("parameters", sum(part.size for part in parts), dtype)
        return np.concatenate(parts, out=out, casting="same_kind")

    def _array(self, i: int, x: Any) -> np.ndarray:
        array = x.data if isinstance(x, Value) else x
        if isinstance(x, Value) and not isinstance(array, np.ndarray):
            array = np.array(array, x.dtype)
        if not isinstance(array, np.ndarray | np.floating) or array.dtype not in _REAL:
            found = array.dtype if isinstance(array, np.ndarray) else f"a {type(array).__name__}"
            raise DTypeError(f"parameters must be float32 or float64, {self.path(i)} is {found}")
        return np.asarray(array).view(np.ndarray)

    def entries(self) -> list[Entry]:
        """All parameters with their names, which have a dot between the names of containers and modules."""
        found = []
        for name, x in zip(pytree.dotted(self.structure), self.leaves, strict=True):
            if is_module(x):
                prefix = f"{name}." if name else ""
                found += [Entry(prefix + below, v, v.size) for below, v in x.named_parameters()]
            else:
                found.append(Entry(name, x, int(np.size(x))))
        return found

    # Gradients

    def accumulated(self) -> np.ndarray:
        """The `grad` of all Values and modules, as a vector."""
        values = self.handles
        return np.concatenate([np.zeros(0), *(np.asarray(v.grad, v.dtype).reshape(-1) for v in values)],
                              dtype=values[0].dtype if values else None, casting="same_kind")  # fmt: skip

    def gradient(self, given: Any, dtype: np.dtype, size: int, room: Room) -> np.ndarray:
        """A gradient as a vector, in the room.

        Raises StructureError, ShapeError, DTypeError where it is not nested as the parameters, or has other numbers.
        """
        try:
            found = pytree.leaves_as(self.structure, given, is_module)
        except StructureError as error:
            raise StructureError(f"the gradient is nested otherwise than the parameters: {error}") from None
        parts: list[np.ndarray] = []
        for i, (x, g) in enumerate(zip(self.leaves, found, strict=True)):
            parts += self._of_module(i, x, g, room) if is_module(x) else [self._of_leaf(i, np.shape(x), g)]
        for part in parts:
            if part.dtype != dtype and part.dtype != np.float64:
                raise DTypeError(f"the gradient has an array of {part.dtype}, the parameters are {dtype}")
            if part.dtype != dtype and part.size != 1:
                raise DTypeError(f"the gradient has an array of float64, the parameters are {dtype}")
        out = room.of("gradient", size, dtype)
        return np.concatenate(parts, out=out, casting="same_kind") if parts else out

    def _of_leaf(self, i: int, shape: tuple[int, ...], g: Any) -> np.ndarray:
        if isinstance(g, Value) or not isinstance(g, np.ndarray | float | np.floating):
            raise StructureError(f"the gradient of {self.path(i)} must be an array or a float, not {_kind(g)}")
        array = np.asarray(g)
        if array.shape != shape:
            raise ShapeError(f"{self.path(i)} has shape {shape}, its gradient {array.shape}")
        return array.reshape(-1)

    def _of_module(self, i: int, module: Any, g: Any, room: Room) -> list[np.ndarray]:
        if isinstance(g, np.ndarray):
            # The gradient with respect to `module.flat`.
            return [self._of_leaf(i, np.shape(self.handles[i]), g)]
        if type(g) is not type(module):
            raise StructureError(f"{self.path(i)} is a {type(module).__name__}, its gradient is {_kind(g)}")
        found = [(name, _plain(v)) for name, v in g.named_parameters()]
        if [(name, v.shape) for name, v in found] != room.shapes(module, self.handles[i]):
            raise StructureError(
                f"the gradient of {self.path(i)} has the parameters {_listed(found)}, the {type(module).__name__} has "
                f"{_listed(module.named_parameters())}"
            )
        return [v.reshape(-1) for _, v in found]

    # The way back

    def put(self, p: np.ndarray) -> Any:
        """The nesting with these numbers: modules and Values have them from now on, arrays are views of the vector."""
        made: list[Any] = []
        at = 0
        for x, handle in zip(self.leaves, self.handles):
            end = at + int(np.size(handle))
            if isinstance(handle, Value):
                handle.data = p[at:end].reshape(handle.shape)
                made.append(x)
            elif isinstance(x, np.ndarray):
                made.append(p[at:end].reshape(x.shape))
            else:
                made.append(type(x)(p[at]))
            at = end
        return pytree.unflatten(self.structure, made)


def _plain(v: Any) -> np.ndarray:
    return np.asarray(v.data if isinstance(v, Value) else v)


def _kind(x: Any) -> str:
    return f"a {type(x).__name__}"


def _listed(named: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {v.shape}" for name, v in named[:8]) or "none"
