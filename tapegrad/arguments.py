"""The arguments of a call: how they are nested, which leaves are inputs of a recording, and which are part of it."""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.carried import RecordedGenerator, generators_in, is_generator
from tapegrad.errors import CutGradientError, DTypeError, IntegerInputError, StructureError, UnsupportedError
from tapegrad.value import Value, refuse_unlike
from tapegrad.value.exact import limit


class Spec(NamedTuple):
    """The arguments that a recording was made for: how they are nested, and each leaf as an `Input` or a `Static`.

    Two calls with equal specs can use the same recording.
    """

    structure: Any
    leaves: tuple[Any, ...]


def argument_numbers(argnums: Any) -> tuple[int, ...]:
    """`argnums` as a tuple. Raises TypeError for anything but whole numbers."""
    given = argnums if isinstance(argnums, tuple | list) else (argnums,)
    try:
        numbers = tuple(operator.index(n) for n in given)
    except TypeError:
        numbers = ()
    if not numbers or any(isinstance(n, bool) for n in given):
        raise StructureError(f"argnums must be a whole number or a tuple of them, not {argnums!r}")
    return numbers


def plain_key(args: Sequence[Any]) -> tuple[Any, ...] | None:
    """A key for calls whose arguments are arrays and plain numbers: equal where their specs are. None for any other
    call."""
    key = []
    for x in args:
        kind = x.__class__
        if kind is np.ndarray:
            key.append(x.dtype.char)
            key.append(x.shape)
        elif kind is float:
            key.append("")
        elif kind is int and -SURE < x < SURE:
            key.append("i")
        else:
            return None
    return tuple(key)


class Static(NamedTuple):
    """A leaf that is part of the program, not of its input: a flag, a name, a function."""

    kind: type
    value: Hashable


