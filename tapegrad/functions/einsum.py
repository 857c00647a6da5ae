"""Contractions: `np.einsum` and `np.tensordot`, by views, one matrix product and a sum."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.functions.products import matmul
from tapegrad.functions.reductions import reduce
from tapegrad.functions.registry import implements
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
    names = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    left = [next(names) for _ in range(nx)]
    right = [next(names) for _ in range(ny)]
    for i, j in zip(xs, ys, strict=True):
        right[j] = left[i]
    free = [c for i, c in enumerate(left) if i not in xs] + [c for j, c in enumerate(right) if j not in ys]
    return einsum(f"{''.join(left)},{''.join(right)}->{''.join(free)}", x, y)


@implements(np.einsum)
def einsum(subscripts: str, *operands: Any, optimize: Any = None) -> Value:
    """Einstein summation of one or two operands, by views, one matrix product and a sum."""
    if len(operands) not in (1, 2) or not isinstance(subscripts, str) or "." in subscripts:
        raise UnsupportedError("einsum takes 'ab,bc->ac' for one or two Values, without an ellipsis")
    tape = tape_of(operands)
    inputs, arrow, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow:
        letters = sorted(set(inputs) - {","})
        output = "".join(c for c in letters if inputs.count(c) == 1)
    if len(terms) != len(operands) or not set(output) <= set(inputs) - {","} or len(set(output)) != len(output):
        raise ShapeError(f"einsum: {subscripts!r} does not fit {len(operands)} operands")
    sizes: dict[str, int] = {}
    values = []
    for i, (term, x) in enumerate(zip(terms, operands, strict=True)):
        x = as_value(x, tape, "einsum")
        if x.ndim != len(term):
            raise ShapeError(f"einsum: {term!r} names {len(term)} axes, operand {i} has shape {x.shape}")
        for c, n in zip(term, x.shape, strict=True):
            if sizes.setdefault(c, n) != n:
                raise ShapeError(f"einsum: {c!r} is {sizes[c]} long in one place and {n} in another")
        values.append(_diagonal_of(x, term))
    others = [set(terms[1 - i]) if len(terms) == 2 else set() for i in range(len(terms))]
    for i, (x, term) in enumerate(values):
        alone = [a for a, c in enumerate(term) if c not in output and c not in others[i]]
        x = reduce("sum", x, tuple(alone)) if alone else x
        values[i] = (x, "".join(c for a, c in enumerate(term) if a not in alone))
    if len(values) == 1:
        x, term = values[0]
        return x.transpose(*[term.index(c) for c in output]) if output else x
    return _contract(values, output, sizes)


def _diagonal_of(x: Value, term: str) -> tuple[Value, str]:
    # A letter that stands twice names a diagonal: a view whose stride is the sum of the two.
    layout = x._layout_or_scalar()
    letters = "".join(dict.fromkeys(term))
    if letters == term:
        return x, term
    strides = tuple(
        builtins.sum(s for c, s in zip(term, layout.strides, strict=True) if c == letter) for letter in letters
    )
    shape = tuple(layout.shape[term.index(letter)] for letter in letters)
    return view(x, x._slot, Layout(shape, strides)), letters


def _contract(values: list[tuple[Value, str]], output: str, sizes: dict[str, int]) -> Value:
    (x, a), (y, b) = values
    batch = [c for c in a if c in b and c in output]
    shared = [c for c in a if c in b and c not in output]
    left = [c for c in a if c not in b]
    right = [c for c in b if c not in a]

    def arranged(v: Value, term: str, order: list[str]) -> Value:
        return v.transpose(*[term.index(c) for c in order]) if order else v

    if not shared or not (left or right):
        order = [*batch, *left, *right, *shared]
        x = arranged(x, a, [*batch, *left, *shared])
        y = arranged(y, b, [*batch, *right, *shared])
        x = x.reshape(*(sizes[c] if c in a else 1 for c in order))
        y = y.reshape(*(sizes[c] if c in b else 1 for c in order))
        product = x * y
        if shared:
            product = reduce("sum", product, tuple(range(len(order) - len(shared), len(order))))
    else:

        def size(letters: list[str]) -> int:
            return math.prod(sizes[c] for c in letters)

        lengths = [sizes[c] for c in batch]
        x = arranged(x, a, [*batch, *left, *shared]).reshape(*lengths, size(left), size(shared))
        y = arranged(y, b, [*batch, *shared, *right]).reshape(*lengths, size(shared), size(right))
        product = matmul(x, y).reshape(*lengths, *(sizes[c] for c in [*left, *right]))
    term = [*batch, *left, *right]
    return product.transpose(*[term.index(c) for c in output]) if output else product
