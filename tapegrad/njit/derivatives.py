"""First derivatives of a Numba function at plain numbers: a run that records, and sweeps over what it recorded.

Every call records anew, so there are no guards, and any way that the function may take is the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import evaluation, matching
from tapegrad.arguments import argument_numbers
from tapegrad.errors import IntegerInputError
from tapegrad.njit.kept_loops import sweep_back, sweep_on
from tapegrad.njit.memory import FIRST, Tape, taken
from tapegrad.njit.results import Result, nested, scalar, seeds
from tapegrad.njit.runs import Function, check_floats, is_real

_DOUBLE = np.dtype(np.float64)


class Run:
    """One call of a function, with the tape that it left.

    Attributes: `result`; `count`, how many numbers are differentiated, whose rows are the first.
    """

    def __init__(self, function: Function, tape: Tape, args: Sequence[Any], numbers: Sequence[int]) -> None:
        self.tape, self.args, self.numbers = tape, args, numbers
        returned, self._leaves = function.run(tape, True, args, [n in numbers for n in range(len(args))])
        self.result = Result(returned)
        self.count = sum(np.size(x) for x in self._leaves)
        self.length = tape.length

    def pull(self, seeds: Sequence[tuple[Any, Any]]) -> np.ndarray:
        """The adjoints of what is differentiated, for adjoints of rows."""
        adjoints = self.tape.cleared(self.length)
        for rows, w in seeds:
            if isinstance(rows, int):
                adjoints[rows] += w
            else:
                np.add.at(adjoints, rows, w)
        # Row 0 stands for what depends on nothing.
        adjoints[0] = 0.0
        sweep_back(self.tape, FIRST + self.count, self.length)
        return adjoints[FIRST : FIRST + self.count]

    def push(self, tangents: np.ndarray) -> list[np.ndarray]:
        """The tangents of the leaves of the result, for those of what is differentiated."""
        found = self.tape.cleared(self.length)
        found[FIRST : FIRST + self.count] = tangents
        sweep_on(self.tape, FIRST + self.count, self.length)
        found[0] = 0.0
        return [
            np.zeros(np.shape(x)) if rows is None else found[rows]
            for x, rows in zip(self.result.leaves, self.result.rows, strict=True)
        ]

    def shaped(self, flat: np.ndarray, numbers: Sequence[int], lead: tuple[int, ...] = ()) -> list[Any]:
        """Numbers for what is differentiated, on the last axis, nested as the arguments in `numbers`."""
        at = 0
        found: dict[int, Any] = {}

        def part(x: Any) -> Any:
            nonlocal at
            if isinstance(x, tuple):
                parts = [part(y) for y in x]
                return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
            if not is_real(x):
                return None
            own = flat[..., at : at + np.size(x)].reshape((*lead, *np.shape(x)))
            at += np.size(x)
            if isinstance(x, np.ndarray):
                return own.astype(x.dtype if x.dtype.itemsize >= 2 else _DOUBLE)
            return own.copy() if lead else float(own)

        for n in range(len(self.args)):
            if n in self.numbers:
                found[n] = part(self.args[n])
        return [found[n] for n in numbers]


def value_and_grad(
    function: Function, args: Sequence[Any], argnums: int | Sequence[int], has_aux: bool = False
) -> tuple[Any, Any]:
    """The value and its gradient; see `tapegrad.value_and_grad`."""
    numbers = evaluation.checked(argument_numbers(argnums), len(args))
    check_floats(args, numbers)
    with taken(True) as tape:
        run = Run(function, tape, args, numbers)
        row = scalar(run.result, has_aux)
        flat = np.zeros(run.count) if row is None else run.pull([(row, 1.0)])
        grads = run.shaped(flat, numbers)
        return run.result.value, grads[0] if isinstance(argnums, int) else tuple(grads)


def jacobian(
    function: Function, args: Sequence[Any], argnums: int | Sequence[int] = 0, back: bool | None = None
) -> Any:
    """The Jacobian; see `tapegrad.jacobian`. `back` says in which direction, None that it is chosen."""
    numbers = evaluation.checked(argument_numbers(argnums), len(args))
    check_floats(args, numbers)
    with taken(True) as tape:
        run = Run(function, tape, args, numbers)
        result = run.result
        matching.check_numbers(result.leaves)
        if back is None:
            back = result.size <= run.count
        matrix = _rows(run) if back else _columns(run)
        parts, at = [], 0
        for x in result.leaves:
            own = matrix[at : at + np.size(x)]
            at += np.size(x)
            found = run.shaped(own.reshape((*np.shape(x), run.count)), numbers, np.shape(x))
            if not np.shape(x):
                found = [_plain(g) for g in found]
            parts.append(found[0] if isinstance(argnums, int) else tuple(found))
        return nested(result, parts)


def _plain(g: Any) -> Any:
    if isinstance(g, tuple):
        return type(g)(*map(_plain, g)) if hasattr(g, "_fields") else tuple(map(_plain, g))
    return g if g is None or np.ndim(g) else float(g)


def _rows(run: Run) -> np.ndarray:
    matrix = np.zeros((run.result.size, run.count))
    at = 0
    for x, rows in zip(run.result.leaves, run.result.rows, strict=True):
        for i, row in enumerate(np.ravel(rows) if rows is not None else ()):
            matrix[at + i] = run.pull([(row, 1.0)])
        at += np.size(x)
    return matrix


def _columns(run: Run) -> np.ndarray:
    matrix = np.zeros((run.result.size, run.count))
    for j in range(run.count):
        unit = np.zeros(run.count)
        unit[j] = 1.0
        matrix[:, j] = np.concatenate([np.ravel(t) for t in run.push(unit)])
    return matrix


def _all(args: Sequence[Any]) -> list[int]:
    return list(range(len(args)))


def vjp(function: Function, primals: Sequence[Any]) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
    """The value and the pullback; see `tapegrad.vjp`. The tape is kept as long as the pullback."""
    primals = _copied(primals)
    with taken(True, keep=True) as tape:
        run = Run(function, tape, primals, _all(primals))

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        with run.tape.lock:
            return tuple(run.shaped(run.pull(seeds(run.result, cotangent)), _all(primals)))

    return run.result.value, pullback


def linearize(function: Function, primals: Sequence[Any]) -> tuple[Any, Callable[..., Any]]:
    """The value and the function from tangents to that of the result; see `tapegrad.linearize`."""
    primals = _copied(primals)
    with taken(True, keep=True) as tape:
        run = Run(function, tape, primals, _all(primals))

    def push(*tangents: Any) -> Any:
        matching.check_tuples(primals, tangents)
        with run.tape.lock:
            return _pushed(run, tangents)

    return run.result.value, push


def jvp(function: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value and its derivative along tangents; see `tapegrad.jvp`."""
    matching.check_tuples(primals, tangents)
    with taken(True) as tape:
        run = Run(function, tape, primals, _all(primals))
        return run.result.value, _pushed(run, tangents)


