"""What is kept with a function for as long as it lives."""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any, TypeVar

T = TypeVar("T")

_NAME = "__tapegrad__"
# Of bound methods and other callables, of which a new one may be made at each use, so many are remembered.
_REMEMBERED = 16
_recent: OrderedDict[Any, _Attached] = OrderedDict()


class _Attached(dict[Any, Any]):
    """Things by name. `of` refers to the function that they belong to: `functools.wraps` copies the attributes of one
    function to another, to which they do not."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.of = of

    def __reduce__(self) -> Any:
        # Whoever copies or pickles a function does not want what is kept with it.
        return _Attached, (None,)


class Weak:
    """A function, which is not kept alive: what is kept with a function refers to it like this.

    Otherwise there would be a circle, and its memory would be free only when Python looks for circles.
    """

    __slots__ = ("__weakref__", "_of")

    def __init__(self, of: Callable[..., Any]) -> None:
        self._of = weakref.ref(of)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return strong(self)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(strong(self), name)


def strong(f: Any) -> Any:
    """The function that a weak one refers to; any other as it is.

    Raises ReferenceError where it is gone.
    """
    if not isinstance(f, Weak):
        return f
    found = f._of()
    if found is None:
        raise ReferenceError("a function is gone whose recording is still used")
    return found


def named_like(f: Any) -> Callable[[T], T]:
    """Decorator: give a function the name of another, without referring to that, as `functools.wraps` would."""
    return functools.partial(_named, f)


def _named(f: Any, function: Any) -> Any:
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        with suppress(AttributeError):
            setattr(function, name, getattr(strong(f), name))
    return function


def attached(f: Callable[..., Any], name: str, make: Callable[[Any], T]) -> T:
    """What is kept with a function under a name; `make(f)` where there is nothing yet, in which f is a `Weak` one.

    It goes when the function goes: it is an attribute of it. For a bound method, of which Python makes a new one at
    each use, and for other callables, it goes when many others have been used since; but for those whose class says
    that it `keeps_attached`.
    """
    f = strong(f)
    lasts = isinstance(f, FunctionType) or getattr(type(f), "keeps_attached", False)
    if lasts:
        store = f.__dict__.get(_NAME)
        if store is None or store.of is None or store.of() is not f:
            store = f.__dict__[_NAME] = _Attached(weakref.ref(f))
    else:
        store = _of_callable(f)
    found = store.get(name)
    if found is None:
        # Another thread may be making it as well; all use what came first.
        found = store.setdefault(name, make(Weak(f) if lasts else store.of))
    return found


def _of_callable(f: Any) -> _Attached:
    key = (id(f.__self__), f.__func__) if isinstance(f, MethodType) else (id(f), None)
    store = _recent.get(key)
    if store is None:
        # It holds the callable, so that no other object has its identity in the meantime.
        store = _recent.setdefault(key, _Attached(f))
        while len(_recent) > _REMEMBERED:
            _recent.popitem(last=False)
    else:
        # Another thread may have just forgotten it.
        with suppress(KeyError):
            _recent.move_to_end(key)
    return store
