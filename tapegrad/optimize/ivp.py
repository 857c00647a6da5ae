"""Initial value problems: `scipy.integrate.solve_ivp` with the Jacobian filled in for implicit methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.integrate
from scipy.integrate import BDF, LSODA, Radau

from tapegrad.errors import OperationError, ShapeError
from tapegrad.optimize.choice import pays
from tapegrad.optimize.flat import Nesting, arguments, off_tape, start
from tapegrad.optimize.replay import as_vector
from tapegrad.recording import Recording, record

_METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")


class _System:
    """The right-hand side of y' = f(t, y), recorded at its first evaluation, and its Jacobian with respect to y."""

    def __init__(self, f: Callable[..., Any], nesting: Nesting, args: tuple[Any, ...], sparse: bool | None) -> None:
        self._f = f
        self._nesting = nesting
        self._args = args
        self._sparse = sparse
        self._recording: Recording | None = None

    def _vector(self, t: Any, y: Any) -> Any:
        vector, outputs = as_vector(self._f(t, self._nesting.nest(y), *self._args))
        if outputs.size != self._nesting.size:
            raise ShapeError(f"fun returned {outputs.size} numbers, for a state of {self._nesting.size}")
        return vector

    def _at(self, t: Any, y: np.ndarray) -> tuple[Recording, float, np.ndarray]:
        t, y = float(t), np.asarray(y, float)
        if self._recording is None:
            self._recording = record(functools.wraps(self._f)(lambda t, y: self._vector(t, y)), t, y)
        return self._recording, t, y

    def slope(self, t: float, y: np.ndarray) -> np.ndarray:
        """f(t, y), as a vector."""
        recording, t, y = self._at(t, y)
        return np.asarray(recording(t, y), float)

    def jacobian(self, t: float, y: np.ndarray) -> Any:
        """df/dy, (n, n): a sparse array as asked for, else where it pays at the first evaluation."""
        recording, t, y = self._at(t, y)
        if self._sparse is None:
            self._sparse = pays(recording, t, y, argnums=1)
        return recording.jacobian(t, y, argnums=1, sparse=self._sparse)

    def banded(self, t: float, y: np.ndarray, lower: int, upper: int) -> np.ndarray:
        """df/dy packed by diagonals: entry (i, j) stands at (upper + i - j, j)."""
        recording, t, y = self._at(t, y)
        entries = recording.jacobian(t, y, argnums=1, sparse=True).tocoo()
        packed = np.zeros((lower + upper + 1, len(y)))
        row = upper + entries.row - entries.col
        inside = (row >= 0) & (row < len(packed))
        packed[row[inside], entries.col[inside]] = entries.data[inside]
        return packed


def solve_ivp(
    fun: Callable[..., Any], t_span: Any, y0: Any, method: Any = "Radau", args: Any = (), *, sparse: bool | None = None,
    events: Any = None, **options: Any,
) -> Any:  # fmt: skip
    """Solve y' = fun(t, y, *args), y(t0) = y0, by `scipy.integrate.solve_ivp`, with the exact Jacobian ∂fun/∂y.

    Args:
        fun: returns the derivative of y, as many numbers as y has, nested or not; written in NumPy. It is recorded once
            and replayed at each evaluation.
        t_span: (t0, t1).
        y0: the state at t0, a vector, an array of any shape, a number, or nested; see `minimize`.
        method: of SciPy, by name or class. Radau, BDF and LSODA get the Jacobian, the others values. (SciPy's default
            is RK45.)
        args: further arguments of fun and of the events, as they are.
        sparse: whether the Jacobian is a sparse array, for Radau and BDF, which then factorise it as one. By default it
            is, where there are at least 200 unknowns and at most a tenth of the entries can differ from zero.
        events: as in SciPy; y comes to them nested as y0.
        options: what else SciPy takes: t_eval, dense_output, rtol, atol, first_step, max_step, lband and uband for
            LSODA, `jac` to use in place of the derivative. `vectorized` makes no difference.

    Returns SciPy's result. For a nested y0 `y` is nested so too, each part with the times as its last axis; `sol` and
    `y_events` hold vectors of all numbers.

    Raises OperationError for an unknown method, a start that is not finite, `sparse=True` for a method that takes no
    sparse Jacobian, and an option for differences; ShapeError where fun returns another count of numbers than y has;
    what `minimize` raises for x0; and whatever fun raises.

    Source: E. Hairer and G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., 1996, section IV.8 for Radau.

    >>> import numpy as np
    >>> decay = solve_ivp(lambda t, y: -1000.0 * (y - np.cos(t)), (0.0, 1.0), [0.0], rtol=1e-6)
    >>> decay.success, decay.y[:, -1].round(4)
    (True, array([0.5411]))
    """
    nesting, vector = start(y0, "y0")
    args = arguments(args)
    kind = _kind(method)
    if "jac_sparsity" in options:
        raise OperationError("jac_sparsity is about differences, of which there are none here; see sparse")
    takes_sparse = kind is not None and issubclass(kind, Radau | BDF)
    if sparse and not takes_sparse:
        raise OperationError(f"sparse=True needs the method Radau or BDF, not {method!r}")
    system = _System(fun, nesting, args, sparse if takes_sparse else False)
    options.pop("vectorized", None)
    if kind is not None:
        options["jac"] = _jacobian(system, nesting, args, options)
    else:
        # SciPy warns of options that a method does not know.
        options.pop("jac", None)
    if events is not None:
        several = isinstance(events, list | tuple)
        made = [_event(e, nesting, args) for e in (events if several else [events])]
        options["events"] = made if several else made[0]
    with off_tape():
        result = scipy.integrate.solve_ivp(system.slope, t_span, vector, method=method, **options)
    result.y = nesting.columns(result.y, len(result.t))
    return result


def _kind(method: Any) -> type | None:
    """The class of an implicit method; None for an explicit one."""
    if inspect.isclass(method) and issubclass(method, scipy.integrate.OdeSolver):
        return method if issubclass(method, Radau | BDF | LSODA) else None
    if method not in _METHODS:
        raise OperationError(
            f"unknown method {method!r}: it must be one of {', '.join(_METHODS)}, or an OdeSolver class"
        )
    return {"Radau": Radau, "BDF": BDF, "LSODA": LSODA}.get(method)


def _jacobian(system: _System, nesting: Nesting, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    given = options.get("jac")
    if callable(given):
        return lambda t, y: given(t, nesting.nest(y), *args)
    if given is not None:
        return given
    lower, upper = options.get("lband"), options.get("uband")
    if lower is not None or upper is not None:
        return lambda t, y: system.banded(t, y, lower or 0, upper or 0)
    return system.jacobian


def _event(event: Any, nesting: Nesting, args: tuple[Any, ...]) -> Any:
    # SciPy reads attributes of events: terminal, direction.
    return functools.wraps(event)(lambda t, y: event(t, nesting.nest(y), *args))
