"""The operations of a rule for partial derivatives, found by running it once on symbols that note every operation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import OperationError
from tapegrad.ops import BY_NAME, BY_UFUNC, Elementwise
from tapegrad.ops.rules import partials_on

# How a step refers to its operands: 0, 1 and 2 are the operands of the operation, RESULT is its result, STEPS + n is
# the result of step n of the template, and -1 - k is constant number k.
RESULT, STEPS = 3, 4
_NUMBERS = (int, float, np.integer, np.floating, np.bool_)


class Step(NamedTuple):
    """One operation of a template, and references to its operands."""

    opcode: int
    operands: tuple[int, ...]


class Template(NamedTuple):
    """The partial derivatives of an elementwise operation: the steps that compute them, the constants that these use,
    and for each operand a reference to the derivative by it."""

    steps: list[Step]
    constants: list[float]
    partials: list[int]


class Untraceable(Exception):
    """A rule does something that Values can do and symbols cannot."""


class _Trace:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.constants: list[float] = []

    def reference(self, x: Any) -> int:
        if isinstance(x, Symbol):
            return x.reference
        if not isinstance(x, _NUMBERS) and not (isinstance(x, np.ndarray) and not x.shape and x.dtype.kind in "fiub"):
            raise Untraceable
        number = float(x)
        # Zero has two signs that compare equal, and NaN is not equal to itself.
        for k, known in enumerate(self.constants):
            if np.array(known).tobytes() == np.array(number).tobytes():
                return -1 - k
        self.constants.append(number)
        return -len(self.constants)

    def apply(self, operation: Elementwise, args: tuple[Any, ...]) -> Symbol:
        if len(args) != operation.arity:
            raise OperationError(f"{operation.name} takes {operation.arity} operands, {len(args)} were given")
        self.steps.append(Step(operation.opcode, tuple(self.reference(x) for x in args)))
        return Symbol(self, STEPS + len(self.steps) - 1)


def _operator(name: str, reflected: bool = False) -> Callable[..., Any]:
    def method(self: Symbol, *others: Any) -> Any:
        if any(isinstance(x, np.ndarray) and x.shape for x in others):
            raise Untraceable
        args = (*others, self) if reflected else (self, *others)
        return self._trace.apply(BY_NAME[name], args)

    return method


class Symbol:
    """Stands for an operand or result when a rule is run, and notes the operations that it is used in."""

    __slots__ = ("_trace", "reference")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, trace: _Trace, reference: int) -> None:
        self._trace, self.reference = trace, reference

    __add__, __radd__ = _operator("add"), _operator("add", True)
    __sub__, __rsub__ = _operator("subtract"), _operator("subtract", True)
    __mul__, __rmul__ = _operator("multiply"), _operator("multiply", True)
    __truediv__, __rtruediv__ = _operator("divide"), _operator("divide", True)
    __mod__, __rmod__ = _operator("remainder"), _operator("remainder", True)
    __neg__, __abs__ = _operator("negative"), _operator("absolute")
    __lt__, __le__ = _operator("less"), _operator("less_equal")
    __gt__, __ge__ = _operator("greater"), _operator("greater_equal")
    __eq__, __ne__ = _operator("equal"), _operator("not_equal")
    __and__, __rand__ = _operator("logical_and"), _operator("logical_and", True)
    __or__, __ror__ = _operator("logical_or"), _operator("logical_or", True)
    __xor__, __rxor__ = _operator("logical_xor"), _operator("logical_xor", True)
    __rpow__ = _operator("power", True)

    def __pos__(self) -> Symbol:
        return self

    def __pow__(self, exponent: Any) -> Any:
        if isinstance(exponent, Symbol):
            return self._trace.apply(BY_NAME["power"], (self, exponent))
        if exponent == 1:
            return self
        special = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}.get(exponent)
        if special:
            return self._trace.apply(BY_NAME[special], (self,))
        return self._trace.apply(BY_NAME["power_constant"], (self, exponent))

    def __floordiv__(self, other: Any) -> Any:
        return self._trace.apply(BY_NAME["floor"], (self / other,))

    def __rfloordiv__(self, other: Any) -> Any:
        return self._trace.apply(BY_NAME["floor"], (other / self,))

    def __invert__(self) -> Any:
        return self == 0.0

    # Operations called by name, and NumPy's functions

    @classmethod
    def _apply_operation(cls, operation: Any, args: tuple[Any, ...]) -> Any:
        trace = next(x._trace for x in args if isinstance(x, Symbol))
        return trace.apply(operation, args)

    @classmethod
    def _apply_structured(cls, operation: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        raise Untraceable

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        row = BY_UFUNC.get(ufunc)
        if method != "__call__" or kwargs or any(isinstance(x, np.ndarray) and x.shape for x in inputs):
            raise Untraceable
        if row is None:
            raise Untraceable
        return self._trace.apply(row, inputs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func is np.where and len(args) == 3 and not kwargs:
            return self._trace.apply(BY_NAME["where"], args)
        raise Untraceable

    def __getattr__(self, name: str) -> Any:
        row = BY_NAME.get(name)
        if isinstance(row, Elementwise):
            return lambda *args: self._trace.apply(row, (self, *args))
        raise Untraceable

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise Untraceable


@functools.cache
def traced(row: Elementwise) -> Template | None:
    """The template of an operation's partial derivatives; None where the rule must be run on Values.

    Raises OperationError for a rule that cannot be run on Values at all; see `ops.rules`.
    """
    trace = _Trace()
    operands = [Symbol(trace, j) for j in range(row.arity)]
    try:
        found = partials_on(row, *operands, Symbol(trace, RESULT))
        partials = [trace.reference(x) for x in found]
    except Untraceable:
        return None
    return Template(trace.steps, trace.constants, partials)
