"""Gradients of Numba functions, called from Numba code: no Python runs. Imports Numba.

A gradient is a function of Numba's with the parameters of the one that it is the gradient of. For arguments of each
types another one is written, which takes a tape, calls the twin, sweeps back and reads the adjoints; see `tapes`.
"""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

from numba import typeof, types
from numba.core.errors import NumbaError, TypingError
from numba.core.imputils import lower_constant
from numba.core.typing import fold_arguments, signature
from numba.core.utils import pysignature
from numba.extending import NativeValue, lower_builtin, models, register_model, unbox

from tapegrad.adjoint.evaluation import checked
from tapegrad.arguments import argument_numbers
from tapegrad.errors import UnsupportedError
from tapegrad.njit import drivers, twins
from tapegrad.njit.advice import refused
from tapegrad.njit.arrays import loops
from tapegrad.njit.memory import FIRST
from tapegrad.njit.numbers import OF_PARTIALS, PARTIALS, Kind, is_recorded, jit, recorded_array
from tapegrad.njit.parts import check_pair, plain, row_of, tuple_text
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


def _inner(
    dispatcher: Any, given: Sequence[Any], what: str, argnums: Any, has_aux: bool, relaxed: bool
) -> Any:  # fmt: skip
    """The function (tape, arguments) that computes value and gradient; with `what` "grad" gradient and aux."""
    numbers = checked(argument_numbers(argnums), len(given))
    own = _Arguments(given, numbers, relaxed)
    lines, arrays = ["count = 0"], []
    for i, part in enumerate(own.parts):
        if isinstance(part.type, types.Array):
            arrays.append(i)
        if part.kind == drivers.GIVEN:
            size = f"{part.text}.size" if isinstance(part.type, types.Array) else "1"
            lines += [f"at{i} = {FIRST} + count", f"count += {size}"]
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
    for i, part in enumerate(own.parts):
        if part.kind == drivers.GIVEN:
            lines += _slope(i, part)
    slopes = [own.slope(n, given[n]) for n in numbers]
    slope = slopes[0] if isinstance(argnums, int) else f"({', '.join(slopes)},)"
    lines.append(f"return {slope}, plain(found[1])" if what == "grad" else f"return plain(found), {slope}")
    names = ", ".join(["tape", *(f"x{n}" for n in range(len(given)))])
    space: dict[str, Any] = {
        "kind": OF_PARTIALS, "function": twins.twin(dispatcher, PARTIALS, relaxed), "lift": drivers.lift,
        "keep": drivers.keep, "lower": drivers.lower, "put_back": drivers.put_back, "overlap": overlap,
        "copy_if": copy_if, "changed": changed, "stored_in": stored_in, "UnsupportedError": UnsupportedError,
        "plain": plain, "row_of": row_of, "pulled": pulled, "check_pair": check_pair, **own.classes,
    }  # fmt: skip
    return jit(function_of(names, lines, **space))


def _slope(i: int, part: _Part) -> list[str]:
    """Lines that read the gradient by an argument, or by a part of it, of the adjoints."""
    if not isinstance(part.type, types.Array):
        return [f"g{i} = adjoints[at{i}]"]
    axes = list(range(part.type.ndim))
    body = [f"g{i}[{', '.join(f'i{k}' for k in axes) or '()'}] = adjoints[at{i}]", f"at{i} += 1"]
    shape = [f"{part.text}.shape[{k}]" for k in axes]
    return [f"g{i} = np.empty({part.text}.shape, np.{part.type.dtype})", *loops(axes, shape, body)]


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


@functools.cache
def _compiled(dispatcher: Any, given: tuple[Any, ...], what: str, argnums: Any, has_aux: bool) -> Any:
    """What Numba has made of the function (tape, arguments) for arguments of these types."""
    _check(dispatcher.__qualname__, given, checked(argument_numbers(argnums), len(given)))
    twins.prepare()
    failed: Any = None
    for relaxed in (False, True):
        made = _inner(dispatcher, given, what, argnums, has_aux, relaxed)
        try:
            made.compile((types.int64, *given))
        except NumbaError as error:
            failed = error
        else:
            return made.overloads[(types.int64, *given)]
    raise refused(dispatcher, failed) from None


class Gradient(types.Callable):
    """The type of a gradient of a function of Numba's, or with `what` of value and gradient."""

    def __init__(self, dispatcher: Any, what: str, argnums: Any, has_aux: bool) -> None:
        self.dispatcher, self.what, self.argnums, self.has_aux = dispatcher, what, argnums, has_aux
        # Numba may find the type by its name in another process, where there are other functions.
        name = f"{what} by {argnums} of {dispatcher.__qualname__} ({has_aux}, {_unique(dispatcher)})"
        super().__init__(name=name)

    def get_call_type(self, context: Any, args: Any, kws: Any) -> Any:
        """The signature of a call, which is compiled by then. Raises UnsupportedError where it cannot be, TypingError
        for numbers that are no floats, NonScalarError and StructureError for results that have no gradient."""
        pysig = pysignature(self.dispatcher.py_func)
        given = tuple(
            fold_arguments(
                pysig, [types.unliteral(t) for t in args], {name: types.unliteral(t) for name, t in kws.items()},
                lambda index, parameter, t: t, lambda index, parameter, default: typeof(default),
                lambda index, parameter, ts: types.Tuple(tuple(ts)),
            )
        )  # fmt: skip
        returned = self.compiled(given).signature.return_type
        returned = returned[1] if self.alone else returned
        return signature(returned, *given, recvr=self).replace(pysig=pysig)

    def compiled(self, given: Sequence[Any]) -> Any:
        """What Numba has made of the call with arguments of these types, of which the last is a tuple of all others
        where the function takes any number of them."""
        flat = (*given[:-1], *given[-1]) if self.takes_any else tuple(given)
        return _compiled(self.dispatcher, flat, "both" if self.alone else self.what, self.argnums, self.has_aux)

    @property
    def alone(self) -> bool:
        """Whether it is the gradient in what the function for value and gradient returns."""
        return self.what == "grad" and not self.has_aux

    @functools.cached_property
    def takes_any(self) -> bool:
        """Whether the function takes any number of arguments."""
        parameters = pysignature(self.dispatcher.py_func).parameters.values()
        return any(p.kind == p.VAR_POSITIONAL for p in parameters)

    def get_call_signatures(self) -> Any:
        """None are known before somebody calls."""
        return (), True

    def get_impl_key(self, sig: Any) -> Any:
        """What the code of a call is found by."""
        return _KEY


_KEY = "gradient of tapegrad"
register_model(Gradient)(models.OpaqueModel)


@functools.cache
def _unique(dispatcher: Any) -> str:
    return uuid.uuid4().hex


@lower_builtin(_KEY, Gradient, types.VarArg(types.Any))
def _call(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    gradient, *given = sig.args
    values = list(args[1:])
    if gradient.takes_any:
        star = values.pop()
        values += [builder.extract_value(star, i) for i in range(len(given[-1]))]
    made = gradient.compiled(given)
    found = with_tape(context, builder, made, values)
    return builder.extract_value(found, 1) if gradient.alone else found


@lower_constant(Kind)
@lower_constant(Gradient)
def _constant(context: Any, builder: Any, t: Any, value: Any) -> Any:
    return context.get_dummy_value()


@unbox(Gradient)
def _unboxed(t: Any, thing: Any, c: Any) -> Any:
    return NativeValue(c.context.get_dummy_value())
