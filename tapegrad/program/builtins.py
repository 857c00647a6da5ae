"""Python's `max`, `min`, `sorted`, `any`, `all`, and functions of `math`, on Values that are being recorded.

Each does exactly what the original does, the choice at ties and at NaN included, but records what can be recorded: a
larger number is chosen by `where`, and truths are put together before one guard asks for them. Where Values are not
involved the original is called.
"""

from __future__ import annotations

import builtins
import functools
import math
import operator
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tapegrad.names import offer
from tapegrad.ops import BY_NAME
from tapegrad.tape.ambient import ambient
from tapegrad.value import Value, apply

# The originals, for use here, whatever the names stand for meanwhile.
_MAX, _ALL, _ANY, _SORTED = max, all, any, sorted
# Classes whose comparisons are truths of Python.
_PLAIN = frozenset((int, float, str, bool, np.float64))
_OWN = __name__.partition(".")[0] + "."
# Truths that are put together before somebody asks for them.
_TRUTHS_AT_ONCE = 1024


def _is_recorded(x: Any) -> bool:
    """Whether this is one number that is being recorded."""
    return isinstance(x, Value) and x._layout is None and x._tape is ambient.recording


def _is_number(x: Any) -> bool:
    return _is_recorded(x) or isinstance(x, int | float | np.number)


def _stands_for(original: Callable[..., Any]) -> Callable[[Any], Any]:
    """Decorator: for calls while nothing is being recorded, and for those that this package makes, the original."""

    def decorate(function: Any) -> Any:
        @functools.wraps(original)
        def either(*args: Any, **kwargs: Any) -> Any:
            if ambient.recording is None or sys._getframe(1).f_globals.get("__name__", "").startswith(_OWN):
                return original(*args, **kwargs)
            return function(*args, **kwargs)

        return either

    return decorate


