"""Products of recorded matrices, solving with them, and making arrays, in compiled code. Imports Numba."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from tapegrad.njit.arrays import is_none, is_ours
from tapegrad.njit.linked import overload
from tapegrad.njit.numbers import constant, element_type, is_plain, is_recorded, operation, recorded_array
from tapegrad.ops import BY_NAME

_NOT_EQUAL, _WHERE = BY_NAME["not_equal"].opcode, BY_NAME["where"].opcode
# How the elements of a product are numbered, by the dimensions of the operands: the shape of the result, the loops, and
# the two vectors whose product stands there.
_PRODUCTS = {
    (1, 1): ((), "a[k]", "b[k]"),
    (2, 1): (("a.shape[0]",), "a[i0, k]", "b[k]"),
    (1, 2): (("b.shape[1]",), "a[k]", "b[k, i0]"),
    (2, 2): (("a.shape[0]", "b.shape[1]"), "a[i0, k]", "b[k, i1]"),
}


@functools.cache
def product(dims: tuple[int, int], like: str) -> Callable[..., Any] | None:
    """What computes a @ b for arrays of these dimensions; `like` is the one of recorded numbers."""
    if dims not in _PRODUCTS:
        return None
    shape, x, y = _PRODUCTS[dims]
    lines = [f"n = a.shape[{dims[0] - 1}]", "if n != b.shape[0]:",
             "    raise ValueError('incompatible array sizes for a product')"]  # fmt: skip
    at = ", ".join(f"i{k}" for k in range(len(shape)))
    if shape:
        lines.append(f"out = np.empty(({', '.join(shape)},), element_type({like}))")
    pad = ""
    for k, length in enumerate(shape):
        lines.append(f"{pad}for i{k} in range({length}):")
        pad += "    "
    lines += [
        f"{pad}k = 0", f"{pad}z = {x} * {y} if n > 0 else constant({like}, 0.0)", f"{pad}for k in range(1, n):",
        f"{pad}    z = z + {x} * {y}",
    ]  # fmt: skip
    lines += [f"{pad}out[{at}] = z", "return out"] if shape else ["return z"]
    return function_of("a, b", lines)


def function_of(names: str, lines: list[str], **space: Any) -> Callable[..., Any]:
    """A function of lines of text."""
    text = f"def impl({names}):\n" + "\n".join(f"    {line}" for line in lines)
    space |= {"np": np, "element_type": element_type, "constant": constant}
    exec(compile(text, "<products of tapegrad>", "exec"), space)
    found: Callable[..., Any] = space["impl"]
    return found


def _norm_of_partials(a):
    # The slope of the root is infinite at 0, where that of the norm is 0 by convention.
    square = np.sum(a * a)
    return math.sqrt(square) if square._value != 0.0 else constant(square, 0.0)


def _norm_of_operations(a):
    # Chosen by np.where's operation, as a branch would be one more that replays can meet.
    square = np.sum(a * a)
    zero, there = constant(square, 0.0), square._value != 0.0
    nonzero = operation(_NOT_EQUAL, (square, zero), 1.0 if there else 0.0)
    safe = operation(_WHERE, (nonzero, square, constant(square, 1.0)), square._value if there else 1.0)
    root: Any = math.sqrt(safe)
    return operation(_WHERE, (nonzero, root, zero), root._value if there else 0.0)


def _product(a: Any, b: Any) -> Any:
    if not (isinstance(a, types.Array) and isinstance(b, types.Array) and is_ours(a, b)):
        return None
    return product((a.ndim, b.ndim), "a" if recorded_array(a) is not None else "b")


def _register_products() -> None:
    @overload(operator.matmul)
    @overload(np.dot)
    def typed(a, b):
        return _product(a, b)

    @overload(np.linalg.norm)
    def norm(a):
        of = recorded_array(a)
        if of is None or a.ndim > 2:
            return None
        return _norm_of_partials if of.partials else _norm_of_operations

    @overload(np.outer)
    def outer(a, b):
        if not is_ours(a, b) or not all(isinstance(t, types.Array) and t.ndim == 1 for t in (a, b)):
            return None
        shown = "a" if recorded_array(a) is not None else "b"
        lines = [f"out = np.empty((len(a), len(b)), element_type({shown}))", "for i in range(len(a)):",
                 "    for j in range(len(b)):", "        out[i, j] = a[i] * b[j]", "return out"]  # fmt: skip
        return function_of("a, b", lines)


@functools.cache
def solution(ndim: int, like: str) -> Callable[..., Any]:
    """What solves a x = b by elimination, choosing the largest pivots; b has one or two dimensions."""
    at = "" if ndim == 1 else ", j"

    def each(line: str, pad: str) -> list[str]:
        return [pad + line] if ndim == 1 else [f"{pad}for j in range(m):", f"{pad}    {line}"]

    lines = [
        "n = a.shape[0]", "if a.shape[1] != n or b.shape[0] != n:",
        "    raise ValueError('np.linalg.solve takes a square matrix and a right-hand side of as many rows')",
        f"u = np.empty((n, n), element_type({like}))", f"x = np.empty(b.shape, element_type({like}))",
        "u[:, :] = a", "x[...] = b", *([] if ndim == 1 else ["m = b.shape[1]"]),
        "for k in range(n):",
        "    p = k",
        "    for i in range(k + 1, n):",
        "        if abs(u[i, k]) > abs(u[p, k]):",
        "            p = i",
        "    if u[p, k] == 0.0:",
        "        raise np.linalg.LinAlgError('Matrix is singular to machine precision.')",
        "    if p != k:",
        "        for j in range(n):",
        "            t = u[k, j]",
        "            u[k, j] = u[p, j]",
        "            u[p, j] = t",
        *each(f"s = x[k{at}]; x[k{at}] = x[p{at}]; x[p{at}] = s", "        "),
        "    for i in range(k + 1, n):",
        "        factor = u[i, k] / u[k, k]",
        "        for j in range(k + 1, n):",
        "            u[i, j] = u[i, j] - factor * u[k, j]",
        *each(f"x[i{at}] = x[i{at}] - factor * x[k{at}]", "        "),
        "for back in range(n):",
        "    k = n - 1 - back",
        "    for i in range(k + 1, n):",
        *each(f"x[k{at}] = x[k{at}] - u[k, i] * x[i{at}]", "        "),
        *each(f"x[k{at}] = x[k{at}] / u[k, k]", "    "),
        "return x",
    ]  # fmt: skip
    return function_of("a, b", lines)


def _register_solve() -> None:
    @overload(np.linalg.solve)
    def typed(a, b):
        if not (isinstance(a, types.Array) and isinstance(b, types.Array) and is_ours(a, b)):
            return None
        return solution(b.ndim, "a" if recorded_array(a) is not None else "b")


def _nesting(t: Any) -> tuple[int, Any]:
    """How deep lists or tuples are nested, and the type of the numbers in them; (0, None) where there is no one."""
    if isinstance(t, types.List | types.UniTuple):
        depth, found = _nesting(t.dtype)
        return depth + 1, found
    if isinstance(t, types.Tuple) and len(t):
        inner = [_nesting(x) for x in t]
        if len({depth for depth, _ in inner}) > 1:
            return 0, None
        recorded = [x for _, x in inner if is_recorded(x)]
        return inner[0][0] + 1, recorded[0] if recorded else inner[0][1]
    return 0, t if is_recorded(t) or is_plain(t) else None


def _paths(t: Any, at: str = "object") -> list[tuple[str, str, Any]]:
    """The elements of a nested tuple: where each goes, how it is written, its type."""
    found = []
    for i, x in enumerate(t):
        if isinstance(x, types.BaseTuple):
            found += [(f"{i}, {to}", text, kind) for to, text, kind in _paths(x, f"{at}[{i}]")]
        else:
            found.append((str(i), f"{at}[{i}]", x))
    return found


def _first(t: Any, at: str = "object") -> str:
    """Text that names a recorded number, or a list of them, in a nested tuple or list."""
    if isinstance(t, types.BaseTuple):
        for i, x in enumerate(t):
            if is_recorded(_nesting(x)[1]) or is_recorded(x):
                return _first(x, f"{at}[{i}]")
    if isinstance(t, types.List):
        return _first(t.dtype, f"{at}[0]")
    return at


def _register_making() -> None:
    @overload(np.array)
    def array(object, dtype=None):
        depth, number = _nesting(object)
        if not depth or not is_recorded(number) or not is_none(dtype):
            return None
        if isinstance(object, types.BaseTuple):
            paths = _paths(object)
            shape, t = [], object
            while isinstance(t, types.BaseTuple):
                shape.append(str(len(t)))
                t = t[0]
            if any(not (is_recorded(kind) or is_plain(kind)) for *_, kind in paths):
                return None
            lines = [f"out = np.empty(({', '.join(shape)},), element_type({_first(object)}))"]
            lines += [f"out[{to}] = {text}" for to, text, _ in paths]
            return function_of("object, dtype=None", [*lines, "return out"])
        if depth == 1:
            lines = ["out = np.empty(len(object), element_type(object[0]))", "for i in range(len(object)):",
                     "    out[i] = object[i]", "return out"]  # fmt: skip
            return function_of("object, dtype=None", lines)
        if depth == 2 and isinstance(object.dtype, types.List):
            lines = ["m = len(object[0])", "out = np.empty((len(object), m), element_type(object[0][0]))",
                     "for i in range(len(object)):", "    if len(object[i]) != m:",
                     "        raise ValueError('rows of different lengths')", "    for j in range(m):",
                     "        out[i, j] = object[i][j]", "return out"]  # fmt: skip
            return function_of("object, dtype=None", lines)
        return None

    @overload(np.ones_like)
    def ones_like(a, dtype=None):
        if recorded_array(a) is None or not is_none(dtype):
            return None

        def impl(a, dtype=None):
            out = np.empty_like(a)
            out[...] = constant(a, 1.0)
            return out

        return impl

    @overload(np.full_like)
    def full_like(a, fill_value, dtype=None):
        if not is_none(dtype) or not (recorded_array(a) is not None or is_recorded(fill_value)):
            return None
        if recorded_array(a) is None:
            return None

        def impl(a, fill_value, dtype=None):
            out = np.empty_like(a)
            out[...] = fill_value
            return out

        return impl

    @overload(np.full)
    def full(shape, fill_value, dtype=None):
        if not is_recorded(fill_value) or not is_none(dtype):
            return None

        def impl(shape, fill_value, dtype=None):
            out = np.empty(shape, element_type(fill_value))
            out[...] = fill_value
            return out

        return impl

    @overload(np.cumsum)
    def cumsum(a):
        if recorded_array(a) is None or a.ndim != 1:
            return None

        def impl(a):
            out = np.empty_like(a)
            z = constant(a, 0.0)
            for i in range(len(a)):
                z = z + a[i]
                out[i] = z
            return out

        return impl

    for function, sign in ((np.argmax, ">"), (np.argmin, "<")):
        _position(function, sign)


def _position(function: Any, sign: str) -> None:
    made = function_of("a", [
        "best = 0", "for i in range(1, len(a)):", f"    if a[i] {sign} a[best]:", "        best = i", "return best"
    ])  # fmt: skip

    @overload(function)
    def typed(a):
        return made if recorded_array(a) is not None and a.ndim == 1 else None


def register() -> None:
    """Make all this known to Numba."""
    _register_products()
    _register_solve()
    _register_making()
