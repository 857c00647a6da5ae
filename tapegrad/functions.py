"""NumPy's functions on Values, and functions that NumPy lacks: what is recorded for each.

Elementwise operations need nothing here: their rows name their ufuncs. A function registered with `implements` is what
NumPy's dispatch, and the method of the same name, end in.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad.errors import IntegerInputError, LabelError, ShapeError, UnsupportedError
from tapegrad.layout import (
    Layout,
    broadcast_shapes,
    broadcast_strides,
    dense,
    merge_axes,
    normalize_axes,
    normalize_axis,
)
from tapegrad.ops import BY_NAME
from tapegrad.ops.record import STRUCTURED
from tapegrad.tape import Tape
from tapegrad.value import HANDLERS, Value, apply, as_value, contiguous, handle, tape_of, view


def implements(*functions: Any) -> Callable[[Any], Any]:
    """Register what answers to NumPy functions, or to (ufunc, method) pairs."""

    def register(handler: Any) -> Any:
        for function in functions:
            HANDLERS[function] = handler
        return handler

    return register


def _value(x: Any, what: str) -> Value:
    return as_value(x, tape_of((x,)), what)


def _operand(x: Value) -> tuple[int, int, int]:
    low, high = x._layout_or_scalar().reach()
    return x._slot, low, high


def _structured(name: str, tape: Tape, shape: Sequence[int], operands: Sequence[Value], params: Sequence[int]) -> Value:
    slot = tape.run(BY_NAME[name].opcode, STRUCTURED, math.prod(shape), [_operand(x) for x in operands], [*params])
    return handle(tape, slot, dense(shape) if len(shape) else None)


# Reductions


def _split(layout: Layout, axes: tuple[int, ...]) -> list[int] | None:
    """A layout as (outer, n, inner) and their strides, where n runs over `axes`; None where that takes a copy."""
    if axes and axes != tuple(range(axes[0], axes[-1] + 1)):
        return None
    first, last = (axes[0], axes[-1] + 1) if axes else (len(layout.shape), len(layout.shape))
    sizes, strides = [], []
    for part in (slice(0, first), slice(first, last), slice(last, None)):
        shape, (steps,) = merge_axes(layout.shape[part], [layout.strides[part]])
        if len(shape) > 1:
            return None
        sizes.append(shape[0])
        strides.append(steps[0])
    return [*sizes, *strides]


def _reduce(name: str, x: Any, axis: Any, keepdims: bool = False, sign: int = 1, cumulative: bool = False) -> Value:
    x = _value(x, name)
    layout = x._layout_or_scalar()
    ndim = len(layout.shape)
    axes = normalize_axes(axis, ndim, name)
    kept = tuple(i for i in range(ndim) if i not in axes)
    if layout.size == 0 and name in ("max", "norm", "logsumexp") and 0 in [layout.shape[a] for a in axes]:
        raise ShapeError(f"{name} of no elements: shape {layout.shape}, axis {axis}")
    parts = _split(layout, axes) if layout.size else None
    if parts is None:
        x = contiguous(x.transpose(*kept, *axes)) if ndim else x
        n = math.prod(layout.shape[a] for a in axes)
        outer = math.prod(layout.shape[a] for a in kept)
        parts = [outer, n, 1, n, 1, 1]
    shape = layout.shape if cumulative else tuple(layout.shape[i] for i in kept)
    result = _structured(name, x._tape, shape, [x], [*parts, sign])
    if keepdims and ndim:
        return result.reshape(tuple(1 if i in axes else n for i, n in enumerate(layout.shape)))
    return result


def _only_default(what: str, **kwargs: Any) -> None:
    for name, given in kwargs.items():
        if given is not None and given is not np._NoValue:
            raise UnsupportedError(f"np.{what} with {name}= is not supported on a Value")


def _count(x: Value, axis: Any, what: str) -> int:
    return math.prod(x.shape[a] for a in normalize_axes(axis, x.ndim, what))


@implements(np.sum, (np.add, "reduce"))
def sum(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Sum over axes."""
    _only_default("sum", dtype=dtype, out=out)
    return _reduce("sum", x, axis, keepdims is True)