def pulled(function: Function, args: Sequence[Any], numbers: Sequence[int], cotangent: Any) -> list[Any]:
    """The derivatives of <cotangent, result> by the arguments in `numbers`."""
    with taken(True) as tape:
        run = Run(function, tape, args, numbers)
        return run.shaped(run.pull(seeds(run.result, cotangent)), numbers)


def pushed(function: Function, args: Sequence[Any], numbers: Sequence[int], tangents: Sequence[Any]) -> Any:
    """The derivative of the result along tangents of the arguments in `numbers`; those of others are not read."""
    with taken(True) as tape:
        return _pushed(Run(function, tape, args, numbers), tangents)


def _copied(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(x.copy() if isinstance(x, np.ndarray) else x for x in args)


def _pushed(run: Run, tangents: Sequence[Any]) -> Any:
    if len(tangents) != len(run.args):
        from tapegrad.errors import ShapeError

        raise ShapeError(f"there are {len(tangents)} tangents for {len(run.args)} arguments")
    flat: list[Any] = [np.zeros(0)]
    for n, (x, t) in enumerate(zip(run.args, tangents, strict=True)):
        if n not in run.numbers:
            continue
        leaves, structure = pytree.flatten(x)
        given = matching.matching(t, structure, [np.shape(y) for y in leaves], f"tangent of argument {n}", "argument")
        for leaf, along in zip(leaves, given, strict=True):
            if is_real(leaf):
                along = np.zeros(np.shape(leaf)) if along is None else along
                flat.append(matching.real_numbers(along, _DOUBLE, "a tangent").reshape(-1))
            elif along is not None and np.any(along):
                raise IntegerInputError(f"argument {n} holds integers: their tangent can only be zero, or None")
    found = run.push(np.concatenate(flat))
    return nested(run.result, [float(t) if not np.ndim(t) else t for t in found])
