"""Programs of single numbers for `bench.native`: N-body, a determinant, least squares in Python's loops, an LSTM cell.

Each is written once, with Python's operators, for all tools that take numbers one by one. JAX does not get through
compiling such programs unrolled: the determinant of a 6 by 6 matrix (1,955 operations) takes it five seconds, that of
a 7 by 7 matrix more than 150. Where a program has a loop over steps, JAX is given the loop as a scan over arrays.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np

from bench import programs, tools
from bench.compare import Comparison, Ready, phase

SIDE = 8  # rows of the determinant
ROWS, PARAMETERS = 200, 10  # of the least squares
TOLERANCE = 1e-9


def numba_by_hand(name: str, x: Any, *rest: Any) -> Ready:
    """A function of `bench.by_hand` of x and what else it takes."""
    from bench import by_hand

    function = getattr(by_hand, name)
    phases: dict[str, float] = {}
    with phase(phases, "compile"):
        function(x, *rest)
    return Ready(lambda x: function(x, *rest), phases=phases)


def nbody(steps: int) -> Comparison:
    def program(x: Any, functions: Any) -> Any:
        return programs.nbody(x, functions.sqrt, steps)

    states = programs.nbody_states(6)
    contestants = {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "casadi")}
    if steps <= 10:  # a compiler of C takes minutes for more
        contestants["casadi, C"] = partial(tools.casadi, program, in_c=True)
    contestants["Numba by hand"] = lambda x: numba_by_hand("nbody", x, steps)
    return Comparison(f"N-body, {steps} steps: gradient", states, contestants, tolerance=TOLERANCE)


def determinant(rows: list[list[Any]]) -> Any:
    """By minors along the first row, each computed by itself: for 8 rows 109,599 operations."""
    if len(rows) == 1:
        return rows[0][0]
    total: Any = None
    for j, number in enumerate(rows[0]):
        term = number * determinant([row[:j] + row[j + 1 :] for row in rows[1:]])
        total = term if total is None else total - term if j % 2 else total + term
    return total


def minors() -> Comparison:
    def program(x: Any, functions: Any) -> Any:
        return determinant([[x[SIDE * i + j] for j in range(SIDE)] for i in range(SIDE)])

    rng = np.random.default_rng(40)
    contestants = {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "casadi")}
    return Comparison(
        f"determinant by minors, {SIDE} by {SIDE}: gradient",
        list(rng.normal(size=(4, SIDE * SIDE))), contestants, tolerance=TOLERANCE,
    )  # fmt: skip


def least_squares() -> Comparison:
    rng = np.random.default_rng(41)
    rows, targets = rng.normal(size=(ROWS, PARAMETERS)), rng.normal(size=ROWS)
    numbers = list(zip(rows.tolist(), targets.tolist()))

    def program(p: Any, functions: Any) -> Any:
        p = [p[j] for j in range(PARAMETERS)]
        total: Any = 0.0
        for row, target in numbers:
            error: Any = -target
            for a, b in zip(row, p):
                error = error + a * b
            total = total + error * error
        return total

    contestants = {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "casadi")}
    contestants["Numba by hand"] = lambda x: numba_by_hand("least_squares", x, rows, targets)
    return Comparison(
        f"least squares in loops over numbers, {ROWS} rows, {PARAMETERS} parameters: gradient",
        list(rng.normal(size=(6, PARAMETERS))), contestants, tolerance=TOLERANCE,
    )  # fmt: skip


# An LSTM cell over a sequence: of each step's output and target, the squared difference.

HIDDEN, INPUTS, STEPS = 8, 2, 1000
WIDTH = HIDDEN + INPUTS + 1  # of a row of weights: of the state, of the inputs, and what is added
WEIGHTS = 4 * HIDDEN * WIDTH + HIDDEN


@cache
def sequence() -> tuple[np.ndarray, np.ndarray]:
    """Inputs of 1,000 steps, and targets."""
    rng = np.random.default_rng(42)
    return rng.normal(size=(STEPS, INPUTS)), np.sin(0.05 * np.arange(STEPS))


def lstm_numbers(p: Any, functions: Any) -> Any:
    """Number by number: the mean squared difference of outputs and targets."""
    tanh = functions.tanh
    p = [p[i] for i in range(WEIGHTS)]
    rows = [p[WIDTH * i : WIDTH * (i + 1)] for i in range(4 * HIDDEN)]
    h: list[Any] = [0.0] * HIDDEN
    c: list[Any] = [0.0] * HIDDEN
    total: Any = 0.0
    for inputs, target in zip(*(array.tolist() for array in sequence())):
        z = []
        for row in rows:
            number = row[-1]
            for a, b in zip(row, [*h, *inputs]):
                number = number + a * b
            z.append(number)
        gates = [0.5 * tanh(0.5 * number) + 0.5 for number in z[: 3 * HIDDEN]]
        for i in range(HIDDEN):
            c[i] = gates[HIDDEN + i] * c[i] + gates[i] * tanh(z[3 * HIDDEN + i])
            h[i] = gates[2 * HIDDEN + i] * tanh(c[i])
        error = -target
        for a, b in zip(p[-HIDDEN:], h):
            error = error + a * b
        total = total + error * error
    return total / STEPS


def _cell(z: Any, c: Any, functions: Any) -> tuple[Any, Any]:
    gates = 0.5 * functions.tanh(0.5 * z[: 3 * HIDDEN]) + 0.5
    c = gates[HIDDEN : 2 * HIDDEN] * c + gates[:HIDDEN] * functions.tanh(z[3 * HIDDEN :])
    return gates[2 * HIDDEN :] * functions.tanh(c), c


def _weights(p: Any, inputs: Any) -> tuple[Any, Any, Any]:
    # Of the state, what inputs add at each step, and of the output.
    rows = p[:-HIDDEN].reshape(4 * HIDDEN, WIDTH)
    return rows[:, :HIDDEN], inputs @ rows[:, HIDDEN:-1].T + rows[:, -1], p[-HIDDEN:]


def lstm_arrays(p: Any, functions: Any, inputs: Any, targets: Any) -> Any:
    """The same, an array a gate."""
    of_state, added, readout = _weights(p, inputs)
    h, c, total = np.zeros(HIDDEN), np.zeros(HIDDEN), 0.0
    for step in range(STEPS):
        h, c = _cell(of_state @ h + added[step], c, functions)
        total = total + (readout @ h - targets[step]) ** 2
    return total / STEPS


def lstm_scan(p: Any, functions: Any, inputs: Any, targets: Any) -> Any:
    """The same in JAX's loop."""
    import jax

    of_state, added, readout = _weights(p, inputs)

    def step(carry: Any, given: Any) -> Any:
        h, c, total = carry
        h, c = _cell(of_state @ h + given[0], c, functions)
        return (h, c, total + (readout @ h - given[1]) ** 2), None

    start = functions.zeros(HIDDEN), functions.zeros(HIDDEN), 0.0
    return jax.lax.scan(step, start, (added, targets))[0][2] / STEPS


def _lstm(name: str, ours: Any) -> Comparison:
    rng = np.random.default_rng(43)
    contestants = {"tapegrad": ours, "jax, scan": partial(tools.jax, lstm_scan, data=sequence)}
    name = f"LSTM of {HIDDEN} over {STEPS} steps, {name}: gradient"
    return Comparison(name, list(0.3 * rng.normal(size=(4, WEIGHTS))), contestants, tolerance=TOLERANCE)


def lstm_of_arrays() -> Comparison:
    return _lstm("arrays", partial(tools.tapegrad, lstm_arrays, data=sequence))


def lstm_of_numbers() -> Comparison:
    return _lstm("numbers one by one", partial(tools.tapegrad, lstm_numbers))
