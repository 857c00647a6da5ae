"""Contractions: `np.einsum` and `np.tensordot`, in pairs, each by views, one matrix product and a sum.

`opt_einsum` reads the subscripts and plans which pairs to take.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import opt_einsum
from opt_einsum import parser

from tapegrad.errors import ShapeError
from tapegrad.functions.products import matmul
from tapegrad.functions.reductions import reduce
from tapegrad.functions.registry import implements, is_flags, only_default
from tapegrad.layout import Layout, normalize_axis
from tapegrad.value import Value, as_value, tape_of, view


@implements(np.tensordot)
def tensordot(x: Any, y: Any, axes: Any = 2) -> Value:
    """Contraction over pairs of axes."""
    nx, ny = np.ndim(x), np.ndim(y)
    if isinstance(axes, int):
        xs, ys = list(range(nx - axes, nx)), list(range(axes))
    else:
        xs, ys = ([a] if isinstance(a, int) else list(a) for a in axes)
    xs, ys = ([normalize_axis(a, n, "tensordot") for a in given] for given, n in ((xs, nx), (ys, ny)))
    if len(xs) != len(ys):
        raise ShapeError(f"tensordot: {len(xs)} axes of one operand are paired with {len(ys)} of the other")
    for i, j in zip(xs, ys):
        if np.shape(x)[i] != np.shape(y)[j]:
            raise ShapeError(
                f"tensordot: axes {xs} of shape {np.shape(x)} and {ys} of shape {np.shape(y)} differ in length"
            )
    left, right = list(range(nx)), list(range(nx, nx + ny))
    for i, j in zip(xs, ys):
        right[j] = left[i]
    free = [c for i, c in enumerate(left) if i not in xs] + [c for j, c in enumerate(right) if j not in ys]
    return einsum(x, left, y, right, free)


@implements(np.einsum)
def einsum(
    *operands: Any,
    out: Any = None,
    dtype: Any = None,
    order: Any = None,
    casting: Any = None,
    optimize: Any = True,
) -> Value:
    """Einstein summation as in NumPy: of any number of operands, with an ellipsis, or with lists in place of letters.

    More than two operands are contracted in pairs, in the order that `opt_einsum` plans; `optimize` chooses its
    planner ("greedy", "optimal", ...), or is the path itself. Axes of length one are broadcast.

    Raises ShapeError where subscripts and shapes do not fit, UnsupportedError for `out` and the like.

    >>> x, y, z = Value(np.ones((2, 3))), np.ones((3, 4)), np.arange(4.0)
    >>> np.einsum("ij,jk,k->i", x, y, z)
    Value([18., 18.])
    >>> np.einsum(x, [0, 1], y, [1, 2], [2, 0]).shape
    (4, 2)
    """
    only_default("einsum", out=out, dtype=dtype, order=order, casting=casting)
    subscripts, given = _as_string(operands)
    terms, output, sizes = _parsed(subscripts, [np.shape(x) for x in given])
    tape = tape_of(given)
    parts = [_axes_of(as_value(x, tape, "einsum"), term, sizes) for x, term in zip(given, terms, strict=True)]
    for step in _path(parts, output, sizes, optimize):
        chosen = [parts.pop(i) for i in sorted(step, reverse=True)]
        while len(chosen) > 1:
            pair = chosen.pop(), chosen.pop()
            wanted = {*output}.union(*(term for _, term in parts + chosen))
            chosen.append(_contract(*pair, wanted, sizes))
        parts += chosen
    result, term = _summed(*parts[0], {*output})
    if all(map(is_flags, given)) and not is_flags(result):
        # Of truth values, whether there are some that all hold, not how many.
        result = result != 0.0
    return result.transpose(*[term.index(c) for c in output]) if output else result


@implements(np.einsum_path)
def einsum_path(*operands: Any, optimize: Any = "greedy", einsum_call: bool = False) -> Any:
    """NumPy's own plan, which depends on shapes alone."""
    shown: Any = (np.broadcast_to(np.zeros(()), x.shape) if isinstance(x, Value) else x for x in operands)
    return np.einsum_path(*shown, optimize=optimize)


def _as_string(operands: Sequence[Any]) -> tuple[str, list[Any]]:
    """The subscripts as one string, and the operands."""
    if isinstance(operands[0], str):
        return operands[0].replace(" ", ""), list(operands[1:])
    if len(operands) < 2 or not isinstance(operands[1], list | tuple):
        raise ShapeError("einsum takes 'ij,jk->ik' and operands, or operands and lists of axes in turns")
    try:
        subscripts, given = parser.convert_interleaved_input(operands)
    except (KeyError, TypeError) as error:
        raise ShapeError(f"einsum: a list of axes does not fit the others, or holds no axes: {error}") from None
    return subscripts, list(given)


