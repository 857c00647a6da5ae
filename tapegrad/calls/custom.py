"""Functions whose derivatives the user declares, or whose inner instructions are not to be on the tape."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation, matching
from tapegrad.arguments import spec_of
from tapegrad.calls.call import Rules, call
from tapegrad.errors import OperationError, UnsupportedError
from tapegrad.pickling import find, written_by_value
from tapegrad.recording import Recording, known
from tapegrad.value import Value, number_of

P = ParamSpec("P")
Q = ParamSpec("Q")
T = TypeVar("T")


def stop_gradient(x: T) -> T:
    """The same numbers, nested in the same way, through which no gradient flows.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: x * stop_gradient(x))(3.0)
    3.0
    """
    leaves, structure = pytree.flatten(x)
    return pytree.unflatten(structure, [_detached(leaf) for leaf in leaves])


def _detached(x: Any) -> Any:
    if isinstance(x, np.ndarray) and x.dtype == object:
        stopped = np.empty(x.shape, object)
        for index in np.ndindex(x.shape):
            stopped[index] = _detached(x[index])
        return stopped
    return x.detach() if isinstance(x, Value) else x


def _name(f: Any) -> str:
    return str(getattr(f, "__qualname__", repr(f)))


def placed(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments of a call in their places, those too that were given by name, and the defaults before them.

    Raises TypeError where f cannot be called with them, OperationError for one that has no place.
    """
    if not kwargs:
        return args
    try:
        signature = inspect.signature(f)
    except ValueError:
        raise OperationError(f"{_name(f)} does not say how its arguments are called: give them by place") from None
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    if without := [name for name in kwargs if name in bound.kwargs]:
        raise OperationError(
            f"{_name(f)}: {', '.join(without)} can be given by name alone, and only arguments that have a place are "
            "differentiated: bind the others by functools.partial"
        )
    return bound.args


class _External(Rules):
    def __init__(self, f: Any, vjp: Any, jvp: Any, numpy_rules: bool) -> None:
        self.f, self.vjp, self.jvp, self.numpy_rules = f, vjp, jvp, numpy_rules
        self.recorded_functions = (vjp, jvp) if numpy_rules else ()
        self.name = _name(f)

    def value(self, args: tuple[Any, ...]) -> Any:
        return self.f(*args)

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        given = cotangent, result, *args
        if self.numpy_rules or not evaluation.holds_values(pytree.flatten(given)[0]):
            return _one_each(self.vjp(*given), len(args))
        return _one_each(call(_BlackBox(f"the vjp of {self.name}", self.vjp), given), len(args))

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        if self.jvp is None:
            return super().push(args, result, tangents)
        given = tangents, result, *args
        if self.numpy_rules or not evaluation.holds_values(pytree.flatten(given)[0]):
            return self.jvp(*given)
        return call(_BlackBox(f"the jvp of {self.name}", self.jvp), given)


class _BlackBox(Rules):
    """A derivative rule that is a black box as its function is: it can be called, but not differentiated again."""

    def __init__(self, name: str, f: Any) -> None:
        self.name, self.f = name, f

    def value(self, args: tuple[Any, ...]) -> Any:
        return self.f(*args)

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        raise UnsupportedError(
            f"a second derivative through {self.name}: it is a black box. If it is written in NumPy, say so with "
            "external(f, vjp, numpy_rules=True); else make it an external function with a vjp of its own"
        )

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        self.pull(args, result, None)


def _one_each(grads: Any, count: int) -> Sequence[Any]:
    # Where there is only one argument, the rule may return its gradient without a tuple.
    return grads if count != 1 or (isinstance(grads, tuple) and len(grads) == 1) else (grads,)


def external(
    f: Callable[P, Any], vjp: Callable[..., Any], jvp: Callable[..., Any] | None = None, *, numpy_rules: bool = False
) -> Callable[P, Any]:
    """A black box as a differentiable function: a solver, a table, a program in another language.

    Args:
        f: takes plain numbers and arrays, returns an array, a number, or a nested structure of them. Its result must
            depend on its arguments alone, and always have the same shapes.
        vjp: vjp(cotangent, result, *args) returns for each argument the gradient of <cotangent, result>, as a tuple,
            or bare for a single argument; None for zero.
        jvp: jvp(tangents, result, *args) returns the derivative along a tuple of tangents. Without it forward mode
            takes one vjp for each element of the result.
        numpy_rules: whether the rules are written in NumPy as functions of their arguments alone, so that they can be
            differentiated themselves. Otherwise second derivatives raise UnsupportedError.

    On a tape the call is one instruction: the forward sweep calls f, and the reverse sweep calls vjp. With plain
    numbers it is a call of f and nothing else.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> sine = external(np.sin, lambda w, y, x: w * np.cos(x), numpy_rules=True)
    >>> tg.grad(lambda x: sine(2.0 * x))(0.0), tg.grad(tg.grad(sine))(0.5 * np.pi)
    (2.0, -1.0)
    """
    return _called(f, _External(f, vjp, jvp, numpy_rules))


