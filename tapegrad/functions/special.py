"""The ufuncs of `scipy.special` on Values, registered when the first of them is called with one."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tapegrad.errors import UnsupportedError
from tapegrad.ops import BY_UFUNC
from tapegrad.value import IMPLEMENTATIONS, LATER, Value, apply

_REGISTERED = False
# Why ufuncs are refused, for those of which there is more to say than what `_ADVICE` says.
_COMPLEX = "its results are complex, and Values are real"
_REASONS = {
    "wofz": f"{_COMPLEX}; erfcx, dawsn and erfi are real forms of it", "kelvin": f"{_COMPLEX}; ber, bei, ker and kei "
    "are its parts", "hankel1": f"{_COMPLEX}; jv and yv are its parts", "hankel2": f"{_COMPLEX}; jv and yv are its "
    "parts", "hankel1e": _COMPLEX, "hankel2e": _COMPLEX, "modfresnelp": _COMPLEX, "modfresnelm": _COMPLEX,
    "zetac": "its derivative is not a function that SciPy has; tapegrad.scipy.special.zeta(s, x) has one by x",
    "hyp2f1": "operations take three operands; tapegrad.scipy.special.hyp2f1(a, b, c, x) has a derivative by x",
    "eval_jacobi": "operations take three operands, and it has four; the other polynomials are supported",
    "eval_sh_jacobi": "operations take three operands, and it has four; the other polynomials are supported",
}  # fmt: skip
_ADVICE = (
    "wrap it in tapegrad.external(f, vjp) with a rule of your own for its derivative, or use v.data for numbers "
    "without a gradient"
)


def is_special(ufunc: np.ufunc) -> bool:
    """Whether a ufunc is one of SciPy's special functions. Nobody has one before SciPy has been imported."""
    special = sys.modules.get("scipy.special")
    return special is not None and getattr(special, ufunc.__name__, None) is ufunc


def register(ufunc: np.ufunc) -> None:
    """Have the special functions of SciPy known, if a ufunc that is not known is one of them."""
    global _REGISTERED
    if _REGISTERED or not is_special(ufunc):
        return
    from scipy import special

    from tapegrad.ops.special import HELD, OUTPUTS, SAME

    # Last, so that a call that is interrupted here is made up for by the next one.
    for same, row in SAME.items():
        BY_UFUNC.setdefault(same, row)
    for held, row in HELD.items():
        IMPLEMENTATIONS[held] = _holding(held, row)
    for several, rows in OUTPUTS.items():
        IMPLEMENTATIONS[several] = _several(several, rows)
    for name in dir(special):
        found = getattr(special, name)
        if isinstance(found, np.ufunc) and found not in BY_UFUNC and found not in IMPLEMENTATIONS:
            IMPLEMENTATIONS[found] = _refusing(found)
    _REGISTERED = True


LATER.append(register)


def _only_call(name: str, kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise UnsupportedError(f"scipy.special.{name} with {', '.join(sorted(kwargs))}= is not supported on a Value")


class _Inputs(threading.local):
    """The inputs of the derivatives that are being written, of those around first."""

    def __init__(self) -> None:
        self.values: list[Value] = []


_inputs = _Inputs()


@contextlib.contextmanager
def differentiated(inputs: Iterable[Value]) -> Iterator[None]:
    """While a function is called whose derivative by these inputs is to be written."""
    before = _inputs.values
    _inputs.values = [*before, *inputs]
    try:
        yield
    finally:
        _inputs.values = before


def _may_vary(x: Value) -> bool:
    # A gradient can flow to it; or to an input of a derivative, though it was held constant around that, that it may
    # depend on, having been recorded later.
    if x.requires_grad:
        return True
    return any(v._tape is x._tape and v._slot <= x._slot and not v.requires_grad for v in _inputs.values if v.size)


def no_gradient(name: str, operands: Any, held: Any) -> None:
    """Raise UnsupportedError where a gradient would flow to an operand that has no derivative."""
    for j in held:
        x = operands[j]
        if isinstance(x, np.ndarray) and x.dtype == object:
            x = next((v for v in x.reshape(-1) if isinstance(v, Value)), None)
        if isinstance(x, Value) and not x._is_integer and _may_vary(x):
            raise UnsupportedError(
                f"scipy.special.{name} has no derivative by its operand {j} (counted from 0) here, and a gradient "
                "would flow to it: hold it constant by tapegrad.stop_gradient(v), give a plain number, or wrap the "
                "call in tapegrad.external(f, vjp) with a rule of your own"
            )


def _holding(ufunc: np.ufunc, row: Any) -> Callable[..., Value]:
    def call(*operands: Any, **kwargs: Any) -> Value:
        _only_call(ufunc.__name__, kwargs)
        no_gradient(ufunc.__name__, operands, row.held)
        return apply(row, operands)

    return call


def _several(ufunc: np.ufunc, rows: Any) -> Callable[..., tuple[Value, ...]]:
    def call(*operands: Any, **kwargs: Any) -> tuple[Value, ...]:
        _only_call(ufunc.__name__, kwargs)
        return tuple(apply(row, operands) for row in rows)

    return call


def _refusing(ufunc: np.ufunc) -> Callable[..., Any]:
    name = ufunc.__name__
    reason = _REASONS.get(name, "no formula for its derivative is known here")

    def call(*operands: Any, **kwargs: Any) -> Any:
        raise UnsupportedError(f"scipy.special.{name} is not supported on a Value: {reason}; {_ADVICE}")

    call.__refused__ = reason  # type: ignore[attr-defined]
    return call
