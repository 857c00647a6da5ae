"""The rules of the operation table, run on registers: what they compute is written as instructions of LLVM.

A rule is Python on numbers. It is read as source (as the sweeps do), and its syntax tree is walked with a register for
each parameter: arithmetic, comparisons, choices, functions of NumPy and of C's library, and whatever else a rule names,
walked likewise.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.compiled.source import function_tree, names_around
from tapegrad.errors import OperationError
from tapegrad.native.writer import MATH, Register, Writer
from tapegrad.ops import Elementwise

_ARITHMETIC: dict[type, str] = {ast.Add: "fadd", ast.Sub: "fsub", ast.Mult: "fmul", ast.Div: "fdiv"}
_ON_NUMBERS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}  # fmt: skip
_RELATIONS: dict[type, str] = {
    ast.Lt: "olt", ast.LtE: "ole", ast.Gt: "ogt", ast.GtE: "oge", ast.Eq: "oeq", ast.NotEq: "une",
}  # fmt: skip
# Python's and `math`'s names for what NumPy calls otherwise.
_NAMES = {
    "absolute": "abs", "fabs": "abs", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2",
    "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "gamma": "tgamma",
}  # fmt: skip
# What is asked of a number by functions.
_ASKS = "isinf", "isfinite", "isnan"
# Whole exponents up to this are products; the result is right to 3 units in the last place.
_PRODUCTS = 6


class NotCompilable(OperationError):
    """A rule has something that is not known how to write; the interpreter computes it."""


def value(writer: Writer, row: Elementwise, operands: list[Any]) -> Register:
    """The result of an operation on registers, or numbers that are known, as plain floats."""
    return _number(writer, _call(writer, row.value, operands))


def can_write(row: Any) -> str | None:
    """None where the value of an operation can be written; else why not."""
    return _reason(row, row.value) if isinstance(row, Elementwise) else "it works on whole arrays"


@functools.cache
def _reason(row: Elementwise, rule: Any) -> str | None:
    trial = Writer(np.dtype(np.float64), 1)
    try:
        value(trial, row, [Register(f"%{i}") for i in range(row.arity)])
    except NotCompilable as error:
        return str(error)
    except (OperationError, RecursionError) as error:
        return f"its rule cannot be read: {error}"
    return None


@functools.cache
def calls(row: Elementwise) -> frozenset[str]:
    """The functions of C's library that the value of an operation calls, if it can be written."""
    trial = Writer(np.dtype(np.float64), 1)
    value(trial, row, [Register(f"%{i}") for i in range(row.arity)])
    return frozenset(trial.declared)


@functools.cache
def _read(function: Any) -> tuple[list[str], list[ast.stmt], dict[str, Any]]:
    """The parameters of a function, its statements, and what it names from around it."""
    tree = function_tree(function)
    names = [a.arg for a in tree.args.args]
    body: list[ast.stmt] = [ast.Return(tree.body)] if isinstance(tree, ast.Lambda) else list(tree.body)
    return names, body, names_around(function)


def _call(writer: Writer, function: Any, arguments: list[Any]) -> Any:
    if isinstance(function, Elementwise):
        return _call(writer, function.value, arguments)
    foreign = getattr(function, "__foreign__", None)
    if foreign is not None:
        return writer.foreign(foreign, *[_number(writer, x) for x in arguments])
    function = getattr(function, "py_func", function)
    names, body, around = _read(function)
    if len(names) != len(arguments):
        raise NotCompilable(f"{function.__qualname__} is called with {len(arguments)} arguments")
    return _Walk(writer, dict(zip(names, arguments, strict=True)), around).run(body)


