"""L-BFGS: a quasi-Newton method that remembers the last steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tapegrad.errors import DataError, NonScalarError, OperationError, ShapeError, StructureError
from tapegrad.optim.line_search import Point, strong_wolfe
from tapegrad.optim.nested import Nested
from tapegrad.optim.optimizer import Optimizer, in_range
from tapegrad.optim.saving import check_steps
from tapegrad.value import Value

# Evaluates value and gradient at a vector.
_Evaluate = Callable[[np.ndarray], tuple[float, np.ndarray]]
_ENTRIES = ["changes", "direction", "gradient", "hyper", "kind", "moves", "numbers", "steps"]
# A step along which the gradient changes less than this says nothing about the curvature.
_LEAST = 1e-10


class LBFGS(Optimizer):
    """Quasi-Newton steps: p ← p + t · d, where d = -H g and H is the inverse Hessian as the last steps show it.

    It evaluates the function several times a step, and wants the same function each time: all data, not batches.

    Args:
        params: a module, a Value or a nesting of these; None to call `update`.
        lr: the length t of a step, or of the first try of the line search.
        max_iter: iterations in one call.
        max_eval: evaluations in one call; by default 1.25 times max_iter.
        tolerance_grad: it ends where no component of the gradient is larger.
        tolerance_change: it ends where neither parameters nor value change more.
        history_size: how many steps are remembered.
        line_search_fn: None for steps of length lr, or "strong_wolfe".

    `step(closure)` takes PyTorch's closure. `update(params, f)` takes a function from parameters to value and gradient,
    such as `tg.value_and_grad(loss)`, and returns the parameters.

    Raises OperationError, StructureError. It has no groups, and `nn.Training` refuses it.

    Source: Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical Programming
    45, 1989; Nocedal and Wright, Numerical Optimization, 2nd ed., 2006, algorithm 7.4.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> def rosenbrock(p):
    ...     return (1.0 - p["x"]) ** 2 + 100.0 * (p["y"] - p["x"] ** 2) ** 2
    >>> optimizer = LBFGS(lr=1.0, max_iter=100, line_search_fn="strong_wolfe")
    >>> found = optimizer.update({"x": -1.0, "y": 2.0}, tg.value_and_grad(rosenbrock))
    >>> round(found["x"], 5), round(found["y"], 5)
    (1.0, 1.0)
    """

    def __init__(
        self, params: Any = None, lr: float = 1.0, *, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        if line_search_fn not in (None, "strong_wolfe"):
            raise OperationError(f'line_search_fn must be None or "strong_wolfe", not {line_search_fn!r}')
        options = {
            "max_iter": in_range("max_iter", max_iter, 1),
            "max_eval": in_range("max_eval", max_iter * 5 // 4 if max_eval is None else max_eval, 1),
            "tolerance_grad": in_range("tolerance_grad", tolerance_grad, 0.0),
            "tolerance_change": in_range("tolerance_change", tolerance_change, 0.0),
            "history_size": in_range("history_size", history_size, 1),
            "wolfe": float(line_search_fn is not None),
        }
        super().__init__(params, lr, options)
        if not self._undivided:
            raise StructureError("LBFGS has no groups: the curvature is that of all parameters together")
        self._forget()

    def _forget(self) -> None:
        # The last steps and how the gradient changed along them; the last direction, its length and the gradient there.
        self._moves: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []
        self._direction, self._gradient = np.zeros(0), np.zeros(0)
        self._length, self._scale = 0.0, 1.0

    @property
    def _remembers(self) -> bool:
        return self.steps > 0

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Up to `max_iter` iterations on the parameters given.

        Args:
            closure: sets the gradients to zero, computes the loss, calls `backward`, and returns the loss.

        Returns:
            What the closure returned first. Raises StructureError without parameters or closure.
        """
        if closure is None:
            raise StructureError("LBFGS evaluates the function several times: call step(closure)")
        nested, returned = self._given(), []
        self.runs_in(nested, nested.vector().size)

        def evaluate(p: np.ndarray) -> tuple[float, np.ndarray]:
            nested.put(p)
            loss = closure()
            returned.append(loss)
            return _number(loss), nested.accumulated()

        self._iterate(nested.vector(), evaluate, nested.put)
        return returned[0]

    def update(self, params: Any, grads: Any) -> Any:
        """Up to `max_iter` iterations, by a function from parameters to value and gradient.

        Args:
            params: as in `Optimizer.update`; a single array is not changed.
            grads: the function, such as `tg.value_and_grad(loss)`.

        Returns:
            The parameters, as `Optimizer.update` does.
        """
        if not callable(grads):
            raise StructureError("LBFGS evaluates the function several times: call update(params, value_and_grad)")
        nested = Nested(params)
        start = nested.vector()
        # Those that the optimiser was made for; the others stay.
        runs = self.runs_in(nested, start.size)
        places = np.concatenate([np.zeros(0, int), *(np.arange(run.start, run.stop) for run in runs)])

        def whole(p: np.ndarray) -> np.ndarray:
            made = start.copy()
            made[places] = p
            return made

        def evaluate(p: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = grads(nested.put(whole(p)))
            return _number(value), nested.gradient(gradient, p.dtype, start.size, self._room)[places]

        return self._iterate(start[places], evaluate, lambda p: nested.put(whole(p)))

    def _iterate(self, p: np.ndarray, evaluate: _Evaluate, put: Callable[[np.ndarray], Any]) -> Any:
        """Iterate from p, and put the parameters where they belong: those after the last whole iteration, where an
        evaluation raises or is interrupted. Returns what `put` does."""
        kept = [p]
        try:
            self._search(kept, evaluate)
        finally:
            found = put(kept[0])
        return found

    def _search(self, kept: list[np.ndarray], evaluate: _Evaluate) -> None:
        p = kept[0]
        if self.steps and self._direction.size != p.size:
            raise ShapeError(f"this optimiser has worked on {self._direction.size} parameters, {p.size} were given")
        rate, wolfe = self.rate(), bool(self.hyper["wolfe"])
        most, least_change = int(self.hyper["max_iter"]), self.hyper["tolerance_change"]
        value, g = evaluate(p)
        evaluated = 1
        for i in range(1, most + 1):
            if _largest(g) <= self.hyper["tolerance_grad"]:
                break
            d = self._next_direction(g)
            self.steps += 1
            t = min(1.0, 1.0 / float(np.abs(g).sum())) * rate if self.steps == 1 else rate
            before, slope = value, float(g @ d)
            # What was learnt up to here is kept, whether or not this step is taken.
            self._direction, self._gradient, self._length = d, g, t
            if slope > -least_change:
                break
            if wolfe:
                point, tries = strong_wolfe(
                    _along(p, d, evaluate), Point(0.0, value, g, slope), t, _largest(d), least_change
                )
                value, g, self._length = point.value, point.gradient, point.t
                evaluated += tries
            kept[0] = p = p + np.asarray(self._length, p.dtype) * d
            if not wolfe and i < most:
                value, g = evaluate(p)
                evaluated += 1
            if evaluated >= self.hyper["max_eval"]:
                break
            if _largest(d * self._length) <= least_change or abs(value - before) < least_change:
                break

    def _next_direction(self, g: np.ndarray) -> np.ndarray:
        if not self.steps:
            self._forget()
            return -g
        change, move = g - self._gradient, self._direction * np.asarray(self._length, g.dtype)
        curvature = float(change @ move)
        if curvature > _LEAST:
            self._changes.append(change)
            self._moves.append(move)
            keep = int(self.hyper["history_size"])
            del self._changes[:-keep], self._moves[:-keep]
            self._scale = curvature / float(change @ change)
        q, parts = -g, []
        pairs = [(s, y, 1.0 / float(y @ s)) for s, y in zip(self._moves, self._changes, strict=True)]
        for s, y, weight in reversed(pairs):
            parts.append(weight * float(s @ q))
            q = q - np.asarray(parts[-1], g.dtype) * y
        d = q * np.asarray(self._scale, g.dtype)
        for (s, y, weight), part in zip(pairs, reversed(parts), strict=True):
            d = d + np.asarray(part - weight * float(y @ d), g.dtype) * s
        return d

    # Keeping its state

    def state_dict(self) -> dict[str, np.ndarray]:
        """What it takes to go on later: steps, constants, the rate, the last steps and changes of the gradient."""
        size = self._direction.size
        return {
            "kind": np.array(type(self).__name__),
            "steps": np.array(self.steps),
            "hyper": self.constants(),
            "lr": self.saved_rates(),
            "direction": self._direction.copy(),
            "gradient": self._gradient.copy(),
            "moves": np.array(self._moves, self._direction.dtype).reshape(len(self._moves), size),
            "changes": np.array(self._changes, self._direction.dtype).reshape(len(self._changes), size),
            "numbers": np.array([self._length, self._scale]),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up a state from `state_dict`. Nothing is changed if it does not fit.

        Raises StructureError for another kind of optimiser, ShapeError, DataError.
        """
        self.check_names(list(saved))
        if str(saved["kind"]) != type(self).__name__:
            raise StructureError(f"the saved state is of {saved['kind']}, this is {type(self).__name__}")
        steps = check_steps(saved["steps"])
        found = {name: np.asarray(saved[name]) for name in _ENTRIES if name not in ("kind", "steps")}
        if any(array.dtype.kind != "f" for array in found.values()):
            raise DataError("a saved LBFGS has arrays of floats")
        d, moves = found["direction"], found["moves"]
        given = self._numbers()
        size = d.size if given is None or not steps else given.size
        if (
            d.shape != (size,) or found["gradient"].shape != d.shape or moves.shape != (len(moves), size)
            or found["changes"].shape != moves.shape or found["numbers"].shape != (2,)
            or found["hyper"].shape != (len(self.hyper),)
        ):  # fmt: skip
            raise ShapeError(f"the saved LBFGS is of {d.size} parameters, expected {size}, or has other shapes")
        self.set_rates(saved.get("lr"))
        self.steps, self._target = steps, None
        self.hyper.update(zip(self.hyper, found["hyper"].tolist(), strict=True))
        self._direction, self._gradient = d.copy(), found["gradient"].copy()
        self._moves, self._changes = list(moves.copy()), list(found["changes"].copy())
        self._length, self._scale = found["numbers"].tolist()

    def check_names(self, names: list[str]) -> None:
        """Raise StructureError unless these are the names of a saved LBFGS's entries."""
        if sorted(set(names) - {"lr"}) != _ENTRIES:
            raise StructureError(f"a saved LBFGS has the entries {_ENTRIES}, found {sorted(names)[:20]}")


def _along(p: np.ndarray, d: np.ndarray, evaluate: _Evaluate) -> Callable[[float], Point]:
    def at(t: float) -> Point:
        value, g = evaluate(p + np.asarray(t, p.dtype) * d)
        return Point(t, value, g, float(g @ d))

    return at


def _largest(x: np.ndarray) -> float:
    return float(np.abs(x).max(initial=0.0))


def _number(loss: Any) -> float:
    loss = loss.data if isinstance(loss, Value) else loss
    if np.size(loss) != 1:
        raise NonScalarError(f"the loss must be one number, this one has shape {np.shape(loss)}")
    return float(np.asarray(loss).reshape(()))