class Input(NamedTuple):
    """A leaf that replays may change: a number or an array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    scalar: bool

    @property
    def is_integer(self) -> bool:
        """Whether it is a whole number, not an array of them."""
        return self.scalar and self.dtype.kind == "i"


_FLOAT = Input((), np.dtype(np.float64), True)
INTEGER = Input((), np.dtype(np.int64), True)
# A generator of random numbers: every replay draws from the one that it is given. Where there are several, they are
# numbered, as two arguments may be one generator.
GENERATOR = Static(RecordedGenerator, 0)
# Whole numbers below are exact in either dtype.
SURE = 2**24


def leaf_spec(x: Any) -> Any:
    """What a leaf contributes to the key under which a recording is kept.

    Floats, integers and arrays are inputs; booleans, strings, None, functions and other hashable objects are part of
    the program, and so are integers that are too large to be exact as floats. Raises CutGradientError, DTypeError,
    StructureError for what can be neither.
    """
    if isinstance(x, np.ndarray):
        dtype = x.dtype
        if x.__class__ is not np.ndarray:
            refuse_unlike(x, "an argument")
        if not dtype.isnative:
            dtype = dtype.newbyteorder("=")
        if dtype.kind not in "fiub":
            raise DTypeError(f"an argument is an array of {dtype}; arrays must be real")
        if not x.shape and dtype.kind in "iu":
            return leaf_spec(x[()])
        # This takes half the time of Input(...), and every call does it for each of its arrays. An array without axes
        # counts as a number, because NumPy's arithmetic turns it into one.
        return tuple.__new__(Input, (x.shape, dtype, not x.shape and dtype.kind == "f"))
    if isinstance(x, float | np.floating):
        return _FLOAT if not isinstance(x, np.float32) else Input((), np.dtype(np.float32), True)
    if isinstance(x, Value) and x.tape.recording:
        raise UnsupportedError(
            "a recording is made at plain numbers, not at Values that are being recorded: call the function itself"
        )
    if isinstance(x, Value):
        raise CutGradientError(
            "an argument is a Value of another tape, whose gradient would be cut: pass v.data, or call the function "
            "itself"
        )
    # Not subclasses: a function may ask for the very member of an IntEnum.
    if type(x) is int or isinstance(x, np.integer):
        return INTEGER if abs(int(x)) <= limit(np.dtype(np.float64)) else Static(int, int(x))
    if isinstance(x, complex | np.complexfloating):
        raise DTypeError("an argument is complex; numbers must be real")
    if is_generator(x):
        return GENERATOR
    try:
        hash(x)
    except (TypeError, ValueError):
        # A memoryview that can be written to raises a ValueError.
        raise StructureError(
            f"an argument holds a {type(x).__name__}, which is neither a number, an array, a container nor hashable"
        ) from None
    return Static(type(x), x)


def spec_of(args: Sequence[Any]) -> tuple[Spec, list[Any]]:
    """The key of a call, and the leaves of its arguments."""
    leaves, structure = pytree.flatten(tuple(args))
    spec = Spec(structure, tuple([leaf_spec(x) for x in leaves]))
    if INTEGER in spec.leaves and dtype_of(spec) == np.float32:
        # Fewer integers are exact there.
        most = limit(np.dtype(np.float32))
        own = [Static(int, int(x)) if s is INTEGER and abs(int(x)) > most else s for x, s in zip(leaves, spec.leaves)]
        spec = Spec(structure, tuple(own))
    if GENERATOR in spec.leaves:
        spec = Spec(structure, _numbered(spec.leaves, leaves))
    return spec, leaves


def _numbered(specs: Sequence[Any], leaves: Sequence[Any]) -> tuple[Any, ...]:
    each = generators_in(leaves)
    return tuple([
        Static(GENERATOR.kind, next(n for n, g in enumerate(each) if g is x)) if s == GENERATOR else s
        for s, x in zip(specs, leaves, strict=True)
    ])  # fmt: skip


def dtype_of(spec: Spec) -> np.dtype:
    """The dtype of a recording: the widest of its float arrays, or where there are none of its floats, at least
    float32. Raises DTypeError for floats that are wider than float64."""
    floats = {i.dtype for i in spec.leaves if isinstance(i, Input) and i.dtype.kind == "f" and not i.scalar}
    floats = floats or {i.dtype for i in spec.leaves if isinstance(i, Input) and i.dtype.kind == "f"}
    return real_dtype(floats, "an argument")


def real_dtype(floats: Collection[np.dtype], what: str) -> np.dtype:
    """The dtype of a tape that holds numbers of these dtypes as they are: float32 or float64, the latter where there
    are none. Raises DTypeError for what is wider."""
    widest = np.result_type(np.float32, *floats) if floats else np.dtype(np.float64)
    if widest.itemsize > 8:
        raise DTypeError(
            f"{what} is an array of {widest}: a tape holds float64 or float32; convert it with .astype(float)"
        )
    return widest


def owners(structure: Any) -> list[int]:
    """For each leaf, the number of the argument that holds it."""
    return [n for n, node in enumerate(pytree.children(structure)) for _ in range(pytree.count(node))]


def difference(recorded: Spec, given: Spec) -> str:
    """How the arguments of a call differ from those of a recording, in words."""
    before, now = pytree.children(recorded.structure), pytree.children(given.structure)
    if len(before) != len(now):
        return f"recorded with {len(before)} arguments, called with {len(now)}"
    for n, (one, other) in enumerate(zip(before, now, strict=True)):
        if one != other:
            return _apart(f"argument {n}", one, other)
    owner = owners(recorded.structure)
    for i, (a, b) in enumerate(zip(recorded.leaves, given.leaves, strict=True)):
        if a != b:
            return f"argument {owner[i]}: recorded with {described(a)}, called with {described(b)}"
    return "the arguments differ from those recorded"


def _apart(where: str, one: Any, other: Any) -> str:
    """Where two structures that are not equal differ first, and how."""
    plain = f"{where}: recorded as {_nesting(one)}, called with {_nesting(other)}"
    if pytree.is_leaf(one) or pytree.is_leaf(other):
        return plain
    kind, kind_now = pytree.kind(one), pytree.kind(other)
    if kind is not kind_now:
        if kind.__name__ == kind_now.__name__:
            return (
                f"{plain}, which is another class of that name; for a recording from a file, "
                f"tg.load(path, classes=[{kind.__name__}]) takes yours"
            )
        return plain
    names, names_now = pytree.names(one), pytree.names(other)
    keyed = issubclass(kind, dict)
    if keyed and names != names_now:
        lacks, more = [k for k in names if k not in names_now], [k for k in names_now if k not in names]
        if not lacks and not more:
            parts, now = (dict(zip(pytree.names(x), pytree.children(x), strict=True)) for x in (one, other))
            for name in names:
                if not pytree.same_but_for_order(parts[name], now[name]):
                    return _apart(f"{where}[{name!r}]", parts[name], now[name])
            return f"{where}: recorded with the keys in the order {names}, called with {names_now}"
        said = [f"{what} {keys}" for what, keys in (("without the keys", lacks), ("with the other keys", more)) if keys]
        return f"{where}: recorded as a {kind.__name__} with the keys {names}, called {' and '.join(said)}"
    if len(names) != len(names_now):
        return plain
    for name, a, b in zip(names, pytree.children(one), pytree.children(other), strict=True):
        if a != b:
            return _apart(f"{where}.{name}" if isinstance(name, str) and not keyed else f"{where}[{name!r}]", a, b)
    return f"{plain}, which differ in what is no number or array in them"


def _nesting(node: Any) -> str:
    if pytree.is_leaf(node):
        return "a number or array"
    return f"a {pytree.kind(node).__name__} of {len(pytree.children(node))}"


def described(leaf: Any) -> str:
    """A leaf of a spec, in words."""
    if isinstance(leaf, Input):
        if leaf == INTEGER:
            return "an integer"
        return f"a {leaf.dtype} number" if leaf.scalar else f"a {leaf.dtype} array of shape {leaf.shape}"
    return in_words(leaf.value) if leaf.kind is not GENERATOR.kind else "a random generator"


def in_words(x: Any) -> str:
    """What an argument holds that is neither a float nor an array of floats."""
    if is_generator(x) or isinstance(x, RecordedGenerator):
        return "a random generator"
    if isinstance(x, np.ndarray):
        return f"an array of {x.dtype}"
    return "an integer" if isinstance(x, int | np.integer) and not isinstance(x, bool) else repr(x)


def not_floats(argument: int, held: str) -> IntegerInputError:
    """The error for an argument that is to be differentiated and holds something else, in words."""
    advice = "convert it with float(...) or .astype(float), or leave it out of argnums"
    if held == "a random generator":
        advice = "pass the generator as an argument of its own, as in tg.grad(f)(w, rng), and leave that out of argnums"
    return IntegerInputError(f"argument {argument} holds {held}: only floats can be differentiated; {advice}")