class _Walk:
    """One call of a rule. What it computes of numbers that are known is known."""

    def __init__(self, writer: Writer, local: dict[str, Any], around: dict[str, Any]) -> None:
        self.writer, self.local, self.around = writer, local, around

    def run(self, body: list[ast.stmt]) -> Any:
        for statement in body:
            match statement:
                case ast.Expr(ast.Constant()):
                    pass
                case ast.Assign([ast.Name(name)], expression):
                    self.local[name] = self.of(expression)
                case ast.Return(expression) if expression is not None:
                    return self.of(expression)
                case _:
                    raise NotCompilable(f"a rule with a statement `{ast.unparse(statement).splitlines()[0]}`")
        raise NotCompilable("a rule that returns nothing")

    def of(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(x) if isinstance(x, bool | int | float):
                return float(x)
            case ast.Name(name):
                return self.named(name)
            case ast.Attribute(ast.Name("np" | "math"), name):
                return self.attribute(name)
            case ast.UnaryOp(op, operand):
                return self.unary(op, self.of(operand))
            case ast.BinOp(left, op, right):
                return self.binary(op, self.of(left), self.of(right))
            case ast.Compare(left, relations, others):
                return self.compared(relations, [self.of(x) for x in (left, *others)])
            case ast.BoolOp(op, values):
                return self.joined(op, [self.of(x) for x in values])
            case ast.IfExp(test, body, other):
                return self.chosen(self.of(test), body, other, _usual(test))
            case ast.Call(function, arguments, []):
                return self.called(function, [self.of(x) for x in arguments])
        raise NotCompilable(f"a rule with `{ast.unparse(node)}`")

    def named(self, name: str) -> Any:
        if name in self.local:
            return self.local[name]
        found = self.around.get(name)
        if isinstance(found, bool | int | float | np.number):
            return float(found)
        raise NotCompilable(f"a rule that names {name!r}")

    def attribute(self, name: str) -> float:
        found = getattr(np, name, getattr(math, name, None))
        if isinstance(found, float):
            return found
        raise NotCompilable(f"a rule that names {name!r}")

    def unary(self, op: ast.unaryop, x: Any) -> Any:
        if isinstance(op, ast.Not):
            return not x if isinstance(x, float | bool) else self.writer.negated(self.writer.truth(x))
        if isinstance(x, float | bool):
            return -x if isinstance(op, ast.USub) else x
        x = self.writer.number(x)
        return self.writer.negative(x) if isinstance(op, ast.USub) else x

    def binary(self, op: ast.operator, x: Any, y: Any) -> Any:
        if isinstance(op, ast.BitAnd | ast.BitOr) and (isinstance(x, bool) or isinstance(y, bool)):
            return self.joined(ast.And() if isinstance(op, ast.BitAnd) else ast.Or(), [x, y])
        if not isinstance(x, Register) and not isinstance(y, Register):
            try:
                return float(_ON_NUMBERS[type(op)](x, y))
            except (ArithmeticError, KeyError):
                x = self.writer.constant(float(x))
        x, y = (_plain(self.writer, z) for z in (x, y))
        if isinstance(op, ast.Pow):
            return self.power(x, y)
        if isinstance(op, ast.BitAnd | ast.BitOr) and isinstance(x, Register) and isinstance(y, Register):
            return self.joined(ast.And() if isinstance(op, ast.BitAnd) else ast.Or(), [x, y])
        if type(op) not in _ARITHMETIC:
            raise NotCompilable(f"a rule with {type(op).__name__}")
        return self.writer.binary(_ARITHMETIC[type(op)], _number(self.writer, x), _number(self.writer, y))

    def power(self, x: Any, y: Any) -> Any:
        writer = self.writer
        if isinstance(y, Register) or y != math.floor(y) or abs(y) > _PRODUCTS:
            # libmvec's power is not exact where whole exponents should be, so it serves only where they cannot occur.
            exact = isinstance(y, Register) or y == math.floor(y)
            return powers(writer, _number(writer, x), _number(writer, y), exact)
        if y == 0.0:
            return 1.0
        base, factor, left = _number(writer, x), None, int(abs(y))
        while left:
            if left & 1:
                factor = base if factor is None else writer.binary("fmul", factor, base)
            left >>= 1
            base = writer.binary("fmul", base, base) if left else base
        assert factor is not None
        return factor if y > 0.0 else writer.binary("fdiv", writer.constant(1.0), factor)

    def compared(self, relations: list[ast.cmpop], xs: list[Any]) -> Any:
        found: list[Any] = []
        for relation, x, y in zip(relations, xs, xs[1:], strict=False):
            if any(isinstance(z, Register) for z in (x, y)):
                # What is asked of constants is known, too.
                known = [z.known if isinstance(z, Register) else self.writer.rounded(z) for z in (x, y)]
                x, y = (x, y) if None in known else known
            if not isinstance(x, Register) and not isinstance(y, Register):
                of = {"olt": operator.lt, "ole": operator.le, "ogt": operator.gt, "oge": operator.ge,
                      "oeq": operator.eq, "une": operator.ne}[_RELATIONS[type(relation)]]  # fmt: skip
                found.append(bool(of(x, y)))
            elif isinstance(x, Register) and isinstance(y, Register) and x.truth and y.truth:
                differ = self.writer.binary("xor", x, y)
                if not isinstance(relation, ast.Eq | ast.NotEq):
                    raise NotCompilable("a rule that orders truth values")
                found.append(differ if isinstance(relation, ast.NotEq) else self.writer.negated(differ))
            else:
                x, y = _number(self.writer, x), _number(self.writer, y)
                found.append(self.writer.compare(_RELATIONS[type(relation)], x, y))
        return self.joined(ast.And(), found) if len(found) > 1 else found[0]

    def joined(self, op: ast.boolop, xs: list[Any]) -> Any:
        result = xs[0]
        for x in xs[1:]:
            known = [y for y in (result, x) if not isinstance(y, Register)]
            if known:
                other = x if result is known[0] else result
                decides = bool(known[0]) != isinstance(op, ast.And)
                result = known[0] if decides else other
                continue
            truths = [self.writer.truth(y) for y in (result, x)]
            result = self.writer.binary("and" if isinstance(op, ast.And) else "or", *truths)
        return result

    def chosen(self, test: Any, body: ast.expr, other: ast.expr, usual: bool | None) -> Any:
        if not isinstance(test, Register):
            return self.of(body if test else other)
        x, y = (_plain(self.writer, self.of(branch)) for branch in (body, other))
        if isinstance(x, Register) and isinstance(y, Register) and x.truth and y.truth:
            return self.writer.select(self.writer.truth(test), x, y)
        x, y = _number(self.writer, x), _number(self.writer, y)
        return self.writer.select(self.writer.truth(test), x, y, usual)

    def called(self, function: ast.expr, arguments: list[Any]) -> Any:
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            if function.value.id not in ("np", "math") and self.around.get(function.value.id) not in (np, math):
                raise NotCompilable(f"a rule that calls {ast.unparse(function)}")
            return self.of_numpy(function.attr, arguments)
        if not isinstance(function, ast.Name):
            raise NotCompilable(f"a rule that calls {ast.unparse(function)}")
        known: Any = self.around.get(function.id)
        if function.id in ("abs", "min", "max") and (known is None or type(known).__name__ != "function"):
            return self.of_numpy(function.id, arguments)
        if isinstance(known, np.ufunc) or getattr(known, "__module__", "") in ("math", "numpy"):
            return self.of_numpy(known.__name__, arguments)
        if known is None or not (isinstance(known, Elementwise) or hasattr(known, "__code__")
                                 or hasattr(known, "py_func")):
            raise NotCompilable(f"a rule that calls {function.id}")
        return _call(self.writer, known, arguments)

    def of_numpy(self, name: str, arguments: list[Any]) -> Any:
        writer, name = self.writer, _NAMES.get(name, name)
        xs = [_number(writer, x) for x in arguments]
        zero = writer.constant(0.0)
        if name in _ASKS and xs[0].known is not None:
            return bool(getattr(math, name)(xs[0].known))
        if name == "sign":
            (x,) = xs
            one = writer.select(writer.compare("olt", x, zero), writer.constant(-1.0), writer.constant(1.0))
            return writer.select(writer.compare("one", x, zero), one, writer.binary("fadd", x, zero))
        if name in _ASKS[:2]:
            size, infinite = writer.call("abs", xs[0]), writer.constant(math.inf)
            return writer.compare("oeq" if name == "isinf" else "olt", size, infinite)
        if name == "isnan":
            return writer.compare("uno", xs[0], xs[0])
        if name == "where":
            return writer.select(writer.truth(xs[0]), xs[1], xs[2])
        if name in ("remainder", "mod"):
            return self.remainder(*xs)
        if name == "power":
            return self.power(arguments[0], arguments[1])
        if name in MATH:
            known = abs(xs[0].known) if name == "abs" and xs[0].known is not None else None
            return writer.call(name, *xs)._replace(known=known)
        raise NotCompilable(f"a rule that calls {name}")

    def remainder(self, x: Register, y: Register) -> Register:
        # Python's: of the sign of y, where C's has that of x.
        writer, zero = self.writer, self.writer.constant(0.0)
        rest = writer.call("fmod", x, y)
        opposite = writer.binary("xor", writer.compare("olt", rest, zero), writer.compare("olt", y, zero))
        moved = writer.select(opposite, writer.binary("fadd", rest, y), rest)
        return writer.select(writer.compare("oeq", rest, zero), writer.call("copysign", zero, y), moved)


def powers(writer: Writer, x: Register, y: Register, exact: bool) -> Register:
    """x to the power of y; `exact` says that y may be whole, where results are to be exact to the last bit or two."""
    if exact and (x.wide or y.wide):
        return writer.lane_by_lane("pow", x, y)
    return writer.call("pow", x, y)


def _usual(test: ast.expr) -> bool | None:
    """What is usually found when it is asked whether numbers are equal: that they are not. None for other tests."""
    match test:
        case ast.Compare(_, [ast.NotEq()], _):
            return True
        case ast.Compare(_, [ast.Eq()], _):
            return False
        case ast.BoolOp(ast.And(), tests):
            found = [_usual(x) for x in tests]
            return False if False in found else None if None in found else True
    return None


def _plain(writer: Writer, x: Any) -> Any:
    return writer.number(x) if isinstance(x, Register) and x.truth else x


def _number(writer: Writer, x: Any) -> Register:
    return writer.number(x) if isinstance(x, Register) else writer.constant(float(x))
