"""Derivatives of functions: recorded at the first call and replayed afterwards, or written on the tape of their
arguments.

Called with plain numbers, a derivative is computed by sweeps. Called with Values, or inside a function that is being
recorded, it is written there as instructions, so that derivatives nest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation, matching
from tapegrad.arguments import argument_numbers, plain_key
from tapegrad.attached import attached, named_like
from tapegrad.carried import NeedsCarrierError
from tapegrad.errors import OuterValueError
from tapegrad.made import made
from tapegrad.recording import Known, Unrecorded, behind, known, known_with_keywords, never, on_values
from tapegrad.tape import recording_tape
from tapegrad.tape.ambient import ambient
from tapegrad.value import Value

P = ParamSpec("P")


def value_and_grad(
    f: Callable[P, Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, *, compile: bool | None = None
) -> Callable[P, tuple[Any, Any]]:
    """A function that computes f and its gradient.

    Args:
        f: returns one number; or, with `has_aux`, (number, anything else), the rest being handed through as numbers.
        argnums: the argument, or arguments, to differentiate with respect to.
        has_aux: whether f returns more than the number to differentiate.
        compile: True to compute it by compiled programs from the first call on, False never to, None to leave that
            choice, which depends on how large the program is and how often it is called. Derivatives of f share their
            recordings with those that ask for the same.

    The first call for given shapes, dtypes and static arguments records f; later ones replay, also those of other
    derivatives of the same function. At most 128 recordings of a function are kept. Keyword arguments are passed on,
    and not differentiated. Called with Values, or while a function is being recorded, it calls f and writes the
    derivative on the tape, where it can be differentiated again. The same happens where f uses a Value from around it:
    then value and gradient are Values, which depend on that one.

    Raises NonScalarError, IntegerInputError, and what `record` raises; OperationError for another `compile`.

    What f takes from around it is part of the recording. Where a name that it reads is bound to something else, or an
    array was changed in place, f is recorded again; see `record`. Pass as an argument what varies: it is replayed.

    >>> value_and_grad(lambda x, y: x * y)(2.0, 3.0)
    (6.0, 3.0)
    """
    return made(_both(f, argnums, has_aux, compile), compile, value_and_grad, f, argnums, has_aux)


def _both(
    f: Callable[..., Any], argnums: int | Sequence[int], has_aux: bool, compile: bool | None, alone: bool = False
) -> Callable[..., tuple[Any, Any]]:
    """A function that computes f and its gradient; in place of f it may give None where the gradient is wanted alone.
    """
    numbers = argument_numbers(argnums)
    own: Any = numbers if isinstance(argnums, tuple | list) else numbers[0]
    shared, way = known(f, compile), (own, alone)

    def both(recording: Any, args: Any, wanted: Any) -> Any:
        if evaluation.on_tape(args):
            return derivatives.value_and_grad(recording.f, args, wanted, has_aux)
        return recording.evaluate(recording.check(args), wanted, has_aux, alone)

    @functools.wraps(f)
    def evaluate(*args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if kwargs:
            found: tuple[Any, Any] = _at_keywords(f, args, kwargs, own, both, compile)
            return found
        if ambient.plain and not has_aux:
            # The next call is most likely of the same kind as the last, and takes the same branch.
            found = shared.short.get(way, never)(args)
            if found is not None:
                return found
        try:
            # Calls with nothing but arrays and floats are the common ones, and the ones whose overhead shows.
            plain = None if recording_tape() is not None else plain_key(args)
            if plain is None and evaluation.on_tape(args):
                return derivatives.value_and_grad(shared.on_tape(args), args, own, has_aux)
            leaves: Sequence[Any] = args
            recording = shared.quick.get(plain)
            if recording is None:
                recording, leaves = shared.at(args)
                if plain is not None:
                    shared.quick[plain] = recording
            found = recording.evaluate(leaves, own, has_aux, alone)
            if not has_aux:
                shared.short[way] = recording.short_way(own, alone)
            return found
        except OuterValueError:
            # The function uses a Value from around it, so what it returns depends on that, and so does its gradient.
            return derivatives.value_and_grad(f, args, own, has_aux)
        except NeedsCarrierError:
            if evaluation.on_tape(args):
                raise
            # It takes a branch, the first time, in which it reads or draws numbers that a recording carries.
            recording, leaves = shared.carrying(args)
            return recording.evaluate(leaves, own, has_aux, alone)

    return evaluate


def _at_keywords(
    f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], argnums: int | tuple[int, ...],
    what: Callable[..., Any], compile: bool | None,
) -> Any:  # fmt: skip
    """what(recording of f, arguments, argnums): keyword arguments are one more argument, a dict, the last, which is
    never differentiated."""
    checked = evaluation.checked(argument_numbers(argnums), len(args))
    wanted = checked[0] if isinstance(argnums, int) else tuple(checked)
    own = known_with_keywords(f, compile)
    return _answer(own, (*args, kwargs), lambda recording, args: what(recording, args, wanted), wanted)


def grad(
    f: Callable[P, Any], argnums: int | Sequence[int] = 0, has_aux: bool = False, *, compile: bool | None = None
) -> Callable[P, Any]:
    """A function that computes the gradient of f; with `has_aux`, (gradient, aux). See `value_and_grad`.

    >>> import numpy as np
    >>> grad(lambda x: np.sum(x * x))(np.array([1.0, 2.0]))
    array([2., 4.])
    >>> grad(grad(lambda x: x**3))(2.0)
    12.0
    """
    both = _both(f, argnums, has_aux, compile, alone=not has_aux)

    @functools.wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, result = both(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return made(gradient, compile, grad, f, argnums, has_aux)


def _replayed(
    f: Callable[..., Any], argnums: int | Sequence[int], what: Callable[..., Any], compile: bool | None = None
) -> Callable[..., Any]:
    """A function of f's arguments that returns what(recording of f, arguments, argnums).

    Where arguments are Values, `what` gets an `Unrecorded` in place of a recording, which writes on their tape.
    """
    numbers = argument_numbers(argnums)
    own: Any = numbers if isinstance(argnums, tuple | list) else numbers[0]

    @functools.wraps(f)
    def derivative(*args: Any, **kwargs: Any) -> Any:
        if kwargs:
            return _at_keywords(f, args, kwargs, own, what, compile)
        return _answer(known(f, compile), args, lambda recording, args: what(recording, args, own), own)

    return derivative


def _answer(
    shared: Known, args: Sequence[Any], what: Callable[..., Any], argnums: int | Sequence[int] | None = None,
    besides: Any = (),
) -> Any:  # fmt: skip
    """what(recording, arguments), with the recording for arguments.

    Where these or what is given `besides` are Values, it is one that writes on their tape. So it is where the function
    uses a Value from around it: then the arguments, or those in `argnums`, become Values.
    """
    if evaluation.on_tape((args, besides)):
        return what(Unrecorded(shared.on_tape(args)), args)
    try:
        return what(shared.at(args)[0], args)
    except OuterValueError:
        return what(Unrecorded(shared.f), _as_values(args, argnums))
    except NeedsCarrierError:
        return what(shared.carrying(args)[0], args)


def _as_values(args: Sequence[Any], argnums: int | Sequence[int] | None = None) -> tuple[Any, ...]:
    """Arguments with Values in place of floats, so that what is asked of them is written on this thread's tape."""
    numbers = range(len(args)) if argnums is None else evaluation.checked(argument_numbers(argnums), len(args))
    found = list(args)
    for n in numbers:
        leaves, structure = pytree.flatten(args[n])
        given = [x if isinstance(x, Value) or not evaluation.is_float(x) else Value(x) for x in leaves]
        found[n] = pytree.unflatten(structure, given)
    return tuple(found)


