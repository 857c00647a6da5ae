"""Control flow that stays on one tape: `where`, `cond`, and loops.

Plain Python works too: an `if` or `while` on a number becomes a guard, and each way that it can go is recorded by
itself. The functions here need no guards, except loops without `max_steps`: every branch is on the tape, and the
numbers choose among the results. No gradient, not even NaN, is passed to a result that was not chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.evaluation import holds_values
from tapegrad.errors import NonScalarError, OperationError, ShapeError, StructureError
from tapegrad.functions import choosing, stack
from tapegrad.looping import looped
from tapegrad.value import Value


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y, element by element and broadcast; plain numbers give plain numbers.

    >>> import tapegrad as tg
    >>> tg.grad(lambda x: where(x > 0.0, np.sqrt(x), 0.0))(0.0)
    0.0
    """
    if holds_values((condition, x, y)):
        return choosing.where(condition, x, y)
    return np.where(condition, x, y)[()]


def _functions(what: str, **given: Any) -> None:
    for name, f in given.items():
        if not callable(f):
            raise StructureError(f"{what}: {name} must be a function, not {f!r:.60} ({type(f).__name__})")


def _truth(pred: Any, what: str) -> Any:
    """A condition as a Value, or as a bool where it is a plain number."""
    if np.size(pred) != 1:
        raise NonScalarError(f"{what}: the condition must be one truth value, it has shape {np.shape(pred)}")
    if not isinstance(pred, Value):
        return bool(pred)
    return pred.reshape(()) if pred.ndim else pred


def _matched(a: Any, b: Any, what: str, first: str, second: str) -> tuple[list[Any], list[Any], Any]:
    """The leaves of two results that must be alike. Raises StructureError, ShapeError."""
    xs, structure = pytree.flatten(a)
    try:
        ys = pytree.leaves_as(structure, b)
    except StructureError as error:
        raise StructureError(f"{what}: {first} and {second} are nested differently: {error}") from None
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        if np.shape(x) != np.shape(y):
            where_ = f" (number {i} of {len(xs)})" if len(xs) > 1 else ""
            raise ShapeError(f"{what}: {first} has shape {np.shape(x)}{where_}, {second} {np.shape(y)}")
    return xs, ys, structure


def _choose(pred: Value, a: Any, b: Any, what: str, first: str, second: str) -> Any:
    xs, ys, structure = _matched(a, b, what, first, second)
    return pytree.unflatten(structure, [x if x is y else where(pred, x, y) for x, y in zip(xs, ys, strict=True)])


def cond(pred: Any, true_fun: Callable[..., Any], false_fun: Callable[..., Any], *operands: Any) -> Any:
    """true_fun(*operands) where pred holds, else false_fun(*operands); as `jax.lax.cond`.

    With a Value for pred both are computed, on one tape, and their results, which must be nested and shaped alike, are
    chosen between: no guard, and no gradient from the branch not taken. With a plain truth value only one is called.

    Raises StructureError, ShapeError where the results differ in kind; NonScalarError unless pred is one truth value.

    >>> import tapegrad as tg
    >>> slope = tg.grad(lambda x: cond(x < 1.0, lambda x: x * x, lambda x: 2.0 * x - 1.0, x))
    >>> slope(0.25), slope(3.0)
    (0.5, 2.0)
    """
    _functions("cond", true_fun=true_fun, false_fun=false_fun)
    pred = _truth(pred, "cond")
    if isinstance(pred, bool):
        return (true_fun if pred else false_fun)(*operands)
    chosen = true_fun(*operands), false_fun(*operands)
    return _choose(pred, *chosen, "cond", "the result of true_fun", "that of false_fun")


