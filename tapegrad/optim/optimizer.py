"""What all optimisers share: their parameters and groups, and the three ways to use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tapegrad import pytree
from tapegrad.errors import DTypeError, OperationError, ShapeError, StructureError
from tapegrad.optim.clipping import flat_view
from tapegrad.optim.groups import (
    Entry,
    Group,
    Rate,
    Run,
    check_rate,
    given_groups,
    handles_of,
    is_module,
    place_on_tape,
    runs_of,
)  # fmt: skip
from tapegrad.optim.loops import update_loop
from tapegrad.optim.nested import Nested, Room
from tapegrad.optim.runs import Lengths, Update, blocks, columns, merged
from tapegrad.optim.saving import Saved
from tapegrad.optim.targets import Target, check_same, offsets_among, target_among, target_of
from tapegrad.pickling import to_pickle
from tapegrad.value import Value


class Optimizer(Saved):
    """Base class of the optimisers.

    Args:
        params: what is optimised: a module, a Value, or a nesting of these, for `step`; a list of groups, which are
            dicts with such "params" and options that differ for them; None where only `update` is called.
        lr: the learning rate, or a schedule: a function from the number of the step (0 at first) to the rate.
        hyper: the options, by name: the constants that the kernel takes.
        rows: how many numbers are remembered for each parameter.
        groups: dicts as above, whose "params" may be patterns of names, such as "encoder.*", as well; whatever is in
            none of them has the options of the optimiser. The first group that has a parameter counts.

    An optimiser of your own is a subclass that names a function `kernel(p, g, state, hyper, rate, step)`, written for
    Numba, which is compiled when it is first used: see `tapegrad.optim.loops` for what it is given.

    Raises OperationError for a rate or option out of range or unknown, StructureError for parameters that are none.

    >>> import numpy as np
    >>> from tapegrad.optim import SGD
    >>> optimizer = SGD(lr=0.1, groups=[{"params": "bias", "lr": 1.0}])
    >>> optimizer.update({"weight": np.zeros(2), "bias": 0.0}, {"weight": np.ones(2), "bias": 1.0})
    {'weight': array([-0.1, -0.1]), 'bias': -1.0}
    """

    kernel: ClassVar[Any] = None

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if vars(cls).get("kernel") is not None:
            cls.kernel = update_loop(vars(cls)["kernel"])

    def __init__(
        self, params: Any, lr: Rate, hyper: Mapping[str, Any], rows: int = 0, groups: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        check_rate(lr)
        self.lr, self.steps = lr, 0
        self._options = dict(hyper)
        self.hyper = self.constants_of(self._options)
        own = given_groups(params)
        if own is not None and groups:
            raise OperationError("groups are given either in place of the parameters or by groups=, not both")
        self.groups = [self._group(given) for given in (own if own is not None else groups)]
        # What it was made with: the modules and Values, and how they are nested.
        self._params: tuple[list[Any], Any] | None = None
        # Whether all parameters are alike.
        self._undivided = own is None and not groups
        if own is not None:
            self._check_apart()
        else:
            self.groups.append(Group(None, None, self.hyper))
            if params is not None:
                self._params = _nesting_of(params)
        self._rows = max((self.rows_for(group.hyper) for group in self.groups), default=0) or rows
        self._state: np.ndarray | None = None
        # The runs that the state is of, as (length, group).
        self._of: Lengths = ()
        self._update: Update | None = None
        self._known_runs: dict[Any, tuple[Run, ...]] = {}
        self._room = Room()
        # The parameters that the state is of. A copy does not have it: it takes those that it is given first.
        self._target: Target | None = None

    # To be overridden by optimisers whose options are not just the constants of the kernel

    def constants_of(self, options: Mapping[str, Any]) -> dict[str, float]:
        """The constants that the kernel takes, in its order. Raises OperationError for an option out of range."""
        return {name: float(option) for name, option in options.items()}

    def rows_for(self, hyper: Mapping[str, float]) -> int:
        """How many numbers are remembered for each parameter with these constants, if that depends on them."""
        return 0

    # Groups

    def _group(self, given: Mapping[str, Any]) -> Group:
        if not isinstance(given, Mapping) or "params" not in given:
            raise OperationError(f'a group is a dict with "params", not {given!r}')
        options = {name: option for name, option in given.items() if name not in ("params", "lr")}
        unknown = [name for name in options if name not in self._options]
        if unknown:
            raise OperationError(
                f"{type(self).__name__} has no option {unknown[0]!r}; a group may have lr, {', '.join(self._options)}"
            )
        return Group(given["params"], given.get("lr"), self.constants_of(self._options | options))

    def _check_apart(self) -> None:
        seen: set[int] = set()
        for group in self.groups:
            for name, value in group.named():
                _check_wanted(value)
                if id(value) in seen:
                    raise OperationError(f"the parameter {name or 'given as a Value'!r} is in two groups")
                seen.add(id(value))

    def __repr__(self) -> str:
        lr = getattr(self.lr, "func", self.lr)
        rate = getattr(lr, "__qualname__", "schedule").split(".")[0].lstrip("_") if callable(lr) else lr
        constants = "".join(f", {name}={number:g}" for name, number in self.hyper.items() if number)
        groups = f", {len(self.groups)} groups" if len(self.groups) > 1 else ""
        return f"{type(self).__name__}(lr={rate}{constants}{groups})"

    def rate(self, step: int | None = None, group: int | None = None) -> float:
        """The learning rate at a step (from 0), by default the next one; of a group, by number, if it has its own."""
        lr = self.groups[group].lr if group is not None else None
        lr = self.lr if lr is None else lr
        return float(lr(self.steps if step is None else step)) if callable(lr) else float(lr)

    def rates(self, runs: Sequence[Run], count: int = 1) -> np.ndarray:
        """The rates of the next steps, (count, runs)."""
        found = np.zeros((count, len(runs)))
        known: dict[int, Any] = {}
        for j, run in enumerate(runs):
            if run.group not in known:
                known[run.group] = [self.rate(self.steps + i, run.group) for i in range(count)]
            found[:, j] = known[run.group]
        return found

    def runs(self, entries: Sequence[Entry]) -> tuple[Run, ...]:
        """Where the parameters of each group lie in the vector of these. Raises StructureError where there is none for
        a name or handle of a group."""
        return runs_of(self.groups, entries)

    def runs_in(self, nested: Nested, size: int) -> tuple[Run, ...]:
        """As `runs`, of the parameters in a nesting, which are so many numbers. Those that the optimiser was not made
        for are in none.

        Raises StructureError where it was made for others, or remembers something of others.
        """
        runs, target = self._found(nested, size)
        if self._target is not None and self._remembers:
            check_same(self._target, target, self._made_with_some)
        self._target = target
        return runs

    def _found(self, nested: Nested, size: int) -> tuple[tuple[Run, ...], Target]:
        whole = (Run(0, size, 0),) if size else ()
        if self._made_with_some:
            # To ask groups for their parameters is a walk through the modules, so that is done once.
            named = [group.named() for group in self.groups]
            made_with = self._params[0] if self._params is not None else _in_order(named)
            same = len(made_with) == len(nested.leaves) and all(x is y for x, y in zip(made_with, nested.leaves))
            if self._undivided and (same or self._is_all(nested, size)):
                return whole, ((0, size),) if size else ()
            entries = nested.entries()
            offsets = offsets_among(made_with, entries)
            wanted = {id(entry.value) for entry, offset in zip(entries, offsets) if offset is not None}
            runs = runs_of(self.groups, entries, wanted, named)
            if not wanted and not same:
                raise StructureError(
                    f"the optimiser was made for other parameters than those of this {type(nested.whole).__name__}, or "
                    "before the model was complete"
                )
            return runs, target_among(offsets, entries)
        target = target_of(nested)
        if self._undivided:
            return whole, target
        if any(group.handles is not None for group in self.groups) or target[-1]:
            return self.runs(nested.entries()), target
        if target not in self._known_runs:
            self._known_runs[target] = self.runs(nested.entries())
        return self._known_runs[target], target

    def _is_all(self, nested: Nested, size: int) -> bool:
        """Whether this is an array of its own that has as many numbers as the parameters that the optimiser was made
        with: then they are taken for these, as `model.flat.data` is copied for a loop over a vector."""
        if len(nested.leaves) != 1 or not isinstance(nested.leaves[0], np.ndarray):
            return False
        return size == sum(int(np.size(handle)) for handle in self._given().handles)

    def runs_of_model(self, module: Any) -> tuple[Run, ...]:
        """As `runs_in`, of all parameters of a module."""
        return self.runs_in(Nested(module), int(module.flat.size))

    @property
    def _made_with_some(self) -> bool:
        return self._params is not None or all(group.handles is not None for group in self.groups)

    # The state

    @property
    def _remembers(self) -> bool:
        """Whether something is remembered of parameters."""
        return self._state is not None and self._state.size > 0

    def constants(self, group: int = -1) -> np.ndarray:
        """The constants of a group as the kernel takes them, float64."""
        return np.array(list(self.groups[group].hyper.values()), np.float64)

    def state(self, size: int, dtype: Any, of: Lengths | None = None) -> np.ndarray:
        """What is remembered: (rows, size), zeros at first; one block after another for the runs of parameters, which
        `of` says the length and the group of.

        Raises ShapeError, DTypeError or StructureError if it was made for other parameters.
        """
        of = ((size, len(self.groups) - 1),) if of is None else of
        if self._state is None or not self._rows:
            self._state, self._of = np.zeros((self._rows, size), dtype), of
        if self._state.shape[1] != size:
            raise ShapeError(f"this optimiser has worked on {self._state.shape[1]} parameters, {size} were given")
        if self._state.dtype != dtype:
            found = np.dtype(dtype)
            raise DTypeError(f"this optimiser has worked on {self._state.dtype} parameters, these are {found}")
        if self._of != of:
            if merged(self._of) != merged(of):
                raise StructureError(
                    f"this optimiser has worked on parameters of the groups {_order(self._of)}, these are {_order(of)}"
                )
            self._state, self._of = blocks(columns(self._state, self._of), of), of
        return self._state

    def bind(self, p: np.ndarray, g: np.ndarray, runs: tuple[Run, ...]) -> Update:
        """The update of a vector of parameters, where it stands, by a gradient. Raises what `state` raises."""
        if type(self).kernel is None:
            raise StructureError(f"{type(self).__name__} has no update of one step: call step(closure) or minimize")
        of = tuple((run.stop - run.start, run.group) for run in runs)
        state = self.state(sum(size for size, _ in of), p.dtype, of)
        hypers = [self.constants(i) for i in range(len(self.groups))]
        return Update(type(self).kernel, p, g, runs, state, hypers)

    def apply(self, p: np.ndarray, g: np.ndarray, runs: tuple[Run, ...]) -> None:
        """Change parameters in place by their gradient, both as one vector, in the runs that `runs_of_model` gives."""
        update = self._update
        if update is None or update.runs != runs or update.dtype != p.dtype or update.state is not self._state:
            # A kept one is not of this process, or of other parameters.
            update = self._update = self.bind(p, g, runs)
        else:
            update.point(p, g)
            for numbers, group in zip(update.hypers, self.groups):
                numbers[:] = list(group.hyper.values())
        update.run([self.rate()] * len(runs) if self._undivided else self.rates(runs)[0], self.steps + 1)
        self.steps += 1

    # The ways to use it

    def update(self, params: Any, grads: Any) -> Any:
        """One step on parameters by their gradient. An optimiser that was made with some parameters changes only these;
        a single array is taken for all of them, if it has as many numbers.

        Args:
            params: an array of float32 or float64, any shape, contiguous, which is changed in place; or a module, a
                Value, or any nesting of these and of arrays and floats.
            grads: the gradient, nested as the parameters, as `tg.grad` returns it; of a module a module, or the
                gradient with respect to its `flat`.

        Returns:
            The parameters: modules, Values and a single array are those given, changed; other arrays and floats are
            new ones, and those given stay as they were.

        Raises ShapeError, DTypeError, StructureError where parameters and gradient do not fit, or where the parameters
        are not those that the optimiser was made with or remembers something of; InPlaceError for a Value that is the
        result of something; nothing is changed then.

        >>> import numpy as np
        >>> from tapegrad.optim import SGD
        >>> optimizer = SGD(lr=0.1)
        >>> optimizer.update({"w": np.ones(2), "b": 0.5}, {"w": np.array([3.0, -2.0]), "b": 5.0})
        {'w': array([0.7, 1.2]), 'b': 0.0}
        """
        if isinstance(params, np.ndarray):
            return self._update_array(params, grads)
        nested = Nested(params)
        nested.check_editable()
        p = nested.vector(self._room if nested.in_place else None)
        g = nested.gradient(grads, p.dtype, p.size, self._room)
        self.apply(p, g, self.runs_in(nested, p.size))
        return nested.put(p)

    def _update_array(self, params: np.ndarray, grads: Any) -> np.ndarray:
        p = flat_view(params, "params")
        if np.shape(grads) != params.shape or grads.dtype != params.dtype:
            found = f"{getattr(grads, 'dtype', type(grads).__name__)} of shape {np.shape(grads)}"
            raise ShapeError(
                f"the gradient is {found}, the parameters are {params.dtype} of shape {params.shape}"
            )
        g = np.ascontiguousarray(grads).view(np.ndarray).reshape(-1)
        self.apply(p, g, self.runs_in(Nested(params), p.size))
        return params

    def step(self) -> None:
        """One step on the parameters given, from the `grad` that `backward` left. Raises StructureError without any."""
        nested = self._given()
        nested.check_editable()
        p = nested.vector(self._room)
        self.apply(p, nested.accumulated(), self.runs_in(nested, p.size))
        nested.put(p)

    def zero_grad(self) -> None:
        """Set the gradients of the parameters to zero. Raises StructureError without any."""
        for x in self._given().leaves:
            x.zero_grad()

    def _given(self) -> Nested:
        if self._params is not None:
            return Nested(None, *self._params)
        values = _in_order([group.named() for group in self.groups])
        if not values:
            raise StructureError("this optimiser was made without parameters: call update(params, grads)")
        return Nested(values)

    def _numbers(self) -> np.ndarray | None:
        if self._params is None and not any(group.handles for group in self.groups):
            return None
        nested = self._given()
        p = nested.vector()
        # Without those that are in no group.
        return np.concatenate([p[:0], *(p[run.start : run.stop] for run in self._found(nested, p.size)[0])])

    def __getstate__(self) -> dict[str, Any]:
        # Addresses are of this process.
        made: dict[str, Any] = {"_update": None, "_known_runs": {}, "_target": None}
        return self.__dict__ | made | {"lr": to_pickle(self.lr, "the learning rate")}


def _nesting_of(params: Any) -> tuple[list[Any], Any]:
    handles = handles_of(params)
    if handles is None:
        raise StructureError(
            f"an optimiser takes a module, a Value or a list of Values, or a nesting of these, not "
            f"{type(params).__name__}; for plain arrays leave params None and call update(params, grads)"
        )
    for value in handles:
        if isinstance(value, Value):
            _check_wanted(value)
    if not isinstance(params, Value | list | tuple | Mapping) and not is_module(params):
        params = handles
    return pytree.flatten(params, is_module)


def _in_order(named: Sequence[Sequence[tuple[str, Any]]]) -> list[Any]:
    """The parameters of groups in the order in which a model has them, so that they can be trained by `nn.Training` as
    well."""
    return sorted((value for group in named for _, value in group), key=place_on_tape)


def _check_wanted(value: Value) -> None:
    if not value.requires_grad:
        raise StructureError(f"{value.label or 'a parameter'} wants no gradient, so it cannot be optimised")


def _order(of: Lengths) -> str:
    return ", ".join(f"{size} of group {group}" for size, group in merged(of)) or "of none"


def in_range(name: str, number: float, low: float, high: float = np.inf) -> float:
    """The number as a float if low <= number < high. Raises OperationError otherwise."""
    if not low <= number < high:
        until = "" if high == np.inf else f" and below {high:g}"
        raise OperationError(f"{name} must be from {low:g} on{until}, not {number!r}")
    return float(number)