def jacobian(
    f: Callable[P, Any], argnums: int | Sequence[int] = 0, sparse: bool = False, *, compile: bool | None = None
) -> Callable[P, Any]:
    """A function that computes the Jacobian J of f, J[i, j] = d f_i / d x_j.

    Args:
        f: returns an array, a number, or a nested structure of them.
        argnums: the argument, or arguments, to differentiate with respect to.
        sparse: whether to return one `scipy.sparse.csr_array`, (outputs, inputs), all outputs and all elements of the
            arguments numbered one after the other. Its pattern is found once a recording, and the columns or rows
            that share nothing are swept together.
        compile: as for `value_and_grad`. Sparse Jacobians in more than 16 lanes are swept by the interpreter anyway.

    The result has, for each output of shape S and each argument of shape T, an array of shape S + T; nested as the
    outputs, and within them as the arguments. It is computed in reverse mode where there are no more outputs than
    inputs, else in forward mode; several directions go in one pass.

    Raises IntegerInputError, and what `record` raises.

    >>> import numpy as np
    >>> jacobian(lambda x: x[1:] * x[:-1])(np.array([1.0, 2.0, 3.0]))
    array([[2., 1., 0.],
           [0., 3., 2.]])
    >>> jacobian(lambda x: x * x, sparse=True)(np.arange(3.0)).toarray().diagonal()
    array([0., 2., 4.])
    """
    derivative = _replayed(f, argnums, lambda r, args, own: r.jacobian(*args, argnums=own, sparse=sparse), compile)
    return made(derivative, compile, jacobian, f, argnums, sparse)