def scan(
    f: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any = None, length: int | None = None, *,
    memory_limit: int | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """carry, y = f(carry, x) over the leading axis of xs, the ys stacked; as `jax.lax.scan`.

    Where steps have more than some thousand instructions together, the loop is one instruction on the tape: f is called
    twice or three times, with Values, and what it does there is what every step does. A gradient keeps the carries of
    all steps, and computes everything else again. Where f reads numbers (`if` on a Value, `float(v)`), calls functions
    of Python by `external` and the like, or changes something around it, it is called for each step, which then stand
    on the tape one by one.

    Args:
        f: returns (carry, y); the carry keeps its structure and shapes. y may be None. It may use Values of others.
        init: the first carry.
        xs: arrays of one leading length, nested as f wants a slice of them; None with `length` steps instead.
        memory_limit: how many bytes the carries may take that a gradient keeps, at least those of two steps. Others are
            computed again, by the binomial schedule of Griewank and Walther; the gradient is the same.

    Returns the last carry, and the ys with a new leading axis.

    Raises StructureError, ShapeError where a carry changes, or lengths differ; OperationError where `memory_limit` is
    no positive whole number, or too small. A RecordingWarning says where a limit is in vain.

    >>> scan(lambda total, x: (total + x, total + x), 0.0, np.array([1.0, 2.0, 3.0]))
    (np.float64(6.0), array([1., 3., 6.]))
    >>> import tapegrad as tg
    >>> f = lambda r: scan(lambda x, _: (r * x * (1.0 - x), None), 0.5, None, 100_000, memory_limit=10_000)[0]
    >>> value, slope = tg.value_and_grad(f)(2.5)
    >>> round(value, 9), round(slope, 9)
    (0.6, 0.16)
    """
    _functions("scan", f=f)
    leaves, structure = pytree.flatten(xs)
    if any(np.ndim(x) == 0 for x in leaves):
        raise ShapeError("scan: xs need a leading axis to go along, one of them is a number")
    lengths = {len(x) for x in leaves} | ({length} if length is not None else set())
    if len(lengths) != 1:
        found = " and ".join(map(str, sorted(lengths))) or "nothing to say how many steps there are"
        raise ShapeError(f"scan: xs need one leading length, there is {found}")
    n = lengths.pop()
    if n < 0:
        raise ShapeError(f"scan: length must not be negative, it is {n}")
    given = pytree.unflatten(structure, [x if isinstance(x, Value) else np.asarray(x) for x in leaves])
    made = looped(lambda carry, x, _: f(carry, x), init, given, n, memory_limit=_limited(memory_limit, "scan"))
    if made is not None:
        return made
    carry, ys, shape = init, [], None
    for i in range(n):
        answer = f(carry, pytree.unflatten(structure, [x[i] for x in leaves]))
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise StructureError("scan: f must return (carry, y)")
        _matched(carry, answer[0], "scan", "the carry", "the carry that f returned")
        carry = answer[0]
        if shape is None:
            shape = pytree.flatten(answer[1])[1]
        try:
            ys.append(pytree.leaves_as(shape, answer[1]))
        except StructureError as error:
            raise StructureError(f"scan: the ys of two steps are nested differently: {error}") from None
    if shape is None:
        return carry, None
    stacked = [_stack([parts[j] for parts in ys]) for j in range(len(ys[0]))]
    return carry, pytree.unflatten(shape, stacked)


def _limited(memory_limit: Any, what: str) -> int | None:
    """A limit of memory, in bytes. Raises OperationError unless it is None or a positive whole number."""
    if memory_limit is None:
        return None
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int | np.integer) or memory_limit <= 0:
        raise OperationError(f"{what}: memory_limit must be a positive whole number of bytes, not {memory_limit!r}")
    return int(memory_limit)


def _stack(parts: list[Any]) -> Any:
    return stack(parts) if holds_values(parts) else np.stack(parts)


def while_loop(
    cond_fun: Callable[[Any], Any], body_fun: Callable[[Any], Any], init: Any, max_steps: int | None = None, *,
    memory_limit: int | None = None,
) -> Any:  # fmt: skip
    """body_fun applied to a state while cond_fun(state) holds; as `jax.lax.while_loop`, with reverse mode.

    Args:
        max_steps: with it, that many steps are on the tape, as `scan` puts them there, and each changes the state only
            if all conditions so far held: one tape for any number of steps up to that. Without it, the loop is one of
            Python: guards check the condition before each round, and each number of rounds is recorded by itself.
        memory_limit: as for `scan`; of no use without `max_steps`.

    Raises StructureError, ShapeError where the state changes its nesting or shapes; ArithmeticError where the condition
    still holds after `max_steps` while the loop is recorded. Where that happens in a replay, result and gradient are
    NaN.

    >>> import tapegrad as tg
    >>> halve = lambda x: while_loop(lambda x: x > 1.0, lambda x: 0.5 * x, x, max_steps=20)
    >>> tg.value_and_grad(halve)(12.0)
    (0.75, 0.0625)
    """
    _functions("while_loop", cond_fun=cond_fun, body_fun=body_fun)
    limit = _limited(memory_limit, "while_loop")
    state, going = init, cast(Any, True)
    if max_steps is None:
        while bool(_truth(cond_fun(state), "while_loop")):
            following = body_fun(state)
            _matched(state, following, "while_loop", "the state", "the state that body_fun returned")
            state = following
        return state

    def step(carry: Any, _: Any, __: Any) -> Any:
        state, going = carry
        going = np.logical_and(going, _truth(cond_fun(state), "while_loop"))
        names = "while_loop", "the state that body_fun returned", "the state"
        return (_choose(going, body_fun(state), state, *names), going), None

    made = looped(step, (init, True), None, max_steps, memory_limit=limit)
    if made is not None:
        state, going = made[0]
        return _settled(np.logical_and(going, _truth(cond_fun(state), "while_loop")), state, max_steps, "while_loop")
    for _ in range(max_steps):
        going = np.logical_and(going, _truth(cond_fun(state), "while_loop"))
        if not isinstance(going, Value) and not going:
            return state
        following = body_fun(state)
        if isinstance(going, Value):
            state = _choose(going, following, state, "while_loop", "the state that body_fun returned", "the state")
        else:
            _matched(state, following, "while_loop", "the state", "the state that body_fun returned")
            state = following
    return _settled(np.logical_and(going, _truth(cond_fun(state), "while_loop")), state, max_steps, "while_loop")