def _parsed(subscripts: str, shapes: list[tuple[int, ...]]) -> tuple[list[str], str, dict[str, int]]:
    """A letter for each axis of each operand, those of the result, and how long each letter's axes are."""
    sizes: dict[str, int] = {}
    try:
        inputs, output, _ = parser.parse_einsum_input((subscripts, *shapes), shapes=True)
        terms = inputs.split(",")
        for i, (term, shape) in enumerate(zip(terms, shapes)):
            if len(term) != len(shape):
                raise ValueError(f"{term!r} names {len(term)} axes, operand {i} has shape {shape}")
            own = dict(zip(term, shape))
            for c, n in zip(term, shape):
                if own[c] != n:
                    raise ValueError(f"{c!r} is {n} and {own[c]} long in operand {i}")
                if 1 not in (n, sizes.get(c, 1)) and sizes[c] != n:
                    raise ValueError(f"{c!r} is {sizes[c]} long in one operand and {n} in another")
            # Axes of length one are broadcast.
            sizes.update((c, n) for c, n in own.items() if n != 1 or c not in sizes)
        named, arrow, result = subscripts.partition("->")
        if arrow and "..." in named and "..." not in result and len(inputs) > len(named.replace("...", "")):
            raise ValueError("the result needs an ellipsis too")
    except ValueError as error:
        raise ShapeError(f"einsum: {subscripts!r} does not fit shapes {shapes}: {error}") from None
    return terms, output, sizes


def _axes_of(x: Value, term: str, sizes: dict[str, int]) -> tuple[Value, str]:
    """An operand as a view with one axis for each letter, without the axes of length one that are broadcast."""
    letters = "".join(c for c in dict.fromkeys(term) if x.shape[term.index(c)] == sizes[c])
    if letters == term:
        return x, term
    # A letter that stands twice names a diagonal: a view whose stride is the sum of the two.
    layout = x._layout_or_scalar()
    strides = (builtins.sum(s for c, s in zip(term, layout.strides) if c == letter) for letter in letters)
    return view(x, x._slot, Layout(tuple(sizes[c] for c in letters), tuple(strides))), letters


def _path(parts: list[tuple[Value, str]], output: str, sizes: dict[str, int], optimize: Any) -> list[tuple[int, ...]]:
    """Which of the operands to contract, step by step; each step's result is put behind the others."""
    count = len(parts)
    if count <= 2 or optimize is False:
        return [tuple(range(count))]
    if isinstance(optimize, list | tuple):
        steps = [tuple(step) for step in optimize if step != "einsum_path"]
        for step in steps:
            good = len(set(step)) == len(step) and all(0 <= i < count for i in step)
            count = count - len(step) + 1 if good and step else 0
        if count != 1:
            raise ShapeError(f"einsum: {optimize} is no path that contracts {len(parts)} operands to one")
        return steps
    subscripts = f"{','.join(term for _, term in parts)}->{output}"
    shapes = [x.shape for x, _ in parts]
    planner = "auto" if optimize is True else optimize
    return list(opt_einsum.contract_path(subscripts, *shapes, shapes=True, optimize=planner)[0])


def _summed(x: Value, term: str, wanted: set[str]) -> tuple[Value, str]:
    """The sum over the axes whose letters are not wanted: neither the result nor another operand has them."""
    alone = tuple(a for a, c in enumerate(term) if c not in wanted)
    return (reduce("sum", x, alone), "".join(c for c in term if c in wanted)) if alone else (x, term)


def _contract(
    one: tuple[Value, str], other: tuple[Value, str], wanted: set[str], sizes: dict[str, int]
) -> tuple[Value, str]:
    """The product of two operands, summed over what neither the result nor another operand has."""
    x, a = _summed(*one, wanted.union(other[1]))
    y, b = _summed(*other, wanted.union(a))
    batch = [c for c in a if c in b and c in wanted]
    shared = [c for c in a if c in b and c not in wanted]
    left = [c for c in a if c not in b]
    right = [c for c in b if c not in a]

    def arranged(v: Value, term: str, order: list[str]) -> Value:
        return v.transpose(*[term.index(c) for c in order]) if order else v

    def size(letters: list[str]) -> int:
        return math.prod(sizes[c] for c in letters)

    if not shared or not (left or right):
        order = [*batch, *left, *right, *shared]
        x = arranged(x, a, [*batch, *left, *shared]).reshape(*(sizes[c] if c in a else 1 for c in order))
        y = arranged(y, b, [*batch, *right, *shared]).reshape(*(sizes[c] if c in b else 1 for c in order))
        product = x * y
        if shared:
            product = reduce("sum", product, tuple(range(len(order) - len(shared), len(order))))
    else:
        lengths = [sizes[c] for c in batch]
        x = arranged(x, a, [*batch, *left, *shared]).reshape(*lengths, size(left), size(shared))
        y = arranged(y, b, [*batch, *shared, *right]).reshape(*lengths, size(shared), size(right))
        product = matmul(x, y).reshape(*lengths, *(sizes[c] for c in [*left, *right]))
    return product, "".join([*batch, *left, *right])