def jacrev(
    f: Callable[P, Any], argnums: int | Sequence[int] = 0, *, compile: bool | None = None
) -> Callable[P, Any]:
    """`jacobian`, from the outputs back: one adjoint for each output. `compile` is as for `value_and_grad`.

    >>> import numpy as np
    >>> jacrev(lambda x: np.sum(x * x))(np.array([1.0, 2.0]))
    array([2., 4.])
    """
    derivative = _replayed(f, argnums, lambda r, args, own: r.jacrev(*args, argnums=own), compile)
    return made(derivative, compile, jacrev, f, argnums)


def jacfwd(
    f: Callable[P, Any], argnums: int | Sequence[int] = 0, *, compile: bool | None = None
) -> Callable[P, Any]:
    """`jacobian`, from the inputs forward: one tangent for each input. `compile` is as for `value_and_grad`.

    >>> import numpy as np
    >>> jacfwd(lambda t: np.stack([np.cos(t), np.sin(t)]))(0.0)
    array([0., 1.])
    """
    derivative = _replayed(f, argnums, lambda r, args, own: r.jacfwd(*args, argnums=own), compile)
    return made(derivative, compile, jacfwd, f, argnums)


def hessian(
    f: Callable[P, Any], argnums: int | Sequence[int] = 0, sparse: bool = False, *, compile: bool | None = None
) -> Callable[P, Any]:
    """A function that computes the Hessian H of a scalar f, H[i, j] = d2 f / dx_i dx_j.

    The gradient is recorded as a program of its own, and its Jacobian taken forward. For an argument of shape T the
    result has shape T + T; for nested arguments it is nested twice. With `sparse` it is one `scipy.sparse.csr_array`
    over all elements of the arguments numbered, from a star colouring of its pattern. `compile` is as for
    `value_and_grad`; sparse Hessians in more than 16 lanes are swept by the interpreter anyway.

    Raises NonScalarError, IntegerInputError, and what `record` raises.

    >>> import numpy as np
    >>> hessian(lambda x: x[0] ** 2 * x[1])(np.array([1.0, 3.0]))
    array([[6., 2.],
           [2., 0.]])
    """
    derivative = _replayed(f, argnums, lambda r, args, own: r.hessian(*args, argnums=own, sparse=sparse), compile)
    return made(derivative, compile, hessian, f, argnums, sparse)


def make_hvp(
    f: Callable[P, Any], argnums: int | Sequence[int] = 0, *, compile: bool | None = None
) -> Callable[P, Callable[[Any], Any]]:
    """A function of f's arguments that returns the function v -> H v, H being the Hessian of f there.

    `compile` is as for `value_and_grad`. A compiled program computes the gradient again for each product, and only the
    arguments are kept; else all numbers of a replay are.

    >>> import numpy as np
    >>> product = make_hvp(lambda x: x[0] ** 2 * x[1])(np.array([1.0, 3.0]))
    >>> product(np.array([1.0, 0.0]))
    array([6., 2.])
    """
    derivative = _replayed(f, argnums, lambda r, args, own: r.make_hvp(*args, argnums=own), compile)
    return made(derivative, compile, make_hvp, f, argnums)


