"""Arrays of recorded numbers in compiled code: arithmetic that broadcasts, and reductions. Imports Numba.

What only moves elements (item assignment, slices, views, copies) is Numba's own. The rest is written here as loops over
elements, whose operators record. The loops are text, because how many there are depends on the arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.core.errors import TypingError
from numba.core.typing.templates import AttributeTemplate, infer_getattr

from tapegrad.njit.linked import jit, overload
from tapegrad.njit.numbers import constant, element_type, is_plain, is_recorded, recorded_array
from tapegrad.njit.scalars import COMPARISONS, IN_PLACE, OPERATORS
from tapegrad.ops import BY_UFUNC, Elementwise


def element(t: Any) -> Any:
    """The type of the elements of an array; of a number its own."""
    return t.dtype if isinstance(t, types.Array) else t


def is_ours(*operands: Any) -> bool:
    """Whether operands of these types are arrays and numbers, of which some are recorded."""
    elements = [element(t) for t in operands]
    return (
        any(isinstance(t, types.Array) for t in operands)
        and any(map(is_recorded, elements))
        and all(is_recorded(e) or is_plain(e) for e in elements)
    )


@jit()
def common(n, m):
    """The length to which two axes are broadcast."""
    if n == m or m == 1:
        return n
    if n == 1:
        return m
    raise ValueError("operands could not be broadcast together")


def _function(names: str, lines: list[str], **space: Any) -> Callable[..., Any]:
    text = f"def impl({names}):\n" + "\n".join(f"    {line}" for line in lines)
    space |= {"np": np, "element_type": element_type, "common": common, "constant": constant}
    exec(compile(text, "<arrays of tapegrad>", "exec"), space)
    found: Callable[..., Any] = space["impl"]
    return found


def loops(axes: list[int], lengths: list[str], body: list[str]) -> list[str]:
    """Loops over `i0`, `i1` and so on, one in the other, around lines."""
    heads = [f"for i{k} in range({n}):" for k, n in zip(axes, lengths, strict=True)]
    heads = ["    " * depth + head for depth, head in enumerate(heads)]
    return heads + ["    " * len(axes) + line for line in body]


# Elementwise


@functools.cache
def elementwise(
    function: Any, names: tuple[str, ...], dims: tuple[int, ...], like: int, dtype: str = "", in_place: bool = False
) -> Callable[..., Any]:
    """The function of arrays, and of numbers, which have 0 dimensions, that computes `function` of their elements.

    `like` is the operand with recorded numbers; `dtype` is "" for recorded results. With `in_place` results go to the
    first operand.
    """
    operands = list(zip(names, dims, strict=True))
    ndim, lines = max(dims), []
    if in_place and dims[0] < ndim:
        raise NotImplementedError("an array cannot be broadcast in place")
    for k in range(ndim):
        given = [f"{x}.shape[{k - ndim + d}]" for x, d in operands if k - ndim + d >= 0]
        lines.append(f"n{k} = {given[0]}")
        lines += [f"n{k} = common(n{k}, {g})" for g in given[1:]]
        if in_place:
            lines += [f"if n{k} != {names[0]}.shape[{k}]:", "    raise ValueError('cannot be broadcast in place')"]
    # Axes of length 1 stand still while others go on.
    for x, d in operands:
        lines += [f"s_{x}_{k} = 1 if {x}.shape[{k}] == n{k + ndim - d} else 0" for k in range(d)]
    out = names[0]
    if not in_place:
        kind = f"np.{dtype}" if dtype else f"element_type({names[like]})"
        lines.append(f"out = np.empty(({', '.join(f'n{k}' for k in range(ndim))},), {kind})")
        out = "out"
    elements = [
        f"{x}[{', '.join(f'i{k + ndim - d} * s_{x}_{k}' for k in range(d))}]" if d else x for x, d in operands
    ]
    axes = list(range(ndim))
    body = f"{out}[{', '.join(f'i{k}' for k in axes)}] = function({', '.join(elements)})"
    lines += [*loops(axes, [f"n{k}" for k in axes], [body]), f"return {out}"]
    return _function(", ".join(names), lines, function=function)


def of_elements(function: Any, names: tuple[str, ...], *operands: Any, **how: Any) -> Any:
    """What computes a function of elements, for operands of these types; None where they are not ours."""
    if not is_ours(*operands):
        return None
    dims = tuple(t.ndim if isinstance(t, types.Array) else 0 for t in operands)
    like = next(i for i, t in enumerate(operands) if is_recorded(element(t)))
    return elementwise(function, names, dims, like, **how)


def _register_elementwise() -> None:
    for function, ufunc in [*OPERATORS.items(), *((u, u) for u in BY_UFUNC)]:
        row = BY_UFUNC.get(ufunc)
        if isinstance(row, Elementwise) and not row.truth:
            (_one if ufunc.nin == 1 else _two)(function)
    for function, ufunc in COMPARISONS.items():
        _two(function, dtype="bool_")
        _two(ufunc, dtype="bool_")
    for function in IN_PLACE:
        _in_place(function)


def _one(function: Any) -> None:
    @overload(function)
    def typed(x):
        return of_elements(function, ("x",), x)


def _two(function: Any, dtype: str = "") -> None:
    @overload(function)
    def typed(x, y):
        return of_elements(function, ("x", "y"), x, y, dtype=dtype)


def _in_place(function: Any) -> None:
    plain = IN_PLACE[function]

    @overload(function)
    def typed(x, y):
        if recorded_array(x) is None:
            return of_elements(plain, ("x", "y"), x, y)
        return of_elements(plain, ("x", "y"), x, y, in_place=True)


@jit()
def _chosen(condition, x, y):
    return x if condition else y


def _register_where() -> None:
    @overload(np.where)
    def typed(condition, x, y):
        if not (is_recorded(element(x)) or is_recorded(element(y))):
            return None
        if not isinstance(condition, types.Array):
            return lambda condition, x, y: _chosen(condition, x, y)
        return of_elements(_chosen, ("condition", "x", "y"), condition, x, y)

    @overload(np.clip)
    def clipped(a, a_min, a_max):
        if not any(is_recorded(element(t)) for t in (a, a_min, a_max)):
            return None
        if isinstance(a_min, types.NoneType):
            return lambda a, a_min, a_max: np.minimum(a, a_max)
        if isinstance(a_max, types.NoneType):
            return lambda a, a_min, a_max: np.maximum(a, a_min)
        return lambda a, a_min, a_max: np.minimum(np.maximum(a, a_min), a_max)


# Reductions: how an element x joins the result so far, z; what z is at first, "" for the first element; and what is
# done to the result at the end, n being the number of elements.
REDUCTIONS = {
    "sum": ("z + x", "0.0", "z"), "prod": ("z * x", "1.0", "z"), "mean": ("z + x", "0.0", "z / n"),
    "max": ("max(z, x)", "", "z"), "min": ("min(z, x)", "", "z"),
}  # fmt: skip
NONE = "raise ValueError('zero-size array to a reduction that has no identity')"


@functools.cache
def reduction(name: str, ndim: int, along: bool) -> Callable[..., Any]:
    """The function of an array of `ndim` dimensions, and an axis where it goes along one."""
    step, start, end = REDUCTIONS[name]
    axes = list(range(ndim))
    at = ", ".join(f"i{k}" for k in axes)
    lengths = [f"a.shape[{k}]" for k in axes]
    if not along or ndim == 1:
        lines = ["n = a.size", *([f"z = constant(a, {start})"] if start else [
            "if n == 0:", f"    {NONE}", f"z = a[{', '.join(['0'] * ndim)}]"])]  # fmt: skip
        join = [f"x = a[{at}]", f"z = {step}"]
        if not start:
            join = [f"if {' + '.join(f'i{k}' for k in axes)} > 0:", *(f"    {line}" for line in join)]
        lines += [*loops(axes, lengths, join), f"return {end}"]
        return _function("a, axis=None", [*(_axis(ndim) if along else []), *lines])
    lines = [*_axis(ndim), "n = a.shape[axis]", *([] if start else ["if n == 0:", f"    {NONE}"])]
    shape = ", ".join(f"a.shape[{j} if axis <= {j - 1} else {j - 1}]" for j in axes[1:])
    lines.append(f"out = np.empty(({shape},), element_type(a))")
    for k in axes:
        rest = [j for j in axes if j != k]
        first = f"a[{', '.join('0' if j == k else f'i{j}' for j in axes)}]"
        each = [
            f"z = constant(a, {start})" if start else f"z = {first}", f"for i{k} in range({0 if start else 1}, n):",
            f"    x = a[{at}]", f"    z = {step}", f"out[{', '.join(f'i{j}' for j in rest)}] = {end}",
        ]  # fmt: skip
        lines += [f"if axis == {k}:", *(f"    {line}" for line in loops(rest, [lengths[j] for j in rest], each))]
    return _function("a, axis=None", [*lines, "return out"])


def _axis(ndim: int) -> list[str]:
    return [
        "if axis < 0:", f"    axis += {ndim}", f"if axis < 0 or axis >= {ndim}:",
        f"    raise ValueError('axis is out of bounds for an array of {ndim} dimensions')",
    ]  # fmt: skip


def is_none(t: Any) -> bool:
    """Whether an argument of this type is None, given or left out."""
    return t is None or isinstance(t, types.NoneType) or (isinstance(t, types.Omitted) and t.value is None)


def _register_reductions() -> None:
    for name in REDUCTIONS:
        for function in {getattr(np, name), getattr(np, f"a{name}", getattr(np, name))}:
            _reduction(name, function)


def _reduction(name: str, function: Any) -> None:
    def typed(a, axis=None):
        return None if recorded_array(a) is None else reduction(name, a.ndim, not is_none(axis))

    overload(function)(typed)


def _method(name: str, function: Any) -> Any:
    """The function that a call of a method, `a.sum()` or `a.sum(axis)`, is written as."""

    def method(a, axis=None):
        raise NotImplementedError

    @overload(method)
    def typed(a, axis=None):
        if recorded_array(a) is not None:
            return lambda a, axis=None: function(a, axis)
        own = f"a.{name}()" if is_none(axis) else f"a.{name}(axis)"
        return _function("a, axis=None", [f"return {own}"])

    method.__name__ = name
    return method


METHODS: dict[str, Any] = {name: _method(name, getattr(np, name)) for name in REDUCTIONS}


def _register_refused() -> None:
    def refuse(self, array):
        if recorded_array(array) is not None:
            raise TypingError("the bytes of differentiated numbers are not those of floats")

    # Asked before Numba's own, these answer where an array has recorded numbers, and else leave it to those.
    names = ("view", "ctypes", "data", "tobytes")
    refused = {f"resolve_{name}": refuse for name in names}
    infer_getattr(type("Refused", (AttributeTemplate,), {"key": types.Array, "__module__": __name__, **refused}))


def register() -> None:
    """Make all this known to Numba."""
    _register_elementwise()
    _register_where()
    _register_reductions()
    _register_refused()