def _chosen(better: Any, item: Any, best: Any, known: Any, others: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """One step of max or min: (item, *others) where `item` is better, else (best, *known); None where that takes a
    guard, because some of them are no numbers."""
    if not _is_recorded(better):
        return (item, *others) if better else (best, *known)
    if not _ALL(map(_is_number, (item, best, *known, *others))):
        return None
    return tuple(apply(BY_NAME["where"], (better, x, y)) for x, y in zip((item, *others), (best, *known), strict=True))


def _extreme(original: Any, is_better: Callable[[Any, Any], Any]) -> Any:
    @_stands_for(original)
    def extreme(*args: Any, **kwargs: Any) -> Any:
        if not args or not kwargs.keys() <= {"key", "default"} or (len(args) > 1 and "default" in kwargs):
            return original(*args, **kwargs)
        key = kwargs.get("key")
        if len(args) == 1 and _holds_plain(args[0]):
            if key is None or not len(args[0]):
                return original(*args, **kwargs)
            return _by_key(original, is_better, [*args[0]], key)
        items = iter(args[0] if len(args) == 1 else args)
        try:
            best = next(items)
        except StopIteration:
            return original((), **kwargs)
        if key is not None:
            return _by_key(original, is_better, [best, *items], key)
        for item in items:
            if type(item) in _PLAIN and type(best) in _PLAIN:
                best = item if is_better(item, best) else best
                continue
            if _both_whole(item, best):
                best = _whole(original, item, best)
                continue
            better = is_better(item, best)
            found = _chosen(better, item, best, (), ())
            best = found[0] if found else item if better else best
        return best

    return extreme


def _holds_plain(items: Any) -> bool:
    # What cannot hold Values. A loop of Python over many numbers takes much longer than the original.
    return type(items) in (range, str, bytes) or (isinstance(items, np.ndarray) and items.dtype != object)


def _both_whole(x: Any, y: Any) -> bool:
    # Integers that are being recorded: a comparison of these would be a guard.
    return _ANY(isinstance(v, Value) and v._is_integer for v in (x, y)) and _ALL(
        isinstance(v, int) and not isinstance(v, bool) for v in (x, y)
    )


def _whole(original: Any, item: Any, best: Any) -> Any:
    return (np.maximum if original is _MAX else np.minimum)(best, item)


def _by_key(original: Any, is_better: Callable[[Any, Any], Any], items: list[Any], key: Callable[[Any], Any]) -> Any:
    keys = [key(x) for x in items]
    if not _ALL(map(_is_number, keys)) or not _ANY(map(_is_recorded, keys)):
        return items[original(range(len(items)), key=keys.__getitem__)]
    if _ALL(_is_number(x) and not isinstance(x, bool | np.bool_) and not _is_whole(x) for x in items):
        # The items are numbers themselves: they are chosen without anybody knowing which.
        best, known = keys[0], (items[0],)
        for k, item in zip(keys[1:], items[1:], strict=True):
            found = _chosen(is_better(k, best), k, best, known, (item,))
            assert found is not None
            best, known = found[0], found[1:]
        return known[0]
    best, at = keys[0], (0,)
    for j, k in enumerate(keys[1:], 1):
        found = _chosen(is_better(k, best), k, best, at, (j,))
        assert found is not None
        best, at = found[0], found[1:]
    return items[int(at[0])]


def _is_whole(x: Any) -> bool:
    return isinstance(x, int | np.integer)


offer(builtins, "max", _extreme(max, operator.gt))
offer(builtins, "min", _extreme(min, operator.lt))

@_stands_for(sorted)
def _in_order(*args: Any, **kwargs: Any) -> Any:
    if len(args) != 1 or not kwargs.keys() <= {"key", "reverse"} or (_holds_plain(args[0]) and not kwargs.get("key")):
        return _SORTED(*args, **kwargs)
    items, key, reverse = list(args[0]), kwargs.get("key"), bool(kwargs.get("reverse", False))
    keys = items if key is None else [key(x) for x in items]
    fit = len(keys) > 1 and _ALL(map(_is_number, keys)) and _ANY(_is_recorded(x) and not _is_whole(x) for x in keys)
    if not fit and key is None:
        return _SORTED(items, reverse=reverse)
    if not fit:
        return [items[i] for i in _SORTED(range(len(items)), key=keys.__getitem__, reverse=reverse)]
    # Equal elements keep their order, also where the largest comes first.
    stacked: Any = np.stack([-x if reverse else x for x in keys])
    if key is None:
        found: Any = np.sort(stacked)
        return list(-found if reverse else found)
    return [items[i] for i in np.argsort(stacked)]


offer(builtins, "sorted", _in_order)


def _truth(original: Any, ending: bool, together: Any) -> Any:
    def decided(waiting: list[Any]) -> bool:
        return bool(functools.reduce(lambda x, y: apply(together, (x, y)), waiting)) if waiting else not ending

    @_stands_for(original)
    def truth(*args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or _holds_plain(args[0]):
            return original(*args, **kwargs)
        waiting: list[Any] = []
        try:
            for x in args[0]:
                if _is_recorded(x) and not x._is_integer:
                    waiting.append(x)
                    if len(waiting) == _TRUTHS_AT_ONCE:
                        if decided(waiting) is ending:
                            return ending
                        waiting = []
                elif (x if x is True or x is False else bool(x)) is ending:
                    return ending
        except Exception:
            # The original would not have asked for this one if an earlier one had decided.
            if waiting and decided(waiting) is ending:
                return ending
            raise
        return decided(waiting)

    return truth


offer(builtins, "any", _truth(any, True, BY_NAME["logical_or"]))
offer(builtins, "all", _truth(all, False, BY_NAME["logical_and"]))


def _of_numbers(original: Any, function: Callable[..., Any]) -> Any:
    """A function of `math` whose arguments are numbers."""

    @_stands_for(original)
    def recorded(*args: Any) -> Any:
        if not _ANY(map(_is_recorded, args)):
            return original(*args)
        return function(*[apply(BY_NAME["copy"], (x,)) if isinstance(x, Value) and x._is_integer else x for x in args])

    return recorded


def _of_items(original: Any, function: Callable[..., Any]) -> Any:
    """A function of `math` whose first argument is iterable."""

    @_stands_for(original)
    def recorded(items: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        found = list(items)
        held = _is_recorded(kwargs.get("start")) or _ANY(map(_is_recorded, [*found, *(args[0] if args else ())]))
        return (function if held else original)(found, *args, **kwargs)

    return recorded


def _log(x: Any, base: Any = None) -> Any:
    return np.log(x) if base is None else np.log(x) / np.log(base)


def _hypot(*x: Any) -> Any:
    return functools.reduce(np.hypot, x) if len(x) > 1 else abs(x[0])


def _fmod(x: Any, y: Any) -> Any:
    size = np.remainder(np.abs(x), np.abs(y))
    return np.where(x < 0.0, -size, size)


def _copysign(x: Any, y: Any) -> Any:
    negative = np.logical_or(y < 0.0, np.logical_and(y == 0.0, np.divide(1.0, y) < 0.0))
    return np.where(negative, -abs(x), abs(x))


def _dist(p: Any, q: Any) -> Any:
    return _hypot(*[x - y for x, y in zip(p, q, strict=True)])


_SAME = [
    "sqrt", "cbrt", "exp", "exp2", "expm1", "log2", "log10", "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh",
    "fabs", "degrees", "radians",
]  # fmt: skip
_OTHERS: dict[str, Any] = {
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "atan2": np.arctan2, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "pow": operator.pow, "log": _log, "hypot": _hypot, "fmod": _fmod,
    "copysign": _copysign, "erf": BY_NAME["erf"],
    "isnan": lambda x: bool(np.isnan(x)), "isinf": lambda x: bool(np.isinf(x)),
    "isfinite": lambda x: bool(np.isfinite(x)),
}  # fmt: skip
for _name, _function in {**{name: getattr(np, name) for name in _SAME}, **_OTHERS}.items():
    # Some are in newer versions of Python only.
    if hasattr(math, _name):
        offer(math, _name, _of_numbers(getattr(math, _name), _function))
offer(math, "fsum", _of_items(math.fsum, lambda items: np.sum(np.stack(items))))
offer(math, "prod", _of_items(math.prod, lambda items, *, start=1: functools.reduce(operator.mul, items, start)))
offer(math, "dist", _of_items(math.dist, _dist))
