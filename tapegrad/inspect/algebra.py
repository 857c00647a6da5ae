"""An instruction in algebra: an operation's formula with the names of its operands written in.

The formula in an operation's row is the only source, so operations declared by a user read like the built-in
ones. Formulas are written for people: `z = x y` is a product, and what follows a comma may only explain a word of
the formula. A formula that is prose, or that does not name all the operands, gives way to `name(a, b)`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import cache

from tapegrad.ops import Elementwise, Operation

_TOKEN = re.compile(r"\s+|[^\W\d]\w*|\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|.")
_SIGN = re.compile(r"[^\w\s]{1,2}|")
# Between two operands these are words, not factors.
_KEYWORDS = {"if", "else", "and", "or", "not", "where", "for", "to", "from", "of", "in", "is", "mod", "along"}
# Formulas longer than this, or with these words, are sentences: they explain, and would only repeat themselves.
_LONGEST = 36
_PROSE = {"of", "the", "from", "to", "along", "given", "must"}


@cache
def _names(operation: Operation) -> tuple[str, ...]:
    """What the formula calls the operands: the arguments of the value rule, where it was written like that."""
    if isinstance(operation, Elementwise):
        rule = getattr(operation.value, "py_func", operation.value)
        return tuple(inspect.signature(rule).parameters)
    return ("x", "y", "w")[: max(operation.arity, 0)]


@cache
def _right_side(operation: Operation) -> tuple[str, ...] | None:
    """The tokens of the formula right of `z =`, without explanations; None where it is prose."""
    head, equals, tail = operation.formula.partition("=")
    text = (tail if equals and head.strip().isidentifier() else operation.formula).strip()
    first, comma, clause = text.partition(", ")
    outside = first.count("(") == first.count(")") and first.count("[") == first.count("]")
    # `x^c, c constant` explains c; `x if c, else y` goes on.
    if comma and outside and clause.split(" ")[0] in _TOKEN.findall(first):
        text = first
    tokens = tuple(_TOKEN.findall(text))
    if not tokens or len(text) > _LONGEST or _PROSE.intersection(tokens):
        return None
    if not set(_names(operation)) <= set(tokens):
        return None
    return tokens


def _is_word(token: str) -> bool:
    return token[:1].isalpha() or token[:1] == "_"


def _multiplies(tokens: tuple[str, ...], i: int, names: Sequence[str]) -> bool:
    """Whether the blank at i stands for a product: `x y`, `2 x`, `x Phi(x)`, but not `sin x` or `x if c`."""
    if not 0 < i < len(tokens) - 1 or not tokens[i].isspace():
        return False
    left, right = tokens[i - 1], tokens[i + 1]
    if not (left in names or left[0].isdigit() or left in ")]"):
        return False
    called = _is_word(right) and right not in _KEYWORDS and tokens[i + 2 : i + 3] == ("(",)
    return right in names or called


def algebra(operation: Operation, operands: Sequence[str]) -> str:
    """The right side of an operation's formula with operands written in, or `name(a, b)` where it has none to use.

    >>> from tapegrad.ops import BY_NAME
    >>> algebra(BY_NAME["multiply"], ["a", "b"]), algebra(BY_NAME["power_constant"], ["x", "-3"])
    ('a * b', 'x^(-3)')
    >>> algebra(BY_NAME["tanh"], ["v4"]), algebra(BY_NAME["where"], ["v5", "a", "b"])
    ('tanh v4', 'a if v5, else b')
    >>> algebra(BY_NAME["erf"], ["v4"])
    'erf(v4)'
    """
    tokens = _right_side(operation)
    names = _names(operation)
    if tokens is None or not isinstance(operation, Elementwise) or len(names) != len(operands):
        return call(operation.name, operands)
    given = dict(zip(names, operands, strict=True))
    written = []
    for i, token in enumerate(tokens):
        if token in given:
            operand = given[token]
            before, after = "".join(tokens[:i]).rstrip()[-1:], "".join(tokens[i + 1 :]).lstrip()[:1]
            # A negative number stands in brackets, except where commas or brackets set it off already.
            bare = before in ("", "(", "[", ",") and after in ("", ")", "]", ",")
            written.append(f"({operand})" if operand.startswith("-") and not bare else operand)
        elif _multiplies(tokens, i, names):
            written.append(" * ")
        else:
            written.append(token)
    return "".join(written)


def call(name: str, operands: Sequence[str], most: int = 6) -> str:
    """`name(a, b)`; of many operands the middle ones are left out.

    >>> call("concatenate", list("abcdefgh"))
    'concatenate(a, b, c, ..., f, g, h)'
    """
    if len(operands) > most:
        operands = [*operands[: most // 2], "...", *operands[-(most // 2) :]]
    return f"{name}({', '.join(operands)})"


@cache
def symbol(operation: Operation) -> str:
    """What stands in the node of an operation: its `symbol`, or the sign between its formula's operands, or its name.

    >>> from tapegrad.ops import BY_NAME
    >>> [symbol(BY_NAME[name]) for name in ("add", "multiply", "power", "square", "less", "tanh", "matmul")]
    ['+', '*', '^', '^2', '<', 'tanh', '@']
    """
    if operation.symbol:
        return operation.symbol
    tokens = _right_side(operation)
    names = _names(operation)
    if tokens is None or not isinstance(operation, Elementwise):
        return operation.name
    text = "".join(tokens).removeprefix("[").removesuffix("]")
    if operation.arity == 2:
        x, y = names
        if text.startswith(x) and text.endswith(y):
            sign = text.removeprefix(x).removesuffix(y)
            if sign.isspace():
                return "*"
            if sign.strip() and _SIGN.fullmatch(sign.strip()):
                return sign.strip()
    elif operation.arity == 1 and re.fullmatch(re.escape(names[0]) + r"\^\d+", text):
        return text.removeprefix(names[0])
    elif operation.arity == 1 and text == f"-{names[0]}":
        return "-"
    return operation.name