def _settled(going: Any, state: Any, max_steps: int, what: str) -> Any:
    """The state of a loop that took all its steps; NaN in replays that would take more. Raises ArithmeticError."""
    now = going
    if isinstance(going, Value):
        # Read the number without a guard: in a replay it may be another.
        going._tape.evaluate()
        now = going._window(going._tape.values) != 0.0
    if now:
        raise ArithmeticError(f"{what}: the condition still holds after {max_steps} steps")
    if not isinstance(going, Value):
        return state
    leaves, structure = pytree.flatten(state)
    return pytree.unflatten(structure, [x * where(going, np.nan, 1.0) for x in leaves])


def fori_loop(
    lower: Any, upper: Any, body_fun: Callable[[Any, Any], Any], init: Any, max_steps: int | None = None, *,
    memory_limit: int | None = None,
) -> Any:  # fmt: skip
    """state = body_fun(i, state) for i from lower to upper - 1; as `jax.lax.fori_loop`.

    Long loops are one instruction, and `memory_limit` says how much their gradient keeps, as in `scan`. There i is a
    whole number that may be calculated with and index a Value; what asks for the number itself (`if i % 2`, an element
    of a list) has the steps on the tape one by one.

    Bounds that are Values are read by `int`, so guards check that they are the same in a replay. With `max_steps`, that
    many steps are on the tape instead, and only those below `upper` change the state. If `upper` is out of reach of
    `max_steps`, the same happens as in `while_loop`.

    Raises StructureError, ShapeError where the state changes its nesting or shapes; ArithmeticError as `while_loop`
    does; OperationError as `scan` does.

    >>> fori_loop(0, 5, lambda i, x: x + i, 0)
    10
    """
    _functions("fori_loop", body_fun=body_fun)
    limit = _limited(memory_limit, "fori_loop")
    if max_steps is not None and holds_values((lower, upper)):

        def step(state: Any, _: Any, i: Any) -> Any:
            following = body_fun(lower + i, state)
            going = _truth(np.less(lower + i, upper), "fori_loop")
            names = "fori_loop", "the state that body_fun returned", "the state"
            return _choose(going, following, state, *names), None

        made = looped(step, init, None, max_steps, start=0, memory_limit=limit)
        state = init if made is None else made[0]
        for i in range(max_steps) if made is None else ():
            state = step(state, None, i)[0]
        return _settled(_truth(np.less(lower + max_steps, upper), "fori_loop"), state, max_steps, "fori_loop")
    return counted(int(lower), int(upper), body_fun, init, memory_limit)


def counted(
    first: int, end: int, body_fun: Callable[[Any, Any], Any], init: Any, memory_limit: int | None,
    name: str = "fori_loop", body_name: str = "body_fun", called: str = "a loop with a memory_limit",
) -> Any:  # fmt: skip
    """`fori_loop` with plain bounds, for functions whose users know it and what it calls by other names."""
    body = lambda state, _, i: (body_fun(i, state), None)
    limit = _limited(memory_limit, name)
    made = looped(body, init, None, end - first, start=first, memory_limit=limit, called=called)
    if made is not None:
        return made[0]
    state = init
    for i in range(first, end):
        following = body_fun(i, state)
        _matched(state, following, name, "the state", f"the state that {body_name} returned")
        state = following
    return state
