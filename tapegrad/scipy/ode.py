"""Initial value problems: `scipy.integrate.solve_ivp` and `odeint`, with derivatives."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.integrate
import scipy.optimize

from tapegrad import optimize, pytree
from tapegrad.adjoint import evaluation
from tapegrad.calls.call import call
from tapegrad.errors import DTypeError, OperationError, ShapeError, StructureError, UnsupportedError
from tapegrad.functions import stack
from tapegrad.optimize.flat import Nesting, nesting_of, start
from tapegrad.scipy.captured import Captured
from tapegrad.scipy.ode_numbers import Options
from tapegrad.scipy.ode_rules import Solve
from tapegrad.scipy.ode_system import Given
from tapegrad.tape import current_tape
from tapegrad.value import Value, as_value, number_of

_METHODS = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
_MODES = ("auto", "adjoint", "forward")


def solve_ivp(
    fun: Callable[..., Any], t_span: Any, y0: Any, method: Any = "RK45", t_eval: Any = None, dense_output: bool = False,
    events: Any = None, vectorized: bool = False, args: Any = None, *, sensitivity: str = "auto",
    adjoint_rtol: float | None = None, adjoint_atol: float | None = None, rtol: float = 1e-3, atol: Any = 1e-6,
    **options: Any,
) -> Any:  # fmt: skip
    """Solve y' = fun(t, y, *args), y(t0) = y0, by `scipy.integrate.solve_ivp`, with derivatives.

    Where y0, t_span, t_eval, args or what is in the closure of fun hold Values, y is a Value; otherwise this is
    `tapegrad.optimize.solve_ivp`, which see. It is differentiated with respect to all of these, to any order.

    Args:
        fun: returns the derivative of y, as many numbers as y has, nested or not; written in NumPy. It is recorded once
            and replayed at each evaluation. Values from around it are found in its closure, its defaults, and in
            `functools.partial`; others (globals, attributes) must be passed by args.
        t_span: (t0, t1).
        y0: the state at t0, a vector, an array of any shape, a number, or nested.
        method: RK23, RK45, DOP853, Radau, BDF, LSODA, or a class of SciPy's kind. Radau, BDF and LSODA get Jacobians,
            on the way back too.
        t_eval: the times at which y is wanted, as in SciPy. With Values it must be given, because the number of steps
            that a solver takes depends on the numbers: `t_eval=[t1]` for the end alone.
        dense_output, events: for plain numbers only.
        vectorized: makes no difference.
        args: further arguments of fun: a tuple, nested in any way. All floats that are Values are differentiated.
        sensitivity: "adjoint", "forward", or "auto". Gradients come from the adjoint equation, w' = -w df/dy, which is
            solved back from the last time and jumps at each time in t_eval; or from the variational equation,
            s' = df/dy s + df/dtheta, of each parameter, which is solved forward. "auto" takes the latter where n states
            with p parameters make n (1 + p) of at most 256 (LSODA 128, Radau and BDF 64); a y0 or t_span that holds
            Values counts as n parameters. Tangents (`jvp`) always go forward.
        rtol, atol: tolerances of y.
        adjoint_rtol, adjoint_atol: tolerances of the adjoint equation, by default those of y. They hold for a loss
            whose derivatives with respect to y are at most 1; others are scaled to that.
        options: what else SciPy takes: first_step; max_step and min_step, for both ways; `sparse` as in
            `tapegrad.optimize.solve_ivp`. `jac`, lband and uband are not needed.

    Returns SciPy's result. Its y, nested as y0 with the times as last axis, and its t, where times are Values, can be
    differentiated. In a recorded function `success` and `status` are followed like any other branch; `message` and the
    counts are those of the first call.

    Gradients are those of the exact solution, as far as the tolerances go, not of the solver's steps: with rtol=1e-3
    expect three digits. y on the way back is read from the solver's interpolation. To integrate y backwards too
    would save that memory, but where the equation is stable forwards it is unstable backwards.

    They hold for right-hand sides that are continuous. Where fun jumps because the state or a parameter crosses
    something, the time of the jump moves, and gradients leave that out: a RuntimeWarning says so where the jump is a
    branch of Python; one made by `np.where` is not seen. Jumps at fixed times do no harm. Of second derivatives the
    same holds for the derivative of fun.

    Where the solver fails, success is False as in SciPy, y is NaN from there on, and so are gradients, with a
    RuntimeWarning. ArithmeticError is raised where only the gradient fails.

    Raises UnsupportedError for what is for plain numbers only, when there are Values; OperationError for an unknown
    method or sensitivity, and times outside of t_span or not in order; ShapeError where fun returns another count of
    numbers than y has; TapeMismatchError where fun takes a Value from around it that was not found.

    Source: Y. Cao, S. Li, L. Petzold, R. Serban, Adjoint sensitivity analysis for differential-algebraic equations,
    SIAM J. Sci. Comput. 24 (2003), for the adjoint equation.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> def end(rate):
    ...     return solve_ivp(lambda t, y: -rate * y, (0.0, 2.0), [1.0], t_eval=[2.0], rtol=1e-8, atol=1e-10).y[0, -1]
    >>> np.allclose([tg.grad(end)(0.5), tg.grad(tg.grad(end))(0.5)], [-2.0 * np.exp(-1.0), 4.0 * np.exp(-1.0)])
    True
    """
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    taken = Captured(fun)
    if not _holds_values((t_span, y0, t_eval, args, taken.values)):
        if t_eval is not None:
            options["t_eval"] = t_eval
        if dense_output:
            options["dense_output"] = True
        return optimize.solve_ivp(
            fun, t_span, y0, method, args, events=events, rtol=rtol, atol=atol, **options
        )
    if events is not None:
        raise UnsupportedError(
            "solve_ivp: events with Values: find the time with plain numbers, and make it differentiable by "
            "tg.implicit_root of the event, with the solution at that time in it"
        )
    if dense_output:
        raise UnsupportedError("solve_ivp: dense_output with Values: pass the times at which y is wanted as t_eval")
    if t_eval is None:
        raise UnsupportedError(
            "solve_ivp with Values needs t_eval: how many steps the solver takes depends on the numbers, so the shape "
            "of y would; for the end alone pass t_eval=[t_span[1]]"
        )
    if method not in _METHODS and not (inspect.isclass(method) and issubclass(method, scipy.integrate.OdeSolver)):
        raise OperationError(
            f"unknown method {method!r}: it must be one of {', '.join(_METHODS)}, or an OdeSolver class"
        )
    _check_span(t_span)
    made = _options(method, rtol, atol, adjoint_rtol, adjoint_atol, sensitivity, options)
    rules, y, times = _solved(taken, t_span[0], t_eval, t_span[1], y0, args, made, options.pop("sparse", None))
    if options:
        raise UnsupportedError(f"solve_ivp with Values does not take {', '.join(sorted(options))}")
    return Solution(rules, times, y)


def odeint(
    func: Callable[..., Any], y0: Any, t: Any, args: Any = (), Dfun: Any = None, col_deriv: Any = 0,
    full_output: Any = 0, ml: Any = None, mu: Any = None, rtol: float | None = None, atol: Any = None,
    tcrit: Any = None, h0: float = 0.0, hmax: float = 0.0, hmin: float = 0.0, ixpr: Any = 0, mxstep: int = 0,
    mxhnil: int = 0, mxordn: int = 12, mxords: int = 5, printmessg: Any = 0, tfirst: bool = False, *,
    sensitivity: str = "auto", adjoint_rtol: float | None = None, adjoint_atol: float | None = None,
) -> Any:  # fmt: skip
    """Solve y' = func(y, t, *args), y(t[0]) = y0, by `scipy.integrate.odeint`, with derivatives: y at the times t,
    (len(t), n).

    Where y0, t, args or what is in the closure of func hold Values, the result is a Value. See `solve_ivp` for what can
    be differentiated, for `sensitivity`, the tolerances of the adjoint equation, and for what happens where the solver
    fails. The solver is LSODA, whose steps are not taken in Python, so that this is faster than `solve_ivp`.

    Args:
        func: func(y, t, *args), or func(t, y, *args) with `tfirst`; returns as many numbers as y has.
        y0: the state at t[0], a vector or a number.
        t: the times, in order, up or down; they may be repeated.
        args: further arguments of func: a tuple, nested in any way.
        rtol, atol: tolerances, 1.49e-8 where they are None.
        h0, hmax, hmin: the first, largest and smallest step.
        others: for plain numbers, as in SciPy, which gets the exact Jacobian unless there is a Dfun. With Values Dfun,
            ml, mu and mxstep are not needed, and the others are refused.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> end = lambda y0, rate: odeint(lambda y, t, rate: -rate * y, y0, [0.0, 2.0], args=(rate,))[-1, 0]
    >>> np.allclose(tg.grad(end, argnums=(0, 1))(1.0, 0.5), [np.exp(-1.0), -2.0 * np.exp(-1.0)])
    True
    """
    args = args if isinstance(args, tuple) else (args,)
    fun = func if tfirst else _time_first(func)
    taken = Captured(fun)
    if not _holds_values((y0, t, args, taken.values)):
        if Dfun is None and ml is None and mu is None:
            nesting, vector = start(y0, "y0")
            leaves, structure = pytree.flatten((args, ()))
            system = Given(fun, nesting, structure, leaves, (), (), False)
            func, tfirst, args, y0 = (lambda t, y: system.value(float(t), y)), True, (), vector
            Dfun, col_deriv = lambda t, y: system.jacobian(float(t), y), 0
        return scipy.integrate.odeint(
            func, y0, t, args, Dfun, col_deriv, full_output, ml, mu, rtol, atol, tcrit, h0, hmax, hmin, ixpr, mxstep,
            mxhnil, mxordn, mxords, printmessg, tfirst,
        )  # fmt: skip
    refused = {
        "full_output": full_output, "tcrit": tcrit is not None, "ixpr": ixpr, "mxhnil": mxhnil,
        "mxordn": mxordn != 12, "mxords": mxords != 5, "printmessg": printmessg,
    }  # fmt: skip
    if any(refused.values()):
        raise UnsupportedError(f"odeint with Values does not take {', '.join(n for n, x in refused.items() if x)}")
    steps = {"first_step": h0 or None, "max_step": hmax, "min_step": hmin}
    given = {name: x for name, x in steps.items() if x}
    rtol, atol = (1.49012e-8 if x is None else x for x in (rtol, atol))
    made = _options("odeint", rtol, atol, adjoint_rtol, adjoint_atol, sensitivity, given)
    if isinstance(t, Value | np.ndarray) and t.ndim > 1:
        raise ShapeError(f"odeint: the times t are one axis, not shape {t.shape}")
    times = _line(t, "t")
    if not np.size(times):
        raise ShapeError("odeint: t holds no times")
    rules, y, _ = _solved(taken, times[0], times, times[-1], y0, args, made, False)
    if isinstance(y, list | tuple | dict):
        raise StructureError("odeint: y0 must be a vector or a number; solve_ivp takes it nested")
    if y.ndim > 2:
        raise ShapeError(f"odeint: y0 is a vector or a number, not of shape {y.shape[:-1]}; solve_ivp takes any shape")
    return y.reshape(rules.system.n, np.size(times)).T


class Solution(scipy.optimize.OptimizeResult):
    """What `solve_ivp` returns: SciPy's fields, by attribute or key.

    success and status depend on y, so in a recorded function they are held by a guard when they are looked at.
    """

    def __init__(self, rules: Solve, t: Any, y: Any) -> None:
        info = rules.info
        counts = {name: info[name] for name in ("nfev", "njev", "nlu", "message")}
        super().__init__(t=t, y=y, sol=None, t_events=None, y_events=None, **counts)

    @property
    def success(self) -> bool:
        """Whether the solver came to the end."""
        return all(bool(np.all(np.isfinite(x))) for x in pytree.flatten(self.y)[0])

    @property
    def status(self) -> int:
        """0, or -1 where the solver failed."""
        return 0 if self.success else -1


def _time_first(func: Any) -> Any:
    return functools.wraps(func)(lambda t, y, *args: func(y, t, *args))


def _options(
    method: Any, rtol: float, atol: Any, rtol_back: float | None, atol_back: float | None, mode: str,
    options: dict[str, Any],
) -> Options:  # fmt: skip
    if mode not in _MODES:
        raise OperationError(f"unknown sensitivity {mode!r}: it must be one of {', '.join(_MODES)}")
    for name in ("jac", "lband", "uband"):
        options.pop(name, None)
    steps = tuple((name, float(options.pop(name))) for name in ("max_step", "min_step") if name in options)
    return Options(
        method, float(rtol), atol, float(rtol if rtol_back is None else rtol_back),
        float(np.min(atol) if atol_back is None else atol_back), options.pop("first_step", None), steps, mode,
    )  # fmt: skip


def _solved(
    taken: Captured, t0: Any, t_eval: Any, t1: Any, y0: Any, args: tuple[Any, ...], options: Options,
    sparse: bool | None,
) -> tuple[Solve, Any, Any]:  # fmt: skip
    """The rules, y at t_eval, nested as y0, and t_eval as a vector."""
    nesting, vector = _state(y0)
    inner = _line(t_eval, "t_eval")
    if not np.size(inner):
        raise ShapeError("there are no times at which y is wanted")
    times = _joined([_line(t0, "t_span"), inner, _line(t1, "t_span")])
    leaves, structure = pytree.flatten((args, taken.values))
    taken.values = []
    for i, x in enumerate(leaves):
        leaves[i] = _plain_or_value(x, "args")
    at = [i for i, x in enumerate(leaves) if isinstance(x, Value)]
    theta = _joined([leaves[i] for i in at])
    system = Given(taken.template, nesting, structure, leaves, at, [leaves[i].shape for i in at], sparse)
    wanted = isinstance(vector, Value), isinstance(theta, Value), isinstance(times, Value)
    rules = Solve(system, options, wanted)
    y = call(rules, (vector, theta, times))
    return rules, nesting.columns(y, np.size(inner)), inner


def _state(y0: Any) -> tuple[Nesting, Any]:
    """How the state is nested, and its numbers as a vector. Raises what `optimize.flat.start` raises."""
    if not _holds_values(y0):
        return start(y0, "y0")
    if type(y0) in (list, tuple) and all(isinstance(x, Value | int | float | np.number) and not np.ndim(x) for x in y0):
        y0 = stack(list(y0))
    leaves, structure = pytree.flatten(y0)
    leaves = [_plain_or_value(x, "y0") for x in leaves]
    for x in leaves:
        if not isinstance(x, Value):
            start(x, "y0")
    return nesting_of(leaves, structure), _joined(leaves)


def _line(x: Any, what: str) -> Any:
    """Numbers or Values, nested or not, as one vector."""
    leaves = [_plain_or_value(leaf, what) for leaf in pytree.flatten(x)[0]]
    for leaf in leaves:
        kind = "f" if isinstance(leaf, Value) else np.asarray(leaf).dtype.kind
        if kind not in "fiu":
            raise DTypeError(f"{what} must hold real numbers, not {leaf!r}")
    return _joined(leaves)


def _plain_or_value(x: Any, what: str) -> Any:
    """A leaf as it is; Values of whole numbers as numbers, arrays of Values as Values, plain arrays as copies."""
    if isinstance(x, np.ndarray) and x.dtype == object:
        return as_value(x, current_tape(), what)
    if isinstance(x, Value) and not evaluation.is_float(x):
        return number_of(x) if x._is_integer else x.data
    return np.array(x) if isinstance(x, np.ndarray) else x


def _joined(parts: Sequence[Any]) -> Any:
    if any(isinstance(x, Value) for x in parts):
        flat = [x.reshape(-1) if isinstance(x, Value) else np.reshape(np.asarray(x, float), -1) for x in parts]
        return flat[0] if len(flat) == 1 else np.concatenate(flat)
    return np.concatenate([np.zeros(0), *(np.reshape(np.asarray(x, float), -1) for x in parts)])


def _check_span(t_span: Any) -> None:
    if (not isinstance(t_span, list | tuple) and np.shape(t_span) != (2,)) or len(t_span) != 2:
        raise ShapeError(f"t_span must be (t0, t1), not {t_span!r}")


def _holds_values(x: Any) -> bool:
    return evaluation.holds_values(pytree.flatten(x)[0])