def elementwise_grad(
    f: Callable[P, Any], argnums: int | Sequence[int] = 0, *, compile: bool | None = None
) -> Callable[P, Any]:
    """The derivative of a function that works element by element, at every element: the gradient of the sum of f.

    `compile` is as for `value_and_grad`.

    >>> import numpy as np
    >>> elementwise_grad(np.sin)(np.array([0.0, np.pi])).round(6)
    array([ 1., -1.])
    """

    # What is kept with a function does not keep it alive, but what `made` has does.
    found = grad(attached(on_values(f), "sum", _sum_of), argnums, compile=behind(f, compile)[1])
    return made(found, compile, elementwise_grad, f, argnums)


def _sum_of(f: Callable[..., Any]) -> Callable[..., Any]:
    @named_like(f)
    def total(*args: Any, **kwargs: Any) -> Any:
        result = f(*args, **kwargs)
        return result.sum() if hasattr(result, "sum") and getattr(result, "shape", None) else result

    return total


def vjp(
    f: Callable[P, Any], *primals: Any, compile: bool | None = None
) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value of f, and the function from a cotangent w of its result to w'J, a cotangent for each primal.

    f is called once. The pullback may be called any number of times; it gives a tuple with one entry for each primal,
    nested as that primal, with None in place of what is no float. `compile` is as for `value_and_grad`. A compiled
    program computes f again for each cotangent, and only the primals are kept; else all numbers of a replay are.

    Raises what `record` raises; the pullback ShapeError, StructureError for a cotangent that does not match the result.

    >>> value, pullback = vjp(lambda x, y: x * y, 2.0, 3.0)
    >>> value, pullback(1.0)
    (6.0, (3.0, 2.0))
    """
    found: tuple[Any, Callable[[Any], tuple[Any, ...]]] = _answer(
        known(f, compile), primals, lambda r, args: r.vjp(*args)
    )
    return found


def jvp(
    f: Callable[P, Any], primals: Sequence[Any], tangents: Sequence[Any], *, compile: bool | None = None
) -> tuple[Any, Any]:
    """The value of f, and its derivative J v along tangents v, one for each primal. f is called once.

    A tangent is nested as its primal; None stands for zero. `compile` is as for `value_and_grad`.

    Raises ShapeError, StructureError for tangents that do not match, and what `record` raises.

    >>> jvp(lambda x, y: x * y, (2.0, 3.0), (1.0, 10.0))
    (6.0, 23.0)
    """
    matching.check_tuples(primals, tangents)
    found: tuple[Any, Any] = _answer(
        known(f, compile), tuple(primals), lambda recording, args: recording.jvp(args, tangents), besides=tangents
    )
    return found


def linearize(
    f: Callable[P, Any], *primals: Any, compile: bool | None = None
) -> tuple[Any, Callable[..., Any]]:
    """The value of f, and the function from tangents, one for each primal, to the derivative along them.

    f is called once, however many tangents follow. `compile` is as for `value_and_grad`. A compiled program computes f
    again for each tangent, and only the primals are kept; else all numbers of a replay are. Raises what `jvp` raises.

    >>> value, push = linearize(lambda x, y: x * y, 2.0, 3.0)
    >>> push(1.0, 0.0), push(0.0, 1.0)
    (3.0, 2.0)
    """
    found: tuple[Any, Callable[..., Any]] = _answer(
        known(f, compile), primals, lambda r, args: r.linearize(*args)
    )
    return found


def hvp(
    f: Callable[P, Any], primals: Sequence[Any], tangents: Sequence[Any], argnums: int | Sequence[int] | None = None,
    *, compile: bool | None = None,
) -> Any:  # fmt: skip
    """The Hessian of a scalar f times tangents: the derivative of its gradient along them, forward over reverse.

    Args:
        primals: the arguments.
        tangents: one for each argument that is differentiated.
        argnums: those arguments; by default all that hold nothing but floats.
        compile: as for `value_and_grad`.

    Returns the product, nested as the primal; a tuple for several. Raises NonScalarError, ShapeError, StructureError.

    >>> import numpy as np
    >>> hvp(lambda x: np.sum(x**3), (np.array([1.0, 2.0]),), (np.array([1.0, 1.0]),))
    array([ 6., 12.])
    """
    matching.check_tuples(primals, tangents)
    return _answer(
        known(f, compile), tuple(primals), lambda recording, args: recording.hvp(args, tangents, argnums), argnums,
        tangents,
    )  # fmt: skip
