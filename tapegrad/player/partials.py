"""The partial derivatives of an operation in algebra, read from the rule that the sweeps are made from."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tapegrad.compiled.source import function_tree
from tapegrad.errors import OperationError
from tapegrad.ops import Elementwise

# Formulas longer than this explain nothing at a glance.
_LONGEST = 60
_SUM, _PRODUCT, _SIGN, _POWER, _ATOM = range(5)
_SIGNS = {
    ast.Add: (" + ", _SUM), ast.Sub: (" - ", _SUM), ast.Mult: (" · ", _PRODUCT), ast.Div: (" / ", _PRODUCT),
    ast.Mod: (" mod ", _PRODUCT), ast.Pow: ("^", _POWER),
}  # fmt: skip
_COMPARED = {ast.Lt: "<", ast.LtE: "≤", ast.Gt: ">", ast.GtE: "≥", ast.Eq: "=", ast.NotEq: "≠"}


class Rule(NamedTuple):
    """A partial derivative: with names for operands, and whether it binds less than a factor of a product does."""

    text: str
    loose: bool


class _UnreadableError(Exception):
    """A rule that is no formula."""


@cache
def _expressions(rule: Callable[..., object]) -> tuple[tuple[str, ...], tuple[ast.expr, ...]]:
    """The parameters of a rule, and the expressions that it returns; without any where it is more than a formula."""
    rule = getattr(rule, "py_func", rule)
    try:
        tree = function_tree(rule)
    except (OperationError, OSError, SyntaxError, TypeError, StopIteration):
        return (), ()
    names = tuple(a.arg for a in tree.args.args)
    if isinstance(tree, ast.Lambda):
        body: ast.expr | None = tree.body
    else:
        last = tree.body[-1]
        plain = len(tree.body) == 1 or (len(tree.body) == 2 and ast.get_docstring(tree) is not None)
        body = last.value if plain and isinstance(last, ast.Return) else None
    if body is None:
        return names, ()
    return names, tuple(body.elts) if isinstance(body, ast.Tuple) else (body,)


def partials(
    operation: Elementwise, operands: Sequence[str], result: str, numbers: Sequence[float] = ()
) -> list[Rule | None]:
    """For each operand the formula of dz/d(operand), with names or numbers for operands and result written in; None
    where the rule is no short formula. Where `numbers`, those of operands and result, are given, only the case of a
    rule that holds for them is written.

    >>> from tapegrad.ops import BY_NAME
    >>> [rule.text for rule in partials(BY_NAME["divide"], ["a", "b"], "c")]
    ['1 / b', '-c / b']
    >>> partials(BY_NAME["tanh"], ["x"], "y")
    [Rule(text='1 - y · y', loose=True)]
    >>> partials(BY_NAME["sin"], ["-3"], "-0.14")[0].text
    'cos(-3)'
    >>> partials(BY_NAME["power_constant"], ["x", "3"], "y", [2.0, 3.0, 8.0])[0].text
    '3 · x^(3 - 1)'
    """
    names, found = _expressions(operation.partials)
    if len(found) != operation.arity or len(names) != operation.arity + 1:
        return [None] * operation.arity
    rule: Any = getattr(operation.partials, "py_func", operation.partials)
    known = {name: x for name, x in rule.__globals__.items() if isinstance(x, float)}
    names_of = {name: f"{x:.4g}" for name, x in known.items()} | dict(zip(names, [*operands, result], strict=True))
    return [_rule(expression, Given(names_of, dict(zip(names, numbers, strict=bool(numbers))))) for expression in found]


class Given(NamedTuple):
    """What is written for names, and the numbers that they stand for where these are known."""

    texts: Mapping[str, str]
    numbers: Mapping[str, float]


def _rule(expression: ast.expr, given: Given) -> Rule | None:
    try:
        text, binding = _written(expression, given)
    except _UnreadableError:
        return None
    return Rule(text, binding < _POWER) if len(text) <= _LONGEST else None


def _written(node: ast.expr, given: Given) -> tuple[str, int]:
    """An expression, and how strongly it holds together."""
    match node:
        case ast.Constant(value=bool() | str() | None):
            raise _UnreadableError
        case ast.Constant(value=int() | float() as value):
            return f"{value:g}", _ATOM
        case ast.Name(id=name):
            text = given.texts.get(name, name)
            return text, _SUM if text.startswith("-") else _ATOM
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return "-" + _within(operand, given, _SIGN + 1), _SIGN
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SIGNS:
            sign, binding = _SIGNS[type(op)]
            # `1.0 * (x > y)` makes a number of a truth value, which needs no word.
            if isinstance(op, ast.Mult) and isinstance(left, ast.Constant) and left.value == 1.0:
                return _written(right, given)
            after = binding + (1 if isinstance(op, ast.Sub | ast.Div | ast.Mod) else 0)
            before = binding + (1 if isinstance(op, ast.Pow) else 0)
            return _within(left, given, before) + sign + _within(right, given, after), binding
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARED:
            return f"[{_written(left, given)[0]} {_COMPARED[type(op)]} {_written(right, given)[0]}]", _ATOM
        case ast.Call(func=ast.Name(id="where"), args=[condition, first, second]) if given.numbers:
            return _written(first if _holds(condition, given) else second, given)
        case ast.Call(func=ast.Attribute(value=ast.Name(id="np"), attr=name), args=args, keywords=[]):
            return f"{name}({', '.join(_written(x, given)[0] for x in args)})", _ATOM
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return f"{name}({', '.join(_written(x, given)[0] for x in args)})", _ATOM
    raise _UnreadableError


def _within(node: ast.expr, given: Given, least: int) -> str:
    text, binding = _written(node, given)
    return text if binding >= least else f"({text})"


def _holds(condition: ast.expr, given: Given) -> bool:
    # The condition is a part of the operation's own rule, which the sweeps evaluate as well.
    code = compile(ast.Expression(condition), "<rule>", "eval")
    with np.errstate(all="ignore"):
        try:
            return bool(eval(code, {"__builtins__": {}, "abs": abs, "np": np}, dict(given.numbers)))
        except NameError:
            raise _UnreadableError from None