@implements(np.mean)
def mean(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Mean over axes."""
    _only_default("mean", dtype=dtype, out=out)
    return _reduce("sum", x, axis, keepdims is True) / float(_count(x, axis, "mean"))


@implements(np.average)
def average(x: Any, axis: Any = None, weights: Any = None, *, keepdims: Any = False) -> Value:
    """Mean, or weighted mean, over axes."""
    if weights is None:
        return mean(x, axis, keepdims=keepdims)
    if np.shape(weights) != np.shape(x):
        raise ShapeError(f"average: weights of shape {np.shape(weights)} for an array of shape {np.shape(x)}")
    return sum(x * weights, axis, keepdims=keepdims) / np.sum(weights, axis, keepdims=keepdims is True)


@implements(np.var)
def var(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False) -> Value:
    """Variance over axes: sum((x - mean)^2) / (n - ddof)."""
    _only_default("var", dtype=dtype, out=out)
    deviation = x - mean(x, axis, keepdims=True)
    return _reduce("sum", deviation**2, axis, keepdims is True) / float(_count(x, axis, "var") - ddof)


@implements(np.std)
def std(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False) -> Value:
    """Standard deviation over axes."""
    return np.sqrt(var(x, axis, dtype, out, ddof, keepdims))


@implements(np.prod, (np.multiply, "reduce"))
def prod(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Product over axes. Exact at zeros, in its derivative too."""
    _only_default("prod", dtype=dtype, out=out)
    return _reduce("prod", x, axis, keepdims is True)


@implements(np.max, np.amax, (np.maximum, "reduce"))
def max(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Largest element over axes; ties share the derivative equally."""
    _only_default("max", out=out)
    return _reduce("max", x, axis, keepdims is True)


@implements(np.min, np.amin, (np.minimum, "reduce"))
def min(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Smallest element over axes; ties share the derivative equally."""
    _only_default("min", out=out)
    return _reduce("max", x, axis, keepdims is True, sign=-1)


@implements(np.ptp)
def ptp(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Largest minus smallest over axes."""
    return max(x, axis, out, keepdims) - min(x, axis, out, keepdims)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    """ln sum e^x over axes, without overflow.

    >>> float(logsumexp(Value([1000.0, 1000.0])).item() - 1000.0)
    0.6931471805599...
    """
    return _reduce("logsumexp", x, axis, keepdims)


@implements(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Value:
    """The 2-norm over axes (Frobenius for matrices), or the 1- or infinity-norm of vectors; derivative 0 at 0."""
    if ord in (None, 2, "fro") and not (ord == 2 and axis is None and np.ndim(x) == 2):
        return _reduce("norm", x, axis, keepdims)
    if ord in (1, np.inf) and (isinstance(axis, int) or (axis is None and np.ndim(x) == 1)):
        return (sum if ord == 1 else max)(np.abs(x), axis, keepdims=keepdims)
    raise UnsupportedError(f"np.linalg.norm with ord={ord!r} on a Value of {np.ndim(x)} dimensions is not supported")


@implements(np.cumsum)
def cumsum(x: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Value:
    """Running sum along an axis; of the flattened array where none is given."""
    _only_default("cumsum", dtype=dtype, out=out)
    x = _value(x, "cumsum")
    if axis is None or x.ndim == 0:
        x, axis = x.reshape(-1), 0
    axis = normalize_axis(axis, x.ndim, "cumsum")
    if _split(x._layout_or_scalar(), (axis,)) is None:
        x = contiguous(x)
    return _reduce("cumsum", x, axis, cumulative=True)


def softmax(x: Any, axis: int = -1) -> Value:
    """e^x_i / sum_j e^x_j along an axis.

    >>> softmax(Value([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    return np.exp(log_softmax(x, axis))


def log_softmax(x: Any, axis: int = -1) -> Value:
    """x_i - ln sum_j e^x_j along an axis, without overflow.

    >>> log_softmax(Value([1000.0, 0.0])).tolist()
    [0.0, -1000.0]
    """
    x = _value(x, "log_softmax")
    return x - _reduce("logsumexp", x, axis, keepdims=True)


def cross_entropy(logits: Any, labels: Any, reduction: str = "mean") -> Value:
    """Softmax cross-entropy: ln(sum_j e^x_ij) - x_i,label_i, one fused operation.

    Args:
        logits: (..., classes).
        labels: (...), whole numbers from 0 to classes - 1.
        reduction: "mean" or "sum" over all of them, or "none" for one loss each.

    Raises ShapeError; LabelError for a label that is NaN, no whole number or out of range.

    >>> cross_entropy(Value([[0.0, 0.0]]), [1]).item()
    0.693147180559945...
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    tape = tape_of((logits, labels))
    logits = contiguous(as_value(logits, tape, "cross_entropy"))
    if logits.ndim == 0 or np.shape(labels) != logits.shape[:-1] or logits.shape[-1] == 0:
        raise ShapeError(
            f"cross_entropy: logits of shape {logits.shape} need labels of shape {logits.shape[:-1]}, "
            f"not {np.shape(labels)}"
        )
    classes = logits.shape[-1]
    if not isinstance(labels, Value):
        labels = _checked_labels(np.asarray(labels), classes)
        labels = handle(tape, tape.leaf(labels.astype(tape.dtype), labels.size, False), dense(labels.shape))
    losses = _structured(
        "cross_entropy", tape, logits.shape[:-1], [logits, contiguous(labels)], [labels.size, classes]
    )
    if reduction == "none":
        return losses
    return mean(losses) if reduction == "mean" else sum(losses)


def _checked_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    if labels.dtype.kind not in "iuf":
        raise LabelError(f"cross_entropy: labels must be whole numbers, not {labels.dtype}")
    bad = ~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        where = index[0] if len(index) == 1 else index
        raise LabelError(
            f"cross_entropy: label {labels[index]:g} at position {where}; labels must be whole numbers from 0 to {classes - 1}"
        )
    return labels


# Products


def _matrix(x: Value) -> tuple[Value, int, int]:
    """A matrix, or a batch of them, that BLAS can read: (value, stored transposed, leading dimension)."""
    layout = x._layout_or_scalar()
    (m, n), (row, column) = layout.shape[-2:], layout.strides[-2:]
    top = 2**31 - 1
    if (column == 1 or n == 1) and (row >= n or m == 1) and 0 <= row <= top:
        return x, 0, builtins.max(row, n, 1)
    if (row == 1 or m == 1) and (column >= m or n == 1) and 0 <= column <= top:
        return x, 1, builtins.max(column, m, 1)
    return contiguous(x), 0, builtins.max(n, 1)


@implements(np.matmul)
def matmul(x: Any, y: Any) -> Value:
    """The matrix product, batched and broadcast over leading axes as in NumPy."""
    tape = tape_of((x, y))
    x, y = as_value(x, tape, "matmul"), as_value(y, tape, "matmul")
    if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
        raise ShapeError(f"matmul: shapes {x.shape} and {y.shape} do not fit (the inner lengths must be equal)")
    a = x[None, :] if x.ndim == 1 else x
    b = y[:, None] if y.ndim == 1 else y
    shape = _multiply_matrices(tape, a, b)
    if x.ndim == 1:
        shape = shape[..., 0, :]
    return shape[..., 0] if y.ndim == 1 else shape


def _multiply_matrices(tape: Tape, a: Value, b: Value) -> Value:
    (m, k), n = a.shape[-2:], b.shape[-1]
    if a.ndim > 2 and b.ndim == 2:
        # One product of all the rows is faster than one product a batch.
        rows = contiguous(a).reshape(-1, k)
        return _multiply_matrices(tape, rows, b).reshape(*a.shape[:-1], n)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, ta, lda = _matrix(a)
    b, tb, ldb = _matrix(b)
    count = math.prod(batch)
    a, sa = _batched(a, batch)
    b, sb = _batched(b, batch)
    if sa is None:
        a, ta, lda, sa = contiguous(a), 0, builtins.max(k, 1), m * k
    if sb is None:
        b, tb, ldb, sb = contiguous(b), 0, builtins.max(n, 1), k * n
    return _structured("matmul", tape, (*batch, m, n), [a, b], [count, m, k, n, sa, ta, lda, sb, tb, ldb])


def _batched(x: Value, batch: tuple[int, ...]) -> tuple[Value, int | None]:
    """The value broadcast over the batch, and its one batch stride, or None where there is none."""
    full = broadcast_to(x, (*batch, *x.shape[-2:]))
    shape, (strides,) = merge_axes(batch, [full._layout_or_scalar().strides[:-2]])
    return full, strides[0] if len(shape) == 1 else None


@implements(np.dot)
def dot(x: Any, y: Any, out: Any = None) -> Value:
    """The product as `np.dot` has it: scalars multiply, else the last axis meets the last but one."""
    _only_default("dot", out=out)
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return x * y
    if np.ndim(y) <= 2:
        return matmul(x, y)
    return np.tensordot(x, y, axes=((np.ndim(x) - 1,), (np.ndim(y) - 2,)))


@implements(np.vdot)
def vdot(x: Any, y: Any) -> Value:
    """The inner product of the flattened operands."""
    return matmul(np.ravel(x), np.ravel(y))


@implements(np.inner)
def inner(x: Any, y: Any) -> Value:
    """The product over the last axes."""
    if np.ndim(x) == 0 or np.ndim(y) == 0:
        return x * y
    return np.tensordot(x, y, axes=((np.ndim(x) - 1,), (np.ndim(y) - 1,)))


@implements(np.outer)
def outer(x: Any, y: Any, out: Any = None) -> Value:
    """x_i y_j of the flattened operands."""
    _only_default("outer", out=out)
    return np.ravel(x)[:, None] * np.ravel(y)[None, :]


@implements(np.tensordot)
def tensordot(x: Any, y: Any, axes: Any = 2) -> Value:
    """Contraction over pairs of axes."""
    nx, ny = np.ndim(x), np.ndim(y)
    if isinstance(axes, int):
        xs, ys = list(range(nx - axes, nx)), list(range(axes))
    else:
        xs, ys = ([a] if isinstance(a, int) else list(a) for a in axes)
    xs, ys = [a % nx for a in xs], [a % ny for a in ys]
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
        x = _reduce("sum", x, tuple(alone)) if alone else x
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
            product = _reduce("sum", product, tuple(range(len(order) - len(shared), len(order))))
    else:

        def size(letters: list[str]) -> int:
            return math.prod(sizes[c] for c in letters)

        lengths = [sizes[c] for c in batch]
        x = arranged(x, a, [*batch, *left, *shared]).reshape(*lengths, size(left), size(shared))
        y = arranged(y, b, [*batch, *shared, *right]).reshape(*lengths, size(shared), size(right))
        product = matmul(x, y).reshape(*lengths, *(sizes[c] for c in [*left, *right]))
    term = [*batch, *left, *right]
    return product.transpose(*[term.index(c) for c in output]) if output else product


@implements(np.trace)
def trace(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Value:
    """The sum of a diagonal."""
    _only_default("trace", dtype=dtype, out=out)
    return sum(diagonal(x, offset, axis1, axis2), -1)


# Choosing


@implements(np.where)
def where(condition: Any, *choices: Any) -> Value:
    """x where the condition holds, else y. The branch not taken gets no gradient, not even NaN."""
    if len(choices) != 2:
        raise UnsupportedError("np.where(condition) of a Value has a shape that depends on numbers: use v.data")
    return apply(BY_NAME["where"], (condition, *choices))


@implements(np.clip)
def clip(x: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Value:
    """x held between two bounds, either of which may be None."""
    _only_default("clip", out=out)
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    if low is None:
        return x if high is None else np.minimum(x, high)
    return np.maximum(x, low) if high is None else apply(BY_NAME["clip"], (x, low, high))


@implements(np.round)
def round(x: Any, decimals: int = 0, out: Any = None) -> Value:
    """Rounded to a number of decimals; zero derivative."""
    scale = 10.0**decimals
    return np.rint(x * scale) / scale if decimals else np.rint(x)


def _by_numbers(function: Any) -> Any:
    def handler(x: Value, *args: Any, **kwargs: Any) -> Any:
        return function(x.numpy(), *args, **kwargs)

    handler.__doc__ = f"np.{function.__name__} of the numbers: constant between jumps, so it has no gradient."
    return handler


for _function in (np.argmax, np.argmin, np.argsort, np.any, np.all, np.count_nonzero, np.nonzero, np.isclose, np.allclose,
                  np.array_equal, np.isfinite, np.isnan, np.isinf, np.signbit):
    HANDLERS[_function] = _by_numbers(_function)
for _function in (np.allclose, np.isclose, np.array_equal):
    HANDLERS[_function] = lambda *args, _f=_function, **kwargs: _f(
        *(a.numpy() if isinstance(a, Value) else a for a in args), **kwargs)


@implements(np.sort)
def sort(x: Any, axis: Any = -1) -> Value:
    """Sorted along an axis, by the order of the numbers."""
    x = _value(x, "sort") if axis is not None else np.ravel(x)
    axis = -1 if axis is None else axis
    return np.take_along_axis(x, np.argsort(x.numpy(), axis, kind="stable"), axis)


@implements(np.take_along_axis)
def take_along_axis(x: Any, indices: Any, axis: Any = -1) -> Value:
    """Elements by an index array of the same number of axes."""
    places = np.arange(x.size).reshape(x.shape)
    return _gather_flat(x, np.take_along_axis(places, np.asarray(indices), axis))


# Indexing


def _gather(x: Value, indices: Value, outer: int, size: int, inner: int, shape: Sequence[int]) -> Value:
    if x.dtype == np.float32 and size > 2**24:
        raise ShapeError(f"a float32 tape cannot index {size} elements: whole numbers above 2**24 are not exact there")
    return _structured("gather", x._tape, shape, [contiguous(x), contiguous(indices)], [outer, size, inner, indices.size])


def _gather_flat(x: Value, places: np.ndarray) -> Value:
    return _gather(x, _whole_numbers(x._tape, places), 1, x.size, 1, places.shape)


def _whole_numbers(tape: Tape, array: np.ndarray) -> Value:
    return handle(tape, tape.leaf(array.astype(tape.dtype), array.size, False), dense(array.shape) if array.ndim else None)


@implements("advanced_index")
def advanced_index(x: Value, parts: tuple[Any, ...]) -> Value:
    """x[parts] where a part is an array of indices or flags."""
    parts = tuple(_flags(p) if isinstance(p, Value) else np.asarray(p) if isinstance(p, list) else p for p in parts)
    for p in parts:
        if isinstance(p, np.ndarray) and p.dtype.kind not in "iub":
            if p.size:
                raise IntegerInputError(f"index arrays must be integers or booleans, not {p.dtype}")
    if any(isinstance(p, Value) for p in parts):
        return _index_by_values(x, parts)
    if len(parts) == 1 and isinstance(parts[0], np.ndarray) and parts[0].dtype.kind in "iu" and x.ndim > 1:
        index = parts[0]
        n = x.shape[0]
        if index.size and not (-n <= index.min() and index.max() < n):
            raise IndexError(f"an index is out of range for axis 0 of size {n}")
        inner = math.prod(x.shape[1:])
        return _gather(x, _whole_numbers(x._tape, index), 1, n, inner, (*index.shape, *x.shape[1:]))
    places = np.arange(x.size).reshape(x.shape)[tuple(p.astype(int) if _empty(p) else p for p in parts)]
    return _gather_flat(x, places)


def _empty(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.size == 0 and part.dtype.kind == "f"


def _flags(index: Value) -> Any:
    # The result of a comparison picks elements, so the shape depends on it: a guard holds it to its numbers.
    return index.numpy() != 0.0 if index.size and index._tape.is_flag(index._slot) else index


def _index_by_values(x: Value, parts: tuple[Any, ...]) -> Value:
    # Indices that are numbers on the tape, one for each leading axis: replays may change them.
    if not all(isinstance(p, Value | np.ndarray | int | np.integer) for p in parts) or len(parts) > x.ndim:
        raise UnsupportedError("index Values go with other index arrays for the leading axes, not with slices")
    flat: Any = 0.0
    for n, part in zip(x.shape, parts, strict=False):
        index = as_value(np.asarray(part, x.dtype) if not isinstance(part, Value) else part, x._tape, "index")
        ok = np.logical_and(index >= -n, index < n)
        flat = flat * float(n) + np.where(ok, np.where(index < 0, index + float(n), index), np.nan)
    size = math.prod(x.shape[: len(parts)])
    rest = x.shape[len(parts) :]
    return _gather(x, flat, 1, size, math.prod(rest), (*flat.shape, *rest))


@implements(np.take)
def take(x: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Value:
    """Elements by index along an axis; of the flattened array where none is given."""
    _only_default("take", out=out)
    if mode != "raise":
        raise UnsupportedError(f"np.take with mode={mode!r} is not supported on a Value")
    if axis is None:
        return np.ravel(x)[indices if isinstance(indices, Value) else np.asarray(indices)]
    x = _value(x, "take")
    axis = normalize_axis(axis, x.ndim, "take")
    if not isinstance(indices, Value):
        n, given = x.shape[axis], np.asarray(indices)
        if given.size and not (-n <= given.min() and given.max() < n):
            raise IndexError(f"take: an index is out of range for axis {axis} of size {n}")
        indices = _whole_numbers(x._tape, given)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    return _gather(x, indices, math.prod(before), x.shape[axis], math.prod(after), (*before, *indices.shape, *after))


# Joining


@implements(np.concatenate)
def concatenate(arrays: Sequence[Any], axis: Any = 0, out: Any = None, dtype: Any = None, casting: Any = None) -> Value:
    """Arrays joined along an axis; flattened first where it is None."""
    _only_default("concatenate", out=out, dtype=dtype)
    tape = tape_of(arrays)
    values = [as_value(x, tape, "concatenate") for x in arrays]
    if axis is None:
        values, axis = [x.reshape(-1) for x in values], 0
    if any(x.ndim == 0 for x in values):
        raise ShapeError("concatenate: scalars cannot be joined; use np.stack")
    axis = normalize_axis(axis, values[0].ndim, "concatenate")
    first = values[0].shape
    for x in values:
        if x.ndim != len(first) or x.shape[:axis] + x.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ShapeError(f"concatenate: shapes {first} and {x.shape} differ off axis {axis}")
    shape = list(first)
    shape[axis] = builtins.sum(x.shape[axis] for x in values)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows = [x.shape[axis] * inner for x in values]
    params = [outer, builtins.sum(rows), *rows]
    return _structured("concatenate", tape, shape, [contiguous(x) for x in values], params)


@implements(np.stack)
def stack(arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: Any = None) -> Value:
    """Arrays or scalars of one shape joined along a new axis; nested lists and object arrays of scalars too.

    >>> a, b = Value(1.0), Value(2.0)
    >>> stack([a, b]).shape
    (2,)
    >>> stack([[a, b], [b, a]]).shape
    (2, 2)
    """
    _only_default("stack", out=out, dtype=dtype)
    if isinstance(arrays, Value):
        arrays = list(arrays)
    arrays = [stack(x) if isinstance(x, list | tuple) or _is_objects(x) else x for x in arrays]
    if not arrays:
        raise ShapeError("stack: there is nothing to stack")
    tape = tape_of(arrays)
    values = [as_value(x, tape, "stack") for x in arrays]
    shapes = {x.shape for x in values}
    if len(shapes) > 1:
        raise ShapeError(f"stack: shapes {' and '.join(map(str, sorted(shapes)))} differ")
    axis = normalize_axis(axis, values[0].ndim + 1, "stack")
    return concatenate([x.reshape(*x.shape[:axis], 1, *x.shape[axis:]) for x in values], axis)


def _is_objects(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == object


@implements("stack_objects")
def stack_objects(array: np.ndarray, tape: Tape) -> Value:
    """An object array of scalar Values and numbers as one Value."""
    for x in array.reshape(-1):
        if not isinstance(x, Value | int | float | np.number):
            raise UnsupportedError(f"an object array of Values holds {type(x).__name__}")
    if array.ndim == 0:
        return as_value(array[()], tape, "stack")
    flat = [as_value(x, tape, "stack").reshape(1) for x in array.reshape(-1)]
    return concatenate(flat).reshape(array.shape) if flat else _whole_numbers(tape, array.astype(float))


@implements(np.atleast_1d)
def atleast_1d(*arrays: Any) -> Any:
    """With at least one axis."""
    values = [_value(x, "atleast_1d") for x in arrays]
    values = [x.reshape(1) if x.ndim == 0 else x for x in values]
    return values[0] if len(values) == 1 else tuple(values)


@implements(np.atleast_2d)
def atleast_2d(*arrays: Any) -> Any:
    """With at least two axes."""
    values = [_value(x, "atleast_2d") for x in arrays]
    values = [x.reshape((1,) * (2 - x.ndim) + x.shape) if x.ndim < 2 else x for x in values]
    return values[0] if len(values) == 1 else tuple(values)


@implements(np.vstack)
def vstack(arrays: Sequence[Any], *, dtype: Any = None, casting: Any = None) -> Value:
    """Joined as rows."""
    return concatenate([x if np.ndim(x) > 1 else np.reshape(x, (1, -1)) for x in arrays], 0)


@implements(np.hstack)
def hstack(arrays: Sequence[Any], *, dtype: Any = None, casting: Any = None) -> Value:
    """Joined along the second axis, or the only one."""
    arrays = [np.reshape(x, (1,)) if np.ndim(x) == 0 else x for x in arrays]
    return concatenate(arrays, 0 if np.ndim(arrays[0]) == 1 else 1)


@implements(np.column_stack)
def column_stack(arrays: Sequence[Any]) -> Value:
    """Joined as columns."""
    return concatenate([x if np.ndim(x) > 1 else np.reshape(x, (-1, 1)) for x in arrays], 1)


@implements(np.pad)
def pad(x: Any, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0.0) -> Value:
    """Padded with a constant on either side of every axis."""
    if mode != "constant" or np.ndim(constant_values):
        raise UnsupportedError(f"np.pad on a Value takes mode='constant' and one number, not mode={mode!r}")
    widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))
    if (widths < 0).any():
        raise ShapeError(f"pad: widths must not be negative: {pad_width}")
    for axis, (before, after) in enumerate(widths):
        parts = [x]
        for at, n in ((0, int(before)), (2, int(after))):
            if n:
                shape = (*x.shape[:axis], n, *x.shape[axis + 1 :])
                parts.insert(at, np.full(shape, constant_values, x.dtype))
        x = concatenate(parts, axis) if len(parts) > 1 else x
    return x


@implements(np.tile)
def tile(x: Any, reps: Any) -> Value:
    """Repeated as a whole along axes."""
    reps = (reps,) if np.ndim(reps) == 0 else tuple(reps)
    x = x.reshape((1,) * (len(reps) - x.ndim) + x.shape)
    reps = (1,) * (x.ndim - len(reps)) + reps
    for axis, n in enumerate(reps):
        x = concatenate([x] * n, axis) if n > 1 else x
    return x


@implements(np.repeat)
def repeat(x: Any, repeats: Any, axis: Any = None) -> Value:
    """Every element repeated along an axis."""
    x = np.ravel(x) if axis is None else x
    axis = normalize_axis(0 if axis is None else axis, x.ndim, "repeat")
    return take(x, np.repeat(np.arange(x.shape[axis]), repeats), axis)


# Views


@implements(np.reshape)
def reshape(x: Any, /, shape: Any = None, order: str = "C", *, newshape: Any = None, copy: Any = None) -> Value:
    """Another shape of the same size."""
    shape = newshape if shape is None else shape
    if order != "C":
        raise UnsupportedError(f"np.reshape with order={order!r} is not supported on a Value")
    return x.reshape(shape)


@implements(np.ravel)
def ravel(x: Any, order: str = "C") -> Value:
    """One axis of all elements."""
    return x.reshape(-1)


@implements(np.transpose, np.permute_dims)
def transpose(x: Any, axes: Any = None) -> Value:
    """The axes in another order, reversed by default."""
    return x.transpose(axes)


@implements(np.swapaxes)
def swapaxes(x: Any, axis1: int, axis2: int) -> Value:
    """Two axes exchanged."""
    a, b = (normalize_axis(i, x.ndim, "swapaxes") for i in (axis1, axis2))
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    return x.transpose(order)


@implements(np.moveaxis)
def moveaxis(x: Any, source: Any, destination: Any) -> Value:
    """Axes moved to other places."""
    sources = [source] if isinstance(source, int) else list(source)
    places = [destination] if isinstance(destination, int) else list(destination)
    sources = [normalize_axis(a, x.ndim, "moveaxis") for a in sources]
    order = [a for a in range(x.ndim) if a not in sources]
    for place, a in sorted(zip((normalize_axis(p, x.ndim, "moveaxis") for p in places), sources, strict=True)):
        order.insert(place, a)
    return x.transpose(order)


@implements(np.expand_dims)
def expand_dims(x: Any, axis: Any) -> Value:
    """With new axes of length 1."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    ndim = x.ndim + len(axes)
    places = normalize_axes(axes, ndim, "expand_dims")
    rest = iter(x.shape)
    return x.reshape(tuple(1 if i in places else next(rest) for i in range(ndim)))


@implements(np.squeeze)
def squeeze(x: Any, axis: Any = None) -> Value:
    """Without axes of length 1."""
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else normalize_axes(axis, x.ndim, "squeeze")
    if any(x.shape[a] != 1 for a in axes):
        raise ShapeError(f"squeeze: axis {axis} of shape {x.shape} is not of length 1")
    return x[tuple(0 if i in axes else slice(None) for i in range(x.ndim))] if axes else x


@implements(np.broadcast_to)
def broadcast_to(x: Any, shape: Any, subok: bool = False) -> Value:
    """Shown as a larger shape; nothing is copied."""
    x = _value(x, "broadcast_to")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if broadcast_shapes([x.shape, shape], "broadcast_to") != shape:
        raise ShapeError(f"broadcast_to: shape {x.shape} cannot be shown as {shape}")
    return view(x, x._slot, Layout(shape, broadcast_strides(x._layout, shape)) if shape else None)


@implements(np.flip)
def flip(x: Any, axis: Any = None) -> Value:
    """Reversed along axes."""
    axes = normalize_axes(axis, x.ndim, "flip")
    return x[tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(x.ndim))]


@implements(np.roll)
def roll(x: Any, shift: int, axis: Any = None) -> Value:
    """Rolled along an axis; flattened for it where none is given."""
    if axis is None:
        return roll(np.ravel(x), shift, 0).reshape(x.shape)
    axis = normalize_axis(axis, x.ndim, "roll")
    n = x.shape[axis]
    return take(x, (np.arange(n) - shift) % n, axis) if n else x


@implements(np.diff)
def diff(x: Any, n: int = 1, axis: int = -1) -> Value:
    """Differences of neighbours along an axis."""
    axis = normalize_axis(axis, x.ndim, "diff")
    before = (slice(None),) * axis
    for _ in range(n):
        x = x[(*before, slice(1, None))] - x[(*before, slice(None, -1))]
    return x


@implements(np.diagonal)
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    """A diagonal, as the last axis. A view."""
    a, b = (normalize_axis(i, x.ndim, "diagonal") for i in (axis1, axis2))
    rows = (slice(builtins.max(-offset, 0), None), slice(builtins.max(offset, 0), None))
    x = x[tuple(rows[0] if i == a else rows[1] if i == b else slice(None) for i in range(x.ndim))]
    layout = x._layout_or_scalar()
    kept = [i for i in range(x.ndim) if i not in (a, b)]
    shape = (*(layout.shape[i] for i in kept), builtins.min(layout.shape[a], layout.shape[b]))
    strides = (*(layout.strides[i] for i in kept), layout.strides[a] + layout.strides[b])
    return view(x, x._slot, Layout(shape, strides))


@implements(np.diag)
def diag(x: Any, k: int = 0) -> Value:
    """A matrix's diagonal, or a matrix with a vector on its diagonal."""
    if x.ndim == 2:
        return diagonal(x, k)
    n = x.shape[0] + abs(k)
    rows = np.arange(x.shape[0])
    places = np.full((n, n), x.shape[0])
    places[rows + builtins.max(-k, 0), rows + builtins.max(k, 0)] = rows
    return _gather_flat(concatenate([x, np.zeros(1, x.dtype)]), places)


def _triangle(function: Any) -> Any:
    def handler(x: Value, k: int = 0) -> Value:
        return where(function(np.ones(x.shape[-2:], bool), k), x, 0.0)

    handler.__doc__ = f"np.{function.__name__}."
    return handler


HANDLERS[np.tril], HANDLERS[np.triu] = _triangle(np.tril), _triangle(np.triu)


@implements(np.split, np.array_split)
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Value]:
    """Views of consecutive parts."""
    places = np.array_split(np.arange(x.shape[axis]), indices_or_sections)
    before = (slice(None),) * normalize_axis(axis, x.ndim, "split")
    return [x[(*before, slice(int(p[0]), int(p[-1]) + 1) if len(p) else slice(0, 0))] for p in places]


# About the shape


HANDLERS[np.shape] = lambda x: x.shape
HANDLERS[np.ndim] = lambda x: x.ndim
HANDLERS[np.size] = lambda x, axis=None: x.size if axis is None else x.shape[axis]


def _like(function: Any) -> Any:
    def handler(x: Value, *args: Any, dtype: Any = None, shape: Any = None, **kwargs: Any) -> np.ndarray:
        return function(x.shape if shape is None else shape, *args, dtype=dtype or x.dtype)

    handler.__doc__ = f"np.{function.__name__} of the shape and dtype of a Value."
    return handler


HANDLERS[np.zeros_like], HANDLERS[np.ones_like] = _like(np.zeros), _like(np.ones)
HANDLERS[np.full_like], HANDLERS[np.empty_like] = _like(np.full), _like(np.empty)
HANDLERS[np.result_type] = lambda *args: np.result_type(*(a.dtype if isinstance(a, Value) else a for a in args))
