"""How an operation is declared, and the table that all declarations form.

A row states an operation once: its name, its formula, its value rule, its local partial derivatives, the NumPy
ufunc it answers to, the domain its samples come from, and whatever else there is to know of it. Opcodes, the switch of
every sweep, NumPy dispatch, the listing, the documentation and the tests derive from the row. Nothing outside this
folder asks an operation for its name to learn what it is: it reads the field that says so.

A rule is plain Python on numbers. It is read as source and compiled into the sweeps, and it can be called with
Values to write a derivative as another tape. That is why rules call `np.cos(x)` or another operation, never
`math.cos(x)`: NumPy functions and operations work on numbers and on Values alike.

Conventions at kinks and ties are stated in the rows. A zero adjoint is never multiplied by a partial derivative, so
an infinite partial of a branch that was not taken cannot leak as NaN.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import numpy as np

from tapegrad.errors import OperationError
from tapegrad.ops.rules import tried

T = TypeVar("T")

# An instruction whose opcode has this bit set works on many elements: its operands, counts and strides are in the
# side array. Below it, an instruction is one scalar operation and all it needs are three slots.
RUN = 1 << 16

# As `moves`: the numbers of all operands, however many there are.
ALL = -1


class Interval(NamedTuple):
    """The open interval that samples of an operand are drawn from."""

    low: float
    high: float


REALS = Interval(-3.0, 3.0)
POSITIVE = Interval(0.1, 4.0)
UNIT = Interval(-0.95, 0.95)
ABOVE_ONE = Interval(1.1, 4.0)
ABOVE_MINUS_ONE = Interval(-0.9, 3.0)


@dataclass(frozen=True, eq=False)
class Operation:
    """One row of the table.

    Calling an operation with Values records it; with plain numbers or arrays it computes.

    Attributes:
        name: an identifier, unlike that of any other operation. It is for people to read; what an operation is, the
            other fields say.
        opcode: its number in the table.
        arity: how many operands it takes; -1 for any number.
        formula: what it computes. Listings put the names of operands into it.
        ufunc: NumPy's function of that name, if there is one: called with Values, it records this operation.
        convention: what the derivative is at a kink or tie, in words.
        symbol: what a picture shows for it, where its formula has no sign between the operands: "@".
        moves: how many of its first operands, or ALL of them, hold the numbers that its result consists of, one for one
            and unchanged. Integers and truth values stay what they are on the way, and a sparsity pattern follows them.
            0 where the result is computed.
        kind_of: the operands whose kind the result has where they are all of one kind, integers or truth values:
            `where` chooses between its second and third. Those that it `moves` need not be named.
        held: the operands that it holds constant on purpose: their partial derivatives are 0 although the result varies
            with them. `check_op` does not expect a derivative there, and a certificate still sees the kinks behind.
        kink: the distance from where it jumps or has no derivative, zero there. A certificate trusts that elsewhere
            partial derivatives are finite wherever operands and result are. Called with the operands; that of an
            operation over whole arrays with the parameters of its record, the result and the operands.
        truth: whether its results are truth values, 1 or 0.
        opaque: whether it calls Python, so that nothing is known of what it computes: it is never computed in advance,
            never shared between two places that look alike. The first parameter of its record is the number of the call
            (see `tapegrad.sweeps.callbacks`), which also has the rules for its derivatives.
        inline: whether its scalar form has a branch of its own in the sweeps, not a kernel that is called. Some
            nanoseconds faster, and everybody's first compilation pays for it.
        inline_float32: whether it has one on float32 tapes too. These hold arrays rather than scalar code, so few
            operations have, and half the compiling is saved.
    """

    name: str
    opcode: int
    arity: int
    formula: str
    ufunc: np.ufunc | None = None
    convention: str = ""
    symbol: str = ""
    moves: int = 0
    kind_of: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    kink: Callable[..., Any] | None = field(default=None, repr=False)
    truth: bool = False
    opaque: bool = False
    inline: bool = False
    inline_float32: bool = False

    def kind_givers(self, operands: Sequence[T]) -> Sequence[T]:
        """Those of its operands whose kind the result has, where they are all of one."""
        if self.kind_of:
            return [operands[j] for j in self.kind_of]
        return operands if self.moves == ALL else operands[: self.moves]

    def __call__(self, *args: Any) -> Any:
        for arg in args:
            apply = getattr(type(arg), "_apply_operation", None)
            if apply is not None:
                return apply(self, args)
        return self.compute(*args)

    def compute(self, *args: Any) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Elementwise(Operation):
    """z = f(x, y, ...), one element at a time. A scalar instruction, or a run with strides.

    Attributes:
        value: the rule for z, of the operands.
        partials: the rule for the partial derivatives, of the operands and z. It is run on Values too.
        samples: for each operand the interval of sensible numbers, from which tests draw.
        selects: whether a partial derivative of 0 means that the operand was not chosen. Then nothing is passed to it,
            even if the adjoint is infinite or NaN.
        on_truths: what it is where all operands are arrays of truth values: another operation, as NumPy adds truth
            values by `or`; or, where it is refused, what to do instead, in words.
        neutral: for each operand the number that makes the result equal to the other operand, or None; () where there
            is none. Derivative programs leave such instructions out.
        commutes: whether exchanging its two operands changes nothing, not even a bit. In a derivative program both
            orders are then one instruction.
        unmasked: for a product that is 0 wherever a factor is 0, the plain product that it equals where one factor is a
            constant, neither zero nor infinite.
    """

    value: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    partials: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    samples: tuple[Interval, ...] = ()
    selects: bool = False
    on_truths: Operation | str | None = field(default=None, repr=False)
    neutral: tuple[float | None, ...] = ()
    commutes: bool = False
    unmasked: Operation | None = field(default=None, repr=False)

    def __call__(self, *args: Any) -> Any:
        if len(args) != self.arity:
            raise OperationError(f"{self.name} takes {self.arity} arguments, {len(args)} were given")
        return super().__call__(*args)

    def __rules__(self) -> tuple[Callable[..., Any], ...]:
        return self.value, self.partials

    def compute(self, *args: Any) -> Any:
        """The value on plain numbers or arrays."""
        if self.ufunc is not None:
            return self.ufunc(*args)
        with np.errstate(all="ignore"):
            result = np.frompyfunc(self.value, self.arity, 1)(*args)
        return np.asarray(result, np.result_type(float, *args))[()]


@dataclass(frozen=True, eq=False)
class Structured(Operation):
    """An operation over whole arrays, with kernels of its own.

    Each kernel reads the instruction's record in the side array at position k. `forward(side, k, v)` returns True
    when its operands are in order (labels and indices within range), `reverse(side, k, v, g)` accumulates into the
    adjoints of its operands, `tangent(side, k, v, t)` writes the tangent of its output. Where it pays to leave out
    operands that no gradient must reach, these two take the flags too, `reverse(side, k, flags, v, g)`: operand j is
    wanted where flags[wants_flag(k, j)] is not 0.

    The other rules are ordinary Python, called when a derivative is written as instructions or a pattern is asked for.
    `views(p)`, p being the record's parameters, says how it sees its operands: ((shape, strides), ...) and the shape of
    its output. `pullback(p, z, gz, *operands)` gives for each operand the adjoint that reaches it, or None;
    `pushforward(p, z, operands, tangents)` the tangent of the output, tangents being None where they are zero; both in
    terms of other operations. `depends` names the axes, as in `np.einsum`: an output element depends on the operand
    elements that agree with it in the axes they share; or is a function (p, *numbers) that returns, for each operand,
    the positions (of outputs, of operand elements) that depend on each other. `params(*shapes, **options)` makes the
    parameters when the operation is called with dense operands.

    Two more say how it is shown: `note(p)` is what a listing writes behind it, "(3, 4) along axis 1" for one;
    `title(p)` is its name there, for an operation that goes by several. `refusal(p, *operands)` is called where
    `forward` returned False, with the operands' numbers in the shapes that `views` states, and returns the exception to
    raise. A `passive` operation lets no gradient through. One that `needs_elements` has no result for a line without
    any, as a largest element.

    `reads` says of which operands, and whether of the result, `reverse` reads the numbers, as ((True, False), False);
    where it is not stated, of all, if the kernel has any use for numbers. Long arrays that are not read on the way back
    leave their places to others.

    `batched(p, lanes, *operands)` says how it is carried out for many inputs at once. Operands are as `views` states
    them; those that differ from lane to lane have one axis more, the last. It returns the result with such an axis, as
    one Value, in terms of this and other operations; or None where these operands are to be taken lane by lane, as all
    are without this rule.

    `products(p)` is how many multiplications it makes, where it is a product of matrices or the like: programs that do
    little else are not compiled.

    `accepts(p)` says whether a list of whole numbers, which may come from a file that nobody is to trust, are
    parameters that the kernels can be given, apart from what `views` says of the operands. An operation without it
    cannot be saved.
    """

    forward: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    reverse: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    tangent: Callable[..., Any] = field(default=None, repr=False)  # type: ignore[assignment]
    views: Callable[..., Any] | None = field(default=None, repr=False)
    pullback: Callable[..., Any] | None = field(default=None, repr=False)
    pushforward: Callable[..., Any] | None = field(default=None, repr=False)
    depends: str | Callable[..., Any] | None = field(default=None, repr=False)
    params: Callable[..., Any] | None = field(default=None, repr=False)
    batched: Callable[..., Any] | None = field(default=None, repr=False)
    note: Callable[..., str] | None = field(default=None, repr=False)
    title: Callable[..., str] | None = field(default=None, repr=False)
    refusal: Callable[..., Exception | None] | None = field(default=None, repr=False)
    accepts: Callable[[list[int]], bool] | None = field(default=None, repr=False)
    products: Callable[[list[int]], int] | None = field(default=None, repr=False)
    passive: bool = False
    needs_elements: bool = False
    reads: tuple[tuple[bool, ...], bool] | None = None

    def __call__(self, *args: Any, **options: Any) -> Any:
        for arg in args:
            apply = getattr(type(arg), "_apply_structured", None)
            if apply is not None:
                return apply(self, args, options)
        raise OperationError(f"{self.name} works on Values: none of its operands is one")


TABLE: list[Operation] = []
BY_NAME: dict[str, Any] = {}
BY_UFUNC: dict[np.ufunc, Any] = {}


def _add(operation: Operation) -> Any:
    if not operation.name.isidentifier():
        raise OperationError(f"an operation's name must be an identifier, not {operation.name!r}")
    if operation.name in BY_NAME:
        raise OperationError(f"there is already an operation named {operation.name!r}")
    if operation.ufunc is not None and operation.ufunc in BY_UFUNC:
        raise OperationError(f"{operation.ufunc} already stands for {BY_UFUNC[operation.ufunc].name!r}")
    TABLE.append(operation)
    BY_NAME[operation.name] = operation
    if operation.ufunc is not None:
        BY_UFUNC[operation.ufunc] = operation
    return operation


def _check_rule(name: str, what: str, rule: Callable[..., Any], *counts: int) -> None:
    rule = getattr(rule, "py_func", rule)
    if not callable(rule):
        raise OperationError(f"{name}: the {what} rule must be a function, not {type(rule).__name__}")
    found = len(inspect.signature(rule).parameters)
    if found not in counts:
        wanted = " or ".join(map(str, counts))
        raise OperationError(f"{name}: the {what} rule must take {wanted} arguments, it takes {found}")


class Fields(TypedDict, total=False):
    """What `unary`, `binary` and `ternary` take besides the rules; see `Operation` and `Elementwise`."""

    samples: tuple[Interval, ...] | Interval | None
    ufunc: np.ufunc | None
    convention: str
    symbol: str
    moves: int
    kind_of: tuple[int, ...]
    held: tuple[int, ...]
    kink: Callable[..., Any] | None
    truth: bool
    inline: bool
    inline_float32: bool
    selects: bool
    on_truths: Operation | str | None
    neutral: tuple[float | None, ...]
    commutes: bool
    unmasked: Operation | None


def _elementwise(
    arity: int, name: str, formula: str, value: Callable[..., Any], partials: Callable[..., Any], given: Fields
) -> Elementwise:
    _check_rule(name, "value", value, arity)
    _check_rule(name, "partials", partials, arity + 1)
    _check_fields(name, given.keys(), Fields.__annotations__)
    if not all(0 <= j < arity for j in given.get("held", ())):
        raise OperationError(f"{name}: held={given['held']!r} names an operand that it does not have")
    # A rule that names what is defined further down is tried again when a derivative first needs it.
    with contextlib.suppress(NameError):
        tried(name, partials, arity)
    samples = given.get("samples")
    if samples is None or isinstance(samples, Interval):
        samples = (samples or REALS,) * arity
    rest: Any = {**given, "samples": samples}
    return _add(Elementwise(name, len(TABLE), arity, formula, value=value, partials=partials, **rest))


def _check_fields(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise OperationError(f"{name}: there is no rule or field named {', '.join(unknown)}")


def unary(
    name: str,
    formula: str,
    *,
    value: Callable[[Any], Any],
    partials: Callable[[Any, Any], Any],
    **given: Unpack[Fields],
) -> Elementwise:
    """Declare an operation z = f(x).

    `value(x)` is its value and `partials(x, z)` its derivative dz/dx, where z is the value already computed.
    Both are read as source: write them as lambdas or functions in a file, of arithmetic, `np` functions and other
    operations. The partials rule is run on Values as well, for second derivatives: it may not branch on its operands,
    but write `where(c, x, y)`, nor take them for plain numbers, as `math.exp` does. What else can be said of an
    operation, by keyword, `Operation` and `Elementwise` list: `samples`, `ufunc`, `convention`, `kink` and so on.

    Raises OperationError for a taken name, an unknown keyword, a rule with the wrong number of arguments or results,
    and a partials rule that cannot be run on Values.

    >>> import tapegrad as tg
    >>> from tapegrad.ops import BY_NAME
    >>> BY_NAME["tanh"].formula
    'z = tanh x'
    """
    return _elementwise(1, name, formula, value, partials, given)


def binary(
    name: str,
    formula: str,
    *,
    value: Callable[[Any, Any], Any],
    partials: Callable[[Any, Any, Any], Any],
    **given: Unpack[Fields],
) -> Elementwise:
    """Declare an operation z = f(x, y): `value(x, y)`, and `partials(x, y, z)` returning (dz/dx, dz/dy).

    See `unary`.
    """
    return _elementwise(2, name, formula, value, partials, given)


def ternary(
    name: str,
    formula: str,
    *,
    value: Callable[[Any, Any, Any], Any],
    partials: Callable[[Any, Any, Any, Any], Any],
    **given: Unpack[Fields],
) -> Elementwise:
    """Declare an operation z = f(x, y, w): `value(x, y, w)`, and `partials(x, y, w, z)` returning three partials.

    See `unary`.
    """
    return _elementwise(3, name, formula, value, partials, given)


def structured(
    name: str,
    formula: str,
    *,
    arity: int,
    forward: Callable[..., Any],
    reverse: Callable[..., Any],
    tangent: Callable[..., Any],
    **rules: Any,
) -> Structured:
    """Declare an operation over whole arrays: its three kernels, and the rules that `Structured` describes.

    Without `views`, `pullback` and `pushforward` it has first derivatives only.

    Raises OperationError for a taken name, an unknown rule, or a kernel with the wrong number of arguments.
    """
    _check_rule(name, "forward", forward, 3)
    _check_rule(name, "reverse", reverse, 4, 5)
    _check_rule(name, "tangent", tangent, 4, 5)
    _check_fields(name, rules, _STRUCTURED)
    row = Structured(
        name=name,
        opcode=len(TABLE),
        arity=arity,
        formula=formula,
        forward=forward,
        reverse=reverse,
        tangent=tangent,
        **rules,
    )
    return _add(row)


# The keywords that `structured` takes: the fields of `Structured`, but for those that only elementwise operations use.
_STRUCTURED = {f.name for f in fields(Structured)} - {"opcode", "ufunc", "inline", "inline_float32"}
