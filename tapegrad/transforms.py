"""`grad` and `value_and_grad`: recorded at the first call, replayed afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tapegrad.arguments import Spec, argument_numbers, plain_key, spec_of
from tapegrad.recording import Recording

# A static argument that is another one at every call would fill the memory with recordings.
MAX_RECORDINGS = 128


def _keep(known: dict[Any, Recording], key: Any, recording: Recording) -> Recording:
    """Keep a recording, in place of the oldest where there are too many."""
    while len(known) >= MAX_RECORDINGS:
        del known[next(iter(known))]
    known[key] = recording
    return recording


class _Recordings:
    """The recordings of one function, by structure, shapes, dtypes and static arguments."""

    def __init__(self, f: Callable[..., Any], argnums: Sequence[int], extra: int = 0) -> None:
        self.f = f
        # Arguments after those that argnums counts.
        self.extra = extra
        self.argnums = argnums
        self.known: dict[Spec, Recording] = {}

    def at(self, args: Sequence[Any]) -> tuple[Recording, list[Any]]:
        spec, leaves = spec_of(args)
        recording = self.known.get(spec)
        if recording is None:
            n = len(args) - self.extra
            recording = Recording(self.f, spec, leaves, [a % n if -n <= a < n else a for a in self.argnums])
            _keep(self.known, spec, recording)
        return recording, leaves


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """A function that computes f and its gradient.

    Args:
        f: returns one number; or, with `has_aux`, (number, anything else), the rest being handed through as numbers.
        argnums: the argument, or arguments, to differentiate with respect to.
        has_aux: whether f returns more than the number to differentiate.

    The first call for given shapes, dtypes and static arguments records f; later ones replay. At most 128 recordings
    are kept. Keyword arguments are passed on, and not differentiated.

    Raises NonScalarError, IntegerInputError, and what `record` raises.

    What f takes from around it is part of the recording: numbers and arrays are those of the first call, random numbers
    are drawn once. Pass as an argument what is to vary.

    >>> value_and_grad(lambda x, y: x * y)(2.0, 3.0)
    (6.0, 3.0)
    """
    numbers = argument_numbers(argnums)
    argnums = numbers if isinstance(argnums, tuple | list) else numbers[0]
    positional = _Recordings(f, numbers)
    with_keywords = _Recordings(lambda *args: f(*args[:-1], **args[-1]), numbers, extra=1)
    quick: dict[Any, Recording] = {}

    @functools.wraps(f)
    def evaluate(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        # Calls with nothing but arrays and floats are the common ones, and the ones whose overhead shows.
        plain = None if kwargs else plain_key(args)
        if plain is not None:
            recording = quick.get(plain)
            if recording is None:
                recording = _keep(quick, plain, positional.at(args)[0])
            return recording.evaluate(args, argnums, has_aux)
        if kwargs:
            # One more argument, never differentiated.
            wanted = tuple(n % len(args) if args and -len(args) <= n < 0 else n for n in numbers)
            if any(not 0 <= n < len(args) for n in wanted):
                raise IndexError(f"argnums is {argnums}, the call has {len(args)} positional arguments")
            recording, leaves = with_keywords.at((*args, kwargs))
            return recording.evaluate(leaves, wanted[0] if isinstance(argnums, int) else wanted, has_aux)
        recording, leaves = positional.at(args)
        return recording.evaluate(leaves, argnums, has_aux)

    return evaluate


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that computes the gradient of f; with `has_aux`, (gradient, aux). See `value_and_grad`.

    >>> import numpy as np
    >>> grad(lambda x: np.sum(x * x))(np.array([1.0, 2.0]))
    array([2., 4.])
    """
    both = value_and_grad(f, argnums, has_aux)

    @functools.wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, result = both(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return gradient
