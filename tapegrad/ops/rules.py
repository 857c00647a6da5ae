"""Running rules as ordinary Python, which derivatives do on Values; and the check that a partials rule allows this.

In a sweep a rule is compiled, and any Python on numbers will do. A second derivative runs the partials rule on Values
instead, to write it down as instructions. There `if x > 0.0` would ask for the truth of a number that varies, and
`math.exp(x)` for the number itself. So each partials rule is tried on stand-ins that allow what a Value allows.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

from tapegrad.errors import OperationError, UnsupportedError

_BRANCHES = (
    "branches on its operand: write where(c, x, y), from tapegrad.ops.selection, in place of `if`, `and`, `or`; and "
    "np.maximum and np.minimum in place of max and min"
)
_TAKES_NUMBERS = (
    "takes its operand for a plain number, as math.exp(x) and float(x) do: write the NumPy function, np.exp(x), or "
    "another operation by its name"
)


class _MisuseError(Exception):
    """What a rule does wrong with its operand, in words that follow the rule's name."""


class _StandIn:
    """Stands for an operand or a result. Any arithmetic gives a stand-in again; asking for its truth or its number
    raises."""

    __slots__ = ()

    def _again(self, *_: Any, **__: Any) -> Any:
        return self

    def _branch(self) -> Any:
        raise _MisuseError(_BRANCHES)

    def _number(self, *_: Any, **__: Any) -> Any:
        raise _MisuseError(_TAKES_NUMBERS)

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _again
    __pow__ = __rpow__ = __mod__ = __rmod__ = __floordiv__ = __rfloordiv__ = _again
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _again
    __neg__ = __pos__ = __abs__ = _again
    __lt__ = __le__ = __gt__ = __ge__ = _again
    __eq__ = __ne__ = _again
    # NumPy's functions, and operations called by name.
    __array_ufunc__ = __array_function__ = _again
    __bool__ = _branch
    __float__ = __int__ = __index__ = __complex__ = __trunc__ = __floor__ = __ceil__ = __round__ = __array__ = _number

    @staticmethod
    def _apply_operation(operation: Any, args: Any) -> Any:
        return _STAND_IN


_STAND_IN = _StandIn()


@functools.cache
def parameters_read(rule: Callable[..., Any]) -> frozenset[str]:
    """The parameters that a rule or a kernel reads, or may read."""
    rule = getattr(rule, "py_func", rule)
    read: set[Any] = set()
    for one in dis.get_instructions(rule.__code__):
        read.update(one.argval if isinstance(one.argval, tuple) else [one.argval])
    return frozenset(name for name in inspect.signature(rule).parameters if name in read)


@functools.cache
def plain(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule as a Python function, in which names of njit functions stand for Python functions too: this is what is run
    on Values."""
    rule = getattr(rule, "py_func", rule)
    names = {name: g for name, g in rule.__globals__.items() if name in rule.__code__.co_names and _is_compiled(g)}
    cells = tuple(rule.__closure__ or ())
    if not names and not any(_is_compiled(_contents(c)) for c in cells):
        return rule
    scope = {**rule.__globals__, **{name: plain(g) for name, g in names.items()}}
    closure = tuple(types.CellType(plain(_contents(c))) if _is_compiled(_contents(c)) else c for c in cells)
    return types.FunctionType(rule.__code__, scope, rule.__name__, rule.__defaults__, closure or None)


def _is_compiled(x: Any) -> bool:
    return callable(x) and isinstance(getattr(x, "py_func", None), types.FunctionType)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        raise NameError("a name of an enclosing function is not bound yet") from None


def where_written(rule: Callable[..., Any]) -> str:
    """The file and line of a rule."""
    code = getattr(rule, "py_func", rule).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def tried(name: str, rule: Callable[..., Any], arity: int) -> tuple[Any, ...]:
    """What the partials rule of an operation returns when it is tried on stand-ins: numbers where it returns numbers.

    Raises OperationError where it does something to its operands that Values do not allow, or does not return one
    number an operand; NameError where it names what is not defined yet.
    """
    subject = f"the partials rule of {name} ({where_written(rule)})"
    try:
        result = plain(rule)(*[_STAND_IN] * (arity + 1))
    except _MisuseError as error:
        raise OperationError(f"{subject} {error}{_helper(error, rule)}") from None
    except NameError:
        raise
    except Exception as error:
        raise OperationError(f"{subject} cannot be run on Values: {type(error).__name__}: {error}") from error
    found = result if isinstance(result, tuple) else (result,)
    if len(found) != arity:
        raise OperationError(
            f"{subject} returns {len(found)} result{'s' if len(found) != 1 else ''} for {arity} operand"
            f"{'s' if arity != 1 else ''}: return one partial derivative for each, as a tuple where there are several"
        )
    for p in found:
        if not isinstance(p, _StandIn) and not hasattr(type(p), "__float__"):
            raise OperationError(f"{subject} returns {type(p).__name__}, not a number")
    return found


def _helper(error: BaseException, rule: Callable[..., Any]) -> str:
    """Where the error was in another function that the rule calls: words that name that function; else ""."""
    trace, at = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            at = trace
        trace = trace.tb_next
    code = getattr(rule, "py_func", rule).__code__
    if at is None or at.tb_frame.f_code is code:
        return ""
    inner = at.tb_frame.f_code
    return f" (it does so in {inner.co_name}, {inner.co_filename}:{at.tb_lineno})"


@functools.cache
def checked_partials(row: Any) -> tuple[Any, ...]:
    """`tried` of an elementwise operation, remembered."""
    return tried(row.name, row.partials, row.arity)


def partials_on(row: Any, *numbers: Any) -> tuple[Any, ...]:
    """The partial derivatives of an elementwise operation by its rule, run on Values: operands first, then the result.

    This is called to write derivatives as instructions. Raises OperationError, which names the rule and its file and
    line, if the rule cannot be run on Values.
    """
    checked_partials(row)
    try:
        result = plain(row.partials)(*numbers)
    except (AttributeError, NameError, TypeError, UnsupportedError) as error:
        raise OperationError(
            f"the partials rule of {row.name} ({where_written(row.partials)}) cannot be run on Values: {error}"
        ) from error
    return result if isinstance(result, tuple) else (result,)


def passes(row: Any) -> tuple[bool, ...]:
    """For each operand of an elementwise operation, whether its partial derivative is anything but the number 0."""
    try:
        found = checked_partials(row)
    except (NameError, OperationError):
        # A rule that cannot be tried on stand-ins. The error is raised when a derivative by it is written.
        return (True,) * row.arity
    return tuple(isinstance(p, _StandIn) or p != 0.0 for p in found)