def _called(f: Callable[P, Any], rules: Any) -> Callable[P, Any]:
    """A function with the name and signature of f, each call of which is one instruction."""

    # It holds f through its rules alone: these say whether f belongs to what a recording depends on.
    def function(*args: P.args, **kwargs: P.kwargs) -> Any:
        return call(rules, placed(rules.f, args, kwargs))

    return functools.wraps(f)(function) if hasattr(f, "__name__") else function


class Checkpointed(Rules):
    """A function that is a recording of its own, and so are its derivatives, which are computed anew when needed."""

    def __init__(self, f: Any) -> None:
        self.f = f
        self.name = _name(f)
        self._derived: dict[str, Rules] = {}

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_derived": {}}

    def _recording(self, args: tuple[Any, ...]) -> Recording:
        return known(self.f).repeatable(args)

    def value(self, args: tuple[Any, ...]) -> Any:
        return self._recording(args)(*args)

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        if evaluation.holds_values(pytree.flatten((args, cotangent))[0]):
            return call(self._other("vjp", lambda w, *xs: derivatives.vjp(self.f, xs)[1](w)), (cotangent, *args))
        return self._recording(args).vjp(*args)[1](cotangent)

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        if evaluation.holds_values(pytree.flatten((args, tangents))[0]):
            return call(self._other("jvp", lambda ts, *xs: derivatives.jvp(self.f, xs, ts)[1]), (tangents, *args))
        return self._recording(args).jvp(args, tangents)[1]

    def certificate(self, args: tuple[Any, ...]) -> Any:
        return self._recording(args).certificate(*args)

    def _other(self, name: str, f: Any) -> Rules:
        # The derivative is checkpointed like the function: its intermediate results are recomputed too.
        if name not in self._derived:
            self._derived[name] = Checkpointed(f)
        return self._derived[name]


def checkpoint(f: Callable[P, Any]) -> Callable[P, Any]:
    """f, whose intermediate results are not kept on the tape but computed anew when the gradient needs them.

    On a tape a call is one instruction. f is recorded once, on a tape of its own, and every call replays that
    recording. So a long loop of checkpointed steps takes only the memory of its states and of one step. In return the
    gradient takes about one more forward sweep, and each call some tens of microseconds, so that this pays for large
    steps. The gradient is the same. f must be a function of its arguments alone: it cannot use Values from around it.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> step = checkpoint(lambda x: np.sin(x) * np.exp(-x))
    >>> tg.grad(lambda x: step(step(x)))(0.0)
    1.0
    """
    return _called(f, Checkpointed(f))


