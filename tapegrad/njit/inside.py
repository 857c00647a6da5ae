"""Gradients of Numba functions, called from Numba code: no Python runs. Imports Numba.

A gradient is a function of Numba's with the parameters of the one that it is the gradient of. For arguments of each
types another one is written, which takes a tape, calls the twin, sweeps back and reads the adjoints; see `tapes`.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from numba import types
from numba.core.errors import NumbaError, TypingError
from numba.extending import overload

from tapegrad.adjoint.evaluation import checked
from tapegrad.arguments import argument_numbers
from tapegrad.errors import UnsupportedError
from tapegrad.njit import drivers, twins
from tapegrad.njit.advice import advice
from tapegrad.njit.memory import FIRST
from tapegrad.njit.numbers import OF_PARTIALS, PARTIALS, is_recorded, jit, recorded_array
from tapegrad.njit.parts import as_given, check_pair, plain, row_of, size_of, slope_of, tuple_text
from tapegrad.njit.products import function_of
from tapegrad.njit.sharing import changed, copy_if, overlap, stored_in
from tapegrad.njit.tapes import pulled, with_tape

_SHARED = (
    "a function that is differentiated changes an array that shares memory with another argument, one of which is "
    "differentiated: differentiated arguments are copied, so the change would not be seen; pass a copy"
)


class _Part(NamedTuple):
    """A leaf of an argument: how it is written, its type, and how it is handed over."""

    text: str
    type: Any
    kind: str


class _Arguments:
    """The arguments of a call, taken apart: `parts`, and `texts`, which put them together of `a0`, `a1` and so on."""

    def __init__(self, given: Sequence[Any], wanted: Sequence[int], relaxed: bool) -> None:
        self.parts: list[_Part] = []
        self.classes: dict[str, type] = {}
        self._relaxed = relaxed
        self.slices = []
        self.texts = []
        for n, t in enumerate(given):
            first = len(self.parts)
            self.texts.append(self._text(f"x{n}", t, n in wanted))
            self.slices.append((first, len(self.parts)))

    def _text(self, x: str, t: Any, wanted: bool) -> str:
        if wanted and isinstance(t, types.BaseTuple):
            return self.tuple(t, [self._text(f"{x}[{i}]", part, True) for i, part in enumerate(t)])
        is_float = isinstance(getattr(t, "dtype", t), types.Float) and isinstance(t, types.Array | types.Float)
        kind = drivers.GIVEN if wanted else drivers.PLAIN
        if not wanted and self._relaxed and is_float and isinstance(t, types.Array) and t.mutable:
            kind = drivers.KEPT
        self.parts.append(_Part(x, t, kind))
        return f"a{len(self.parts) - 1}"

    def tuple(self, t: Any, parts: Sequence[str]) -> str:
        """Text that puts parts together as a tuple type has them."""
        named = getattr(t, "instance_class", None)
        if named is None:
            return tuple_text(t, parts)
        name = f"{named.__name__}_{id(named)}"
        self.classes[name] = named
        return f"{name}({', '.join(parts)})"

    def slope(self, n: int, t: Any) -> str:
        """Text of the gradient by an argument, of `g0`, `g1` and so on."""
        at = itertools.count(self.slices[n][0])

        def text(t: Any) -> str:
            return self.tuple(t, [text(part) for part in t]) if isinstance(t, types.BaseTuple) else f"g{next(at)}"

        return text(t)


def _check(name: str, given: Sequence[Any], wanted: Sequence[int]) -> None:
    for n, t in enumerate(given):
        for leaf in _leaves(t):
            if is_recorded(leaf) or recorded_array(leaf) is not None:
                raise UnsupportedError(
                    f"the gradient of {name} is differentiated inside of Numba code: for second derivatives call "
                    "tg.hessian, tg.hvp or tg.record from Python"
                )
            of = leaf.dtype if isinstance(leaf, types.Array) else leaf
            if n in wanted and not isinstance(of, types.Float):
                raise TypingError(
                    f"argument {n} of the gradient of {name} holds {leaf}: only floats can be differentiated; convert "
                    "it with float(...) or .astype(np.float64), or leave it out of argnums"
                )


def _leaves(t: Any) -> list[Any]:
    return [leaf for part in t for leaf in _leaves(part)] if isinstance(t, types.BaseTuple) else [t]


def _inner(dispatcher: Any, given: Sequence[Any], argnums: Any, has_aux: bool, relaxed: bool, what: str) -> Any:
    """The function (tape, arguments) that computes a gradient."""
    numbers = checked(argument_numbers(argnums), len(given))
    own = _Arguments(given, numbers, relaxed)
    lines, arrays = ["count = 0"], []
    for i, part in enumerate(own.parts):
        if isinstance(part.type, types.Array):
            arrays.append(i)
        if part.kind == drivers.GIVEN:
            lines += [f"at{i} = {FIRST} + count", f"count += size_of({part.text})"]
            lines.append(f"a{i} = lift(kind, tape, {part.text})")
        elif part.kind == drivers.KEPT:
            lines.append(f"a{i} = keep(kind, {part.text})")
        else:
            lines.append(f"a{i} = {part.text}")
    before, after = _sharing(own.parts, arrays)
    lines += [*before, f"found = lower(function({', '.join(own.texts)}))", *after]
    lines += [f"put_back(a{i}, {part.text})" for i, part in enumerate(own.parts) if part.kind == drivers.KEPT]
    if has_aux:
        lines.append("check_pair(found)")
    lines.append(f"adjoints = pulled(tape, row_of({'found[0]' if has_aux else 'found'}), count)")
    lines += [f"g{i} = slope_of({part.text}, adjoints, at{i})" for i, part in enumerate(own.parts)
              if part.kind == drivers.GIVEN]  # fmt: skip
    slopes = [own.slope(n, given[n]) for n in numbers]
    slope = slopes[0] if isinstance(argnums, int) else f"({', '.join(slopes)},)"
    if what == "grad":
        lines.append(f"return {slope}, plain(found[1])" if has_aux else f"return {slope}")
    else:
        lines.append(f"return plain(found), {slope}")
    names = ", ".join(["tape", *(f"x{n}" for n in range(len(given)))])
    space: dict[str, Any] = {
        "kind": OF_PARTIALS, "function": twins.twin(dispatcher, PARTIALS, relaxed), "lift": drivers.lift,
        "keep": drivers.keep, "lower": drivers.lower, "put_back": drivers.put_back, "overlap": overlap,
        "copy_if": copy_if, "changed": changed, "stored_in": stored_in, "UnsupportedError": UnsupportedError,
        "plain": plain, "row_of": row_of, "size_of": size_of, "slope_of": slope_of, "pulled": pulled,
        "check_pair": check_pair, **own.classes,
    }  # fmt: skip
    return jit(function_of(names, lines, **space))


def _sharing(parts: Sequence[_Part], arrays: Sequence[int]) -> tuple[list[str], list[str]]:
    """Lines before and after the call, for arrays that share memory."""
    before: list[str] = []
    after: list[str] = []
    refuse = f"    raise UnsupportedError({_SHARED!r})"
    for i, j in itertools.combinations(arrays, 2):
        kinds = {parts[i].kind, parts[j].kind}
        if kinds == {drivers.PLAIN}:
            continue
        before.append(f"shared{i}_{j} = overlap({parts[i].text}, {parts[j].text})")
        if drivers.KEPT in kinds:
            before += [f"if shared{i}_{j}:", refuse]
            continue
        for k in (i, j):
            if parts[k].kind == drivers.GIVEN:
                after += [f"if shared{i}_{j} and stored_in(a{k}, at{k}):", refuse]
            else:
                before.append(f"before{i}_{j} = copy_if({parts[k].text}, shared{i}_{j})")
                after += [f"if shared{i}_{j} and changed({parts[k].text}, before{i}_{j}):", refuse]
    return before, after


_compiled: dict[Any, Any] = {}


def _gradient_for(dispatcher: Any, given: tuple[Any, ...], argnums: Any, has_aux: bool, what: str) -> Any:
    """The compiled function (tape, arguments) for arguments of these types."""
    key = dispatcher, given, argnums, has_aux, what
    if key in _compiled:
        return _compiled[key]
    name = dispatcher.__qualname__
    _check(name, given, checked(argument_numbers(argnums), len(given)))
    twins.prepare()
    failed: Any = None
    for relaxed in (False, True):
        made = _inner(dispatcher, given, argnums, has_aux, relaxed, what)
        try:
            made.compile((types.int64, *given))
        except NumbaError as error:
            failed = error
        else:
            _compiled[key] = made
            return made
    raise UnsupportedError(advice(dispatcher, failed)) from failed


@functools.cache
def _function(dispatcher: Any, what: str, argnums: Any, has_aux: bool) -> Any:
    """The function of Numba's that computes a gradient."""

    def answer(*args):
        pass

    @overload(answer)
    def _answer(*args):
        given = tuple(types.unliteral(t) for t in (args[0] if len(args) == 1 and _is_star(args[0]) else args))
        inner = _gradient_for(dispatcher, given, argnums, has_aux, what)
        return lambda *args: with_tape(inner, args)

    parameters = inspect.signature(dispatcher.py_func).parameters.values()
    taken, passed = [], []
    space: dict[str, Any] = {"answer": answer, "as_given": as_given}
    for p in parameters:
        star = "*" if p.kind == p.VAR_POSITIONAL else ""
        default = ""
        if p.default is not p.empty:
            space[f"default_{p.name}"] = p.default
            default = f"=default_{p.name}"
        taken.append(f"{star}{p.name}{default}")
        passed.append(f"*{p.name}" if star else f"as_given({p.name})")
    exec(f"def gradient({', '.join(taken)}):\n    return answer({', '.join(passed)})", space)
    made = space["gradient"]
    made.__qualname__ = made.__name__ = f"{what}_of_{dispatcher.__name__}"
    return jit(made)


def _is_star(t: Any) -> bool:
    return isinstance(t, types.StarArgTuple | types.StarArgUniTuple)


def numba_type(dispatcher: Any, what: str, argnums: Any, has_aux: bool) -> Any:
    """The type of `tg.grad(f)`, or with `what` of `tg.value_and_grad(f)`, for a function of Numba's."""
    return types.Dispatcher(_function(dispatcher, what, argnums, bool(has_aux)))


