"""How an operation is declared, and the table that all declarations form.

A row states an operation once: its name, its formula, its value rule, its local partial derivatives, the NumPy
ufunc it answers to, and the domain its samples come from. Opcodes, the switch of every sweep, NumPy dispatch, the
listing, the documentation and the tests derive from the row.

A rule is plain Python on numbers. It is read as source and compiled into the sweeps, and it can be called with
Values to write a derivative as another tape. That is why rules call `np.cos(x)` or another operation, never
`math.cos(x)`: NumPy functions and operations work on numbers and on Values alike.

Conventions at kinks and ties are stated in the rows. A zero adjoint is never multiplied by a partial derivative, so
an infinite partial of a branch that was not taken cannot leak as NaN.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import OperationError

# An instruction whose opcode has this bit set works on many elements: its operands, counts and strides are in the
# side array. Below it, an instruction is one scalar operation and all it needs are three slots.
RUN = 1 << 16


class Interval(NamedTuple):
    """The open interval that samples of an operand are drawn from."""

    low: float
    high: float


REALS = Interval(-3.0, 3.0)
POSITIVE = Interval(0.1, 4.0)
UNIT = Interval(-0.95, 0.95)
ABOVE_ONE = Interval(1.1, 4.0)
ABOVE_MINUS_ONE = Interval(-0.9, 3.0)


@dataclass(frozen=True, eq=False)
class Operation:
    """One row of the table.

    Calling an operation with Values records it; with plain numbers or arrays it computes.
    """

    name: str
    opcode: int
    arity: int
    formula: str
    ufunc: np.ufunc | None = None
    convention: str = ""
    doc: str = field(default="", repr=False)

    def __call__(self, *args: Any) -> Any:
        for arg in args:
            apply = getattr(type(arg), "_apply_operation", None)
            if apply is not None:
                return apply(self, args)
        return self.compute(*args)

    def compute(self, *args: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Elementwise(Operation):
    """z = f(x, y, ...), one element at a time. A scalar instruction, or a run with strides."""

    value: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    partials: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    samples: tuple[Interval, ...] = ()
    inline: bool = False
    selects: bool = False
    kink: Callable[..., Any] | None = field(default=None, repr=False)

    def __call__(self, *args: Any) -> Any:
        if len(args) != self.arity:
            raise OperationError(f"{self.name} takes {self.arity} arguments, {len(args)} were given")
        return super().__call__(*args)

    def __rules__(self) -> tuple[Callable[..., Any], ...]:
        return self.value, self.partials

    def compute(self, *args: Any) -> Any:
        """The value on plain numbers or arrays."""
        if self.ufunc is not None:
            return self.ufunc(*args)
        with np.errstate(all="ignore"):
            result = np.frompyfunc(self.value, self.arity, 1)(*args)
        return np.asarray(result, np.result_type(float, *args))[()]


@dataclass(frozen=True, eq=False)
class Structured(Operation):
    """An operation over whole arrays, with kernels of its own.

    Each kernel reads the instruction's record in the side array at position k. `forward(side, k, v)` returns True
    when its operands are in order (labels and indices within range), `reverse(side, k, v, g)` accumulates into the
    adjoints of its operands, `tangent(side, k, v, t)` writes the tangent of its output. Where it pays to leave out
    operands that no gradient must reach, these two take the flags too, `reverse(side, k, flags, v, g)`: operand j is
    wanted where flags[wants_flag(k, j)] is not 0.

    The other rules are ordinary Python, called when a derivative is written as instructions or a pattern is asked for.
    `views(p)`, p being the record's parameters, says how it sees its operands: ((shape, strides), ...) and the shape of
    its output. `pullback(p, z, gz, *operands)` gives for each operand the adjoint that reaches it, or None;
    `pushforward(p, z, operands, tangents)` the tangent of the output, tangents being None where they are zero; both in
    terms of other operations. `depends` names the axes, as in `np.einsum`: an output element depends on the operand
    elements that agree with it in the axes they share; or is a function (p, *numbers) that returns, for each operand,
    the positions (of outputs, of operand elements) that depend on each other. `params(*shapes, **options)` makes the
    parameters when the operation is called with dense operands.
    """

    forward: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    reverse: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    tangent: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    views: Callable[..., Any] | None = field(default=None, repr=False)
    pullback: Callable[..., Any] | None = field(default=None, repr=False)
    pushforward: Callable[..., Any] | None = field(default=None, repr=False)
    depends: str | Callable[..., Any] | None = field(default=None, repr=False)
    params: Callable[..., Any] | None = field(default=None, repr=False)
    kink: Callable[..., Any] | None = field(default=None, repr=False)
    passive: bool = False

    def __call__(self, *args: Any, **options: Any) -> Any:
        for arg in args:
            apply = getattr(type(arg), "_apply_structured", None)
            if apply is not None:
                return apply(self, args, options)
        raise OperationError(f"{self.name} works on Values: none of its operands is one")


TABLE: list[Operation] = []
BY_NAME: dict[str, Any] = {}
BY_UFUNC: dict[np.ufunc, Any] = {}


def _add(operation: Operation) -> Any:
    if not operation.name.isidentifier():
        raise OperationError(f"an operation's name must be an identifier, not {operation.name!r}")
    if operation.name in BY_NAME:
        raise OperationError(f"there is already an operation named {operation.name!r}")
    if operation.ufunc is not None and operation.ufunc in BY_UFUNC:
        raise OperationError(f"{operation.ufunc} already stands for {BY_UFUNC[operation.ufunc].name!r}")
    TABLE.append(operation)
    BY_NAME[operation.name] = operation
    if operation.ufunc is not None:
        BY_UFUNC[operation.ufunc] = operation
    return operation


def _check_rule(name: str, what: str, rule: Callable[..., Any], *counts: int) -> None:
    rule = getattr(rule, "py_func", rule)
    if not callable(rule):
        raise OperationError(f"{name}: the {what} rule must be a function, not {type(rule).__name__}")
    found = len(inspect.signature(rule).parameters)
    if found not in counts:
        wanted = " or ".join(map(str, counts))
        raise OperationError(f"{name}: the {what} rule must take {wanted} arguments, it takes {found}")


def _elementwise(
    arity: int,
    name: str,
    formula: str,
    value: Callable[..., Any],
    partials: Callable[..., Any],
    samples: tuple[Interval, ...] | Interval | None,
    ufunc: np.ufunc | None,
    convention: str,
    inline: bool,
    selects: bool,
    kink: Callable[..., Any] | None,
) -> Elementwise:
    _check_rule(name, "value", value, arity)
    _check_rule(name, "partials", partials, arity + 1)
    if samples is None or isinstance(samples, Interval):
        samples = (samples or REALS,) * arity
    row = Elementwise(
        name=name,
        opcode=len(TABLE),
        arity=arity,
        formula=formula,
        ufunc=ufunc,
        convention=convention,
        value=value,
        partials=partials,
        samples=samples,
        inline=inline,
        selects=selects,
        kink=kink,
    )
    return _add(row)


def unary(
    name: str,
    formula: str,
    *,
    value: Callable[[Any], Any],
    partials: Callable[[Any, Any], Any],
    samples: Interval | None = None,
    ufunc: np.ufunc | None = None,
    convention: str = "",
    inline: bool = False,
    selects: bool = False,
    kink: Callable[..., Any] | None = None,
) -> Elementwise:
    """Declare an operation z = f(x).

    `value(x)` is its value and `partials(x, z)` its derivative dz/dx, where z is the value already computed.
    Both are read as source: write them as lambdas or functions in a file, of arithmetic, `np` functions and other
    operations. `samples` is the interval of sensible inputs, from which tests draw. `inline` gives the scalar form a
    branch of its own in the sweeps: some nanoseconds faster, paid for by everybody's first compilation. `selects` says
    that a partial of 0 means an operand that was not chosen: not even an infinite adjoint reaches it. `kink(x)` is a
    distance, zero where the operation jumps or has no derivative; certificates report it.

    Raises OperationError for a taken name or a rule with the wrong number of arguments.

    >>> import tapegrad as tg
    >>> from tapegrad.ops import BY_NAME
    >>> BY_NAME["tanh"].formula
    'z = tanh x'
    """
    return _elementwise(1, name, formula, value, partials, samples, ufunc, convention, inline, selects, kink)


def binary(
    name: str,
    formula: str,
    *,
    value: Callable[[Any, Any], Any],
    partials: Callable[[Any, Any, Any], Any],
    samples: tuple[Interval, Interval] | Interval | None = None,
    ufunc: np.ufunc | None = None,
    convention: str = "",
    inline: bool = False,
    selects: bool = False,
    kink: Callable[..., Any] | None = None,
) -> Elementwise:
    """Declare an operation z = f(x, y): `value(x, y)`, and `partials(x, y, z)` returning (dz/dx, dz/dy).

    See `unary`.
    """
    return _elementwise(2, name, formula, value, partials, samples, ufunc, convention, inline, selects, kink)


def ternary(
    name: str,
    formula: str,
    *,
    value: Callable[[Any, Any, Any], Any],
    partials: Callable[[Any, Any, Any, Any], Any],
    samples: tuple[Interval, Interval, Interval] | Interval | None = None,
    ufunc: np.ufunc | None = None,
    convention: str = "",
    inline: bool = False,
    selects: bool = False,
    kink: Callable[..., Any] | None = None,
) -> Elementwise:
    """Declare an operation z = f(x, y, w): `value(x, y, w)`, and `partials(x, y, w, z)` returning three partials.

    See `unary`.
    """
    return _elementwise(3, name, formula, value, partials, samples, ufunc, convention, inline, selects, kink)


def structured(
    name: str,
    formula: str,
    *,
    arity: int,
    forward: Callable[..., Any],
    reverse: Callable[..., Any],
    tangent: Callable[..., Any],
    convention: str = "",
    passive: bool = False,
    **rules: Any,
) -> Structured:
    """Declare an operation over whole arrays: its three kernels, and the rules that `Structured` describes.

    Without `views`, `pullback` and `pushforward` it has first derivatives only. A `passive` one lets no gradient
    through.

    Raises OperationError for a taken name, an unknown rule, or a kernel with the wrong number of arguments.
    """
    _check_rule(name, "forward", forward, 3)
    _check_rule(name, "reverse", reverse, 4, 5)
    _check_rule(name, "tangent", tangent, 4, 5)
    unknown = rules.keys() - {"views", "pullback", "pushforward", "depends", "params", "kink"}
    if unknown:
        raise OperationError(f"{name}: there is no rule named {', '.join(sorted(unknown))}")
    row = Structured(
        name=name,
        opcode=len(TABLE),
        arity=arity,
        formula=formula,
        convention=convention,
        forward=forward,
        reverse=reverse,
        tangent=tangent,
        passive=passive,
        **rules,
    )
    return _add(row)


def _is_passive(row: Operation) -> bool:
    # A rule that returns plain zeros whatever it is given lets no gradient through.
    if isinstance(row, Structured):
        return row.passive
    if not isinstance(row, Elementwise):
        return False
    try:
        partials = getattr(row.partials, "py_func", row.partials)(*[None] * (row.arity + 1))
    except Exception:
        return False
    return all(type(p) is float and p == 0.0 for p in (partials if isinstance(partials, tuple) else (partials,)))


_passive = np.zeros(0, np.uint8)


def passive_rows() -> np.ndarray:
    """For each opcode, 1 if the operation lets no gradient through."""
    global _passive
    if len(_passive) < len(TABLE):
        _passive = np.array([_is_passive(row) for row in TABLE], np.uint8)
    return _passive


# float32 tapes hold arrays rather than scalar code: there only these have branches, and half the compiling is saved.
_IN_FLOAT32 = ("add", "subtract", "multiply", "divide", "negative", "square")


def is_inlined(row: Operation, dtype: np.dtype) -> bool:
    """Whether an operation's scalar form has a branch of its own in the sweeps of a dtype."""
    return getattr(row, "inline", False) and (dtype == np.float64 or row.name in _IN_FLOAT32)


_branched: dict[np.dtype, np.ndarray] = {}


def has_kernel(opcodes: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Which instructions are carried out by a kernel: runs, and scalar operations without a branch in the sweeps."""
    branched = _branched.get(dtype)
    if branched is None or len(branched) < len(TABLE):
        rows = [is_inlined(row, dtype) or type(row) is Operation for row in TABLE]
        branched = _branched[dtype] = np.array(rows, bool)
    return (opcodes >= RUN) | ~branched[opcodes % RUN]
