"""Parameter groups: which parameters have a rate and constants of their own, and where they lie in the vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.errors import OperationError, StructureError
from tapegrad.pickling import to_pickle
from tapegrad.value import Value

Rate = float | Callable[[int], float]


class Run(NamedTuple):
    """The elements of the vector from start to stop, which are of one group."""

    start: int
    stop: int
    group: int


class Entry(NamedTuple):
    """A parameter: its name, the handle to its numbers if it has one, and how many they are."""

    name: str
    value: Any
    size: int


class Group:
    """Parameters with a learning rate and constants of their own.

    `lr` is None where the optimiser's own rate is taken; `hyper` has the constants by name, as the kernel takes them.
    """

    def __init__(self, given: Any, lr: Rate | None, hyper: dict[str, float]) -> None:
        if lr is not None:
            check_rate(lr)
        self.lr, self.hyper = lr, hyper
        # Names, or what has handles; None for whatever no other group has.
        self._patterns: tuple[str, ...] = ()
        self.handles: list[Any] | None = None
        if given is None:
            return
        names = [given] if isinstance(given, str) else given
        if isinstance(names, list | tuple) and names and all(isinstance(x, str) for x in names):
            self._patterns = tuple(names)
            return
        self.handles = handles_of(given)
        if self.handles is None:
            raise StructureError(
                f'the "params" of a group are a module, Values, or patterns of names, not {type(given).__name__}'
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"lr": to_pickle(self.lr, "the learning rate of a group")}

    def __repr__(self) -> str:
        what = ", ".join(map(repr, self._patterns))
        if self.handles is not None:
            what = ", ".join(type(x).__name__ for x in self.handles)
        return f"Group({what or 'the rest'})"

    def named(self) -> list[tuple[str, Any]]:
        """The parameters that it was given by handles, with their names. This walks through modules."""
        return named_handles(self.handles or ())

    def picker(
        self, entries: Sequence[Entry], named: Sequence[tuple[str, Any]] | None = None
    ) -> Callable[[Entry], bool]:
        """Tells of each parameter whether it is in this group. `named` is what `named()` has found, if that is known.

        Raises StructureError for a pattern or a handle to which there is no parameter.
        """
        if self.handles is None and not self._patterns:
            return lambda entry: True
        if self.handles is not None:
            wanted = {id(value): name for name, value in (self.named() if named is None else named)}
            lost = set(wanted) - {id(entry.value) for entry in entries}
            if lost:
                raise StructureError(
                    f"a group has the parameter {wanted[lost.pop()] or 'given as a Value'!r}, which is none of these "
                    "(or is no longer: make the optimiser when the model is complete)"
                )
            return lambda entry: id(entry.value) in wanted
        for pattern in self._patterns:
            if not any(fnmatchcase(entry.name, pattern) for entry in entries):
                names = ", ".join(repr(entry.name) for entry in entries[:8])
                raise StructureError(f"no parameter is called {pattern!r}; there are {names}")
        return lambda entry: any(fnmatchcase(entry.name, pattern) for pattern in self._patterns)


def is_module(x: Any) -> bool:
    """Whether this has parameters by name. (Modules are made of what is here, so their class is not known.)"""
    return hasattr(type(x), "named_parameters")


def handles_of(params: Any) -> list[Any] | None:
    """The modules and Values in a nesting of them; None where there is anything else, or nothing."""
    if isinstance(params, Value) or is_module(params):
        return [params]
    if isinstance(params, np.ndarray | str | type):
        return None
    if not isinstance(params, list | tuple | Mapping) and isinstance(params, Iterable):
        params = list(params)
    leaves = pytree.flatten(params, is_module)[0]
    return leaves if leaves and all(isinstance(x, Value) or is_module(x) for x in leaves) else None


def named_handles(handles: Iterable[Any]) -> list[tuple[str, Any]]:
    """The handles to all parameters, with the names that modules give them."""
    found: list[tuple[str, Any]] = []
    for x in handles:
        found += x.named_parameters() if is_module(x) else [(x.label or "", x)]
    return found


def place_on_tape(value: Any) -> int:
    """Where a Value's numbers begin on the tape, so that parameters are put in the order in which a model has them."""
    return int(value._slot + value._layout_or_scalar().reach[0]) if value.size else -1


def runs_of(
    groups: Sequence[Group], entries: Sequence[Entry], only: set[int] | None = None,
    named: Sequence[Sequence[tuple[str, Any]]] | None = None,
) -> tuple[Run, ...]:  # fmt: skip
    """The runs of parameters that are of one group. Those of no group, and those whose handles are not among `only`, by
    id, are in no run. `named` is what each group was given by handles, if that is known. Raises StructureError; see
    `Group.picker`."""
    pickers = [group.picker(entries, None if named is None else named[i]) for i, group in enumerate(groups)]
    runs: list[Run] = []
    at = 0
    for entry in entries:
        end = at + entry.size
        group = next((i for i, picks in enumerate(pickers) if picks(entry)), None)
        if only is not None and id(entry.value) not in only:
            group = None
        if group is not None and entry.size:
            if runs and runs[-1].stop == at and runs[-1].group == group:
                runs[-1] = runs[-1]._replace(stop=end)
            else:
                runs.append(Run(at, end, group))
        at = end
    return tuple(runs)


def given_groups(params: Any) -> list[dict[str, Any]] | None:
    """The groups, where a list of dicts with "params" is given as what is optimised; else None."""
    if not isinstance(params, list | tuple) or not params:
        return None
    if not all(isinstance(x, dict) and "params" in x for x in params):
        return None
    return list(params)


def check_rate(lr: Any) -> None:
    """Raise ValueError unless this is a learning rate or a schedule."""
    if callable(lr):
        return
    if not isinstance(lr, int | float | np.number) or not (lr >= 0.0 and np.isfinite(lr)):
        raise OperationError(f"the learning rate must be a number from 0 on, or a schedule, not {lr!r}")