class _Custom(Rules, Generic[P]):
    """What `custom_vjp` and `custom_jvp` share: a decorated function, and arguments that are not differentiated."""

    def __init__(self, f: Callable[P, Any], nondiff_argnums: Sequence[int] = ()) -> None:
        self.f: Callable[..., Any] = f
        self.nondiff = tuple(nondiff_argnums)
        self.name = _name(f)
        functools.update_wrapper(self, f)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # What a decorator has made is found by its name.
        if find(self) is self and not written_by_value(self, True):
            return self.__qualname__
        return super().__reduce_ex__(protocol)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        # An argument that is not differentiated must not become an operand, so it is put in a box: that is a leaf, but
        # neither a Value nor a number, whatever is in it.
        given = enumerate(placed(self.f, args, kwargs))
        return call(self, tuple(Box(_with_numbers(x)) if i in self.nondiff else x for i, x in given))

    def value(self, args: tuple[Any, ...]) -> Any:
        return self.f(*unboxed(args))

    def _apart(self, args: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        return [x.content for x in args if isinstance(x, Box)], [x for x in args if not isinstance(x, Box)]


def _with_numbers(x: Any) -> Any:
    # A replay calls the function with what is in the box, so a whole number of the tape is read now.
    leaves, structure = pytree.flatten(x)
    return pytree.unflatten(structure, map(number_of, leaves)) if evaluation.holds_values(leaves) else x


class Box:
    """An argument that is not differentiated: neither a Value nor a number, whatever is in it."""

    def __init__(self, content: Any) -> None:
        self.content = content


def unboxed(args: Sequence[Any]) -> list[Any]:
    """Arguments without the boxes of those that are not differentiated."""
    return [x.content if isinstance(x, Box) else x for x in args]


def spread(args: Sequence[Any], own: Sequence[Any], what: str) -> list[Any]:
    """What there is for each argument that is not in a box, and None for those that are."""
    places = [i for i, x in enumerate(args) if not isinstance(x, Box)]
    if not isinstance(own, tuple | list) or len(own) != len(places):
        raise OperationError(f"{what} must return a tuple with one gradient for each of {len(places)} arguments")
    found: list[Any] = [None] * len(args)
    for i, g in zip(places, own, strict=True):
        found[i] = g
    return found


class custom_vjp(_Custom[P]):
    """A function with a reverse rule of its own, as `jax.custom_vjp`: a decorator, then `defvjp(fwd, bwd)`.

    fwd(*args) returns (result, residuals); bwd(residuals, cotangent) returns a tuple with the gradient for each
    argument, None for zero. Arguments numbered by `nondiff_argnums` are not differentiated, and come first in bwd. The
    function and its rules are NumPy code; they are called from the sweeps with numbers, and with Values when a second
    derivative is written, so derivatives of any order follow the rules.

    Raises OperationError where a derivative is taken before rules are declared, or where fwd or bwd returns anything
    else.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> @custom_vjp
    ... def clipped(x):
    ...     return x * 1.0
    >>> clipped.defvjp(lambda x: (x * 1.0, None), lambda _, w: (np.clip(w, -1.0, 1.0),))
    >>> tg.grad(lambda x: 5.0 * clipped(x))(2.0)
    1.0
    """

    fwd: Callable[..., Any] | None = None
    bwd: Callable[..., Any] | None = None

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Declare the rules."""
        self.fwd, self.bwd = self.recorded_functions = fwd, bwd

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        """The rule."""
        if self.fwd is None or self.bwd is None:
            raise OperationError(f"{self.name} has no reverse rule: call {self.name}.defvjp(fwd, bwd)")
        answer = self.fwd(*unboxed(args))
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise OperationError(f"fwd of {self.name} must return (result, residuals)")
        static, _ = self._apart(args)
        return spread(args, self.bwd(*static, answer[1], cotangent), f"bwd of {self.name}")


class custom_jvp(_Custom[P]):
    """A function with a forward rule of its own, as `jax.custom_jvp`: a decorator, then `defjvp(rule)`.

    rule(primals, tangents) returns (result, tangent of the result), the tangent being linear in the tangents. Arguments
    numbered by `nondiff_argnums` are not differentiated, and the rule gets them before `primals`. Reverse mode
    transposes the rule.

    Raises OperationError where a derivative is taken before the rule is declared.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> @custom_jvp
    ... def soft(x):
    ...     return np.log1p(np.exp(x))
    >>> _ = soft.defjvp(lambda primals, tangents: (soft(primals[0]), tangents[0] / (1.0 + np.exp(-primals[0]))))
    >>> tg.grad(soft)(0.0), tg.jvp(soft, (0.0,), (2.0,))[1]
    (0.5, 1.0)
    """

    rule: Callable[..., Any] | None = None

    def defjvp(self, rule: Callable[Q, T]) -> Callable[Q, T]:
        """Declare the rule. Returns the rule, so that this can be used as a decorator."""
        self.rule = rule
        self.recorded_functions = (rule,)
        return rule

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        """The rule."""
        if self.rule is None:
            raise OperationError(f"{self.name} has no forward rule: call {self.name}.defjvp(rule)")
        static, primals = self._apart(args)
        along = [_zeros_for(x, t) for x, t, own in zip(unboxed(args), tangents, args, strict=True)
                 if not isinstance(own, Box)]
        answer = self.rule(*static, tuple(primals), tuple(along))
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise OperationError(f"the rule of {self.name} must return (result, tangent)")
        return answer[1]

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        """The rule, transposed: it is linear in the tangents."""
        _, primals = self._apart(args)
        zeros = [_zeros_for(x, None) for x in primals]

        def forward(*tangents: Any) -> Any:
            return self.push(args, result, tuple(spread(args, tangents, "tangents")))

        if evaluation.holds_values(pytree.flatten((args, cotangent))[0]):
            return spread(args, derivatives.vjp(forward, zeros)[1](cotangent), "the transposed rule")
        spec, leaves = spec_of(zeros)
        pulled = Recording(forward, spec, leaves, None).vjp(*zeros)[1](cotangent)
        return spread(args, pulled, "the transposed rule")


def _zeros_for(x: Any, tangent: Any) -> Any:
    """A tangent with zeros in place of what is None."""
    leaves, structure = pytree.flatten(x)
    own = [None] * len(leaves) if tangent is None else matching.matching(
        tangent, structure, [np.shape(leaf) for leaf in leaves], "tangent", "argument"
    )
    made = [
        np.zeros(np.shape(leaf), getattr(leaf, "dtype", float))[()] if t is None else t
        for leaf, t in zip(leaves, own, strict=True)
    ]
    return pytree.unflatten(structure, [float(t) if isinstance(t, np.floating) else t for t in made])
