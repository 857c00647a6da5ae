"""What all optimisers share: their parameters, their state, and the three ways to use them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from tapegrad.errors import DataError, DTypeError, PickleError, ShapeError, StructureError
from tapegrad.optim.archive import read_arrays, write_arrays
from tapegrad.optim.clipping import flat_view, values_of
from tapegrad.optim.loops import update_loop
from tapegrad.pickling import copying, to_pickle
from tapegrad.value import Value


class Optimizer:
    """Base class of the optimisers.

    Args:
        params: what is optimised: a module, a Value, or a list of Values, for `step`; None where only `update` is
            called, with arrays.
        lr: the learning rate, or a schedule: a function from the number of the step (0 at first) to the rate.
        hyper: the constants that the kernel takes, by name.
        rows: how many numbers are remembered for each parameter.

    An optimiser of your own is a subclass that names a function `kernel(p, g, state, hyper, rate, step)`, written for
    Numba, which is compiled when it is first used: see `tapegrad.optim.loops` for what it is given.

    Raises ValueError for a rate or constant out of range, StructureError for parameters that are none.
    """

    kernel: ClassVar[Any]

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "kernel" in vars(cls):
            cls.kernel = update_loop(vars(cls)["kernel"])

    def __init__(self, params: Any, lr: float | Callable[[int], float], hyper: dict[str, float], rows: int) -> None:
        values = None if params is None else values_of(params)
        if params is not None and values is None:
            raise StructureError(
                f"an optimiser takes a module, a Value or a list of Values, not {type(params).__name__}; for plain "
                "arrays leave params None and call update(params, grads)"
            )
        for v in values or ():
            if not v.requires_grad:
                raise StructureError(f"{v.label or 'a parameter'} wants no gradient, so it cannot be optimised")
        if not callable(lr) and not (lr >= 0.0 and np.isfinite(lr)):
            raise ValueError(f"the learning rate must be a number from 0 on, or a schedule, not {lr!r}")
        self._module = params if hasattr(params, "flat") and not isinstance(params, Value) else None
        self._single = values if self._module is None else None
        self.lr = lr
        self.hyper = hyper
        self.steps = 0
        self._rows = rows
        self._state: np.ndarray | None = None

    def __repr__(self) -> str:
        rate = getattr(self.lr, "__qualname__", "schedule").split(".")[0] if callable(self.lr) else self.lr
        constants = "".join(f", {name}={number:g}" for name, number in self.hyper.items() if number)
        return f"{type(self).__name__}(lr={rate}{constants})"

    def __getstate__(self) -> dict[str, Any]:
        if self._single is not None and not copying():
            raise PickleError(
                f"this {type(self).__name__} optimises single Values, whose tape stays in this process: make it with a "
                "module, or without parameters and call update(params, grads), or take state_dict() to the other "
                "process"
            )
        return self.__dict__ | {"lr": to_pickle(self.lr, "the learning rate")}

    @property
    def values(self) -> list[Value] | None:
        """What is optimised; None where only `update` is called."""
        # The vector of a module may be another since the module was changed, so the module is asked for it each time.
        return self._single if self._module is None else [self._module.flat]

    def rate(self, step: int | None = None) -> float:
        """The learning rate at a step (from 0), by default the next one."""
        return float(self.lr(self.steps if step is None else step)) if callable(self.lr) else float(self.lr)

    def constants(self) -> np.ndarray:
        """The constants as the kernel takes them, float64."""
        return np.array(list(self.hyper.values()), np.float64)

    def state(self, size: int, dtype: Any) -> np.ndarray:
        """What is remembered: (rows, size), zeros at first.

        Raises ShapeError or DTypeError if it was made for other parameters.
        """
        if self._state is None or not self._rows:
            self._state = np.zeros((self._rows, size), dtype)
        if self._state.shape[1] != size:
            raise ShapeError(f"this optimiser has worked on {self._state.shape[1]} parameters, {size} were given")
        if self._state.dtype != dtype:
            found = np.dtype(dtype)
            raise DTypeError(f"this optimiser has worked on {self._state.dtype} parameters, these are {found}")
        return self._state

    def update(self, params: np.ndarray, grads: np.ndarray) -> None:
        """One step on plain arrays: changes `params` in place.

        Args:
            params: float32 or float64, any shape, contiguous.
            grads: the gradient, of the same shape and dtype.

        Raises ShapeError, DTypeError.
        """
        p = flat_view(params, "parameters")
        if np.shape(grads) != params.shape or grads.dtype != params.dtype:
            raise ShapeError(
                f"the gradient is {grads.dtype} of shape {np.shape(grads)}, the parameters are {params.dtype} of shape "
                f"{params.shape}"
            )
        g = np.ascontiguousarray(grads).view(np.ndarray).reshape(-1)
        type(self).kernel(p, g, self.state(p.size, p.dtype), self.constants(), self.rate(), self.steps + 1)
        self.steps += 1

    def step(self) -> None:
        """One step on the parameters given, from the `grad` that `backward` left. Raises StructureError without any."""
        values = self._given()
        p = np.concatenate([np.asarray(v.data, v.dtype).reshape(-1) for v in values])
        g = np.concatenate([np.asarray(v.grad, v.dtype).reshape(-1) for v in values])
        self.update(p, g)
        at = 0
        for v in values:
            v.data = p[at : at + v.size].reshape(v.shape)
            at += v.size

    def zero_grad(self) -> None:
        """Set the gradients of the parameters to zero. Raises StructureError without any."""
        for v in self._given():
            v.zero_grad()

    def _given(self) -> list[Value]:
        values = self.values
        if not values:
            raise StructureError("this optimiser was made without parameters: call update(params, grads)")
        return values

    # Keeping its state

    def state_dict(self) -> dict[str, np.ndarray]:
        """What it takes to go on later: kind, number of steps, constants, state. The rate is not part of it."""
        state = np.zeros((self._rows, 0)) if self._state is None else self._state.copy()
        return {
            "kind": np.array(type(self).__name__),
            "steps": np.array(self.steps),
            "hyper": self.constants(),
            "state": state,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up a state from `state_dict`. Nothing is changed if it does not fit.

        Raises StructureError for another kind of optimiser or other entries, ShapeError for other sizes, DTypeError for
        a state that is not of these parameters' dtype, DataError for numbers that no optimiser has.
        """
        _check_names(list(saved))
        kind, hyper, state = str(saved["kind"]), np.asarray(saved["hyper"]), np.asarray(saved["state"])
        if kind != type(self).__name__:
            raise StructureError(f"the saved state is of {kind}, this is {type(self).__name__}")
        steps = np.asarray(saved["steps"])
        if steps.shape or steps.dtype.kind not in "iu" or steps < 0:
            raise DataError(f"a saved optimiser has made a whole number of steps, from 0 on, not {steps!r}")
        if hyper.dtype.kind != "f" or not (np.isfinite(hyper).all() and (hyper >= 0.0).all()):
            raise DataError(f"the constants of a saved optimiser are numbers from 0 on, not {hyper!r}")
        if state.dtype not in (np.float64, np.float32):
            raise DTypeError(f"the saved state must be float64 or float32, it is {state.dtype}")
        if hyper.shape != (len(self.hyper),) or state.ndim != 2 or state.shape[0] != self._rows:
            raise ShapeError(
                f"the saved state has {hyper.size} constants and shape {state.shape}; expected {len(self.hyper)} "
                f"and ({self._rows}, n)"
            )
        if self.values is not None:
            size, dtype = sum(v.size for v in self._given()), self._given()[0].dtype
            if state.shape[1] not in (0, size):
                raise ShapeError(f"the saved state is of {state.shape[1]} parameters, these are {size}")
            if state.shape[1] and state.dtype != dtype:
                raise DTypeError(f"the saved state is {state.dtype}, these parameters are {dtype}")
        self.steps = int(steps)
        self.hyper = dict(zip(self.hyper, hyper.tolist(), strict=True))
        self._state = np.ascontiguousarray(state) if state.shape[1] else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to an .npz file."""
        write_arrays(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote. Raises DataError, and what `load_state_dict` raises."""
        self.load_state_dict(read_arrays(path, _check_names))


def _check_names(names: list[str]) -> None:
    wanted = ["hyper", "kind", "state", "steps"]
    if sorted(names) != wanted:
        raise StructureError(f"a saved optimiser has the entries {wanted}, found {sorted(names)[:20]}")


def in_range(name: str, number: float, low: float, high: float = np.inf) -> float:
    """The number as a float if low <= number < high. Raises ValueError otherwise."""
    if not low <= number < high:
        until = "" if high == np.inf else f" and below {high:g}"
        raise ValueError(f"{name} must be from {low:g} on{until}, not {number!r}")
    return float(number)
