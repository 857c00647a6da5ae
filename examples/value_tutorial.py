"""The expressions of the autograd tutorials, every derivative checked against central differences.

    python examples/value_tutorial.py
    python examples/value_tutorial.py --draw pictures

Prints a table: for every expression its value, and for every leaf the derivative that `backward` found, the central
difference and their relative difference. The exit status is 1 if any two disagree. With `--draw`, pictures of every
expression before and after `backward` are saved to the folder given.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tapegrad import Value
from tapegrad.inspect import draw

# A step of the cube root of the machine epsilon balances truncation and rounding of a central difference.
STEP = float(np.finfo(float).eps) ** (1 / 3)
TOLERANCE = 1e-7


def product_of_sum(a: Any, b: Any, c: Any, f: Any) -> Any:
    """(a b + c) f, each step with its label."""
    e = a * b
    d = e + c
    L = d * f
    return named(e=e, d=d, L=L)


def neuron(x1: Any, x2: Any, w1: Any, w2: Any, b: Any) -> Any:
    """A neuron with two inputs."""
    n = weighted_sum(x1, x2, w1, w2, b)
    return named(n=n, o=np.tanh(n))


def neuron_from_exp(x1: Any, x2: Any, w1: Any, w2: Any, b: Any) -> Any:
    """The same neuron, its tanh written as (e^2n - 1) / (e^2n + 1)."""
    n = weighted_sum(x1, x2, w1, w2, b)
    e = np.exp(2 * n)
    return named(n=n, e=e, o=(e - 1) / (e + 1))


def weighted_sum(x1: Any, x2: Any, w1: Any, w2: Any, b: Any) -> Any:
    x1w1, x2w2 = x1 * w1, x2 * w2
    both = x1w1 + x2w2
    named(**{"x1*w1": x1w1, "x2*w2": x2w2, "x1*w1 + x2*w2": both})
    return both + b


def named(**steps: Any) -> Any:
    """Label Values, and return the last."""
    for label, step in steps.items():
        if isinstance(step, Value):
            step.label = label
    return step


class Expression(NamedTuple):
    name: str
    function: Callable[..., Any]
    leaves: dict[str, float]
    # What pencil and paper say; a mistake in both `backward` and the differences would have to fool this too.
    value: float


HALF_SQRT_2 = math.sqrt(0.5)
# The bias is chosen so that n = artanh(sqrt(1/2)), where tanh has the derivative 1/2.
NEURON = {"x1": 2.0, "x2": 0.0, "w1": -3.0, "w2": 1.0, "b": 6.0 + math.atanh(HALF_SQRT_2)}

EXPRESSIONS = [
    Expression("(a*b + c)*f", product_of_sum, {"a": 2.0, "b": -3.0, "c": 10.0, "f": -2.0}, -8.0),
    Expression("tanh(x1*w1 + x2*w2 + b)", neuron, NEURON, HALF_SQRT_2),
    Expression("the same from exp", neuron_from_exp, NEURON, HALF_SQRT_2),
    Expression("a + a", lambda a: a + a, {"a": 3.0}, 6.0),
    Expression("3x^3 + 4x + 1 + x*z", lambda x, z: 3 * x**3 + 4 * x + 1 + x * z, {"x": 2.0, "z": -1.5}, 30.0),
    Expression("(a*b + c)*d", lambda a, b, c, d: (a * b + c) * d, {"a": 3.0, "b": 4.0, "c": 5.0, "d": 2.0}, 34.0),
]


def central_difference(expression: Expression, name: str) -> float:
    """(f(x + h) - f(x - h)) / 2h in plain floats, which know nothing of tapes."""
    x = expression.leaves[name]
    high, low = x + STEP * max(1.0, abs(x)), x - STEP * max(1.0, abs(x))
    f = expression.function
    rise = f(**{**expression.leaves, name: high}) - f(**{**expression.leaves, name: low})
    return float(rise / (high - low))


def relative_error(found: float, expected: float) -> float:
    return abs(found - expected) / max(1.0, abs(expected))


def check(expression: Expression, folder: Path | None, number: int) -> int:
    """Print the rows of one expression; returns how many numbers disagree."""
    leaves = {name: Value(x, label=name) for name, x in expression.leaves.items()}
    result = expression.function(**leaves)
    if folder:
        draw(result).save(folder / f"{number}-before.svg")
    result.backward()
    if folder:
        draw(result).save(folder / f"{number}-after.svg")
    error = relative_error(result.item(), expression.value)
    wrong: int = row(expression.name, "value", result.item(), expression.value, error)
    for name, leaf in leaves.items():
        difference = central_difference(expression, name)
        wrong += row("", f"d/d{name}", leaf.grad, difference, relative_error(leaf.grad, difference))
    return wrong


def row(expression: str, what: str, found: float, expected: float, error: float) -> bool:
    agrees = error <= TOLERANCE
    print(f"{expression:<24} {what:<6} {found:>14.8f} {expected:>18.8f} {error:>14.1e}{'' if agrees else '  WRONG'}")
    return not agrees


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="The tutorials' expressions, checked.")
    parser.add_argument("--draw", metavar="FOLDER", type=Path, help="save pictures before and after backward there")
    options = parser.parse_args(arguments)
    if options.draw:
        options.draw.mkdir(parents=True, exist_ok=True)
    print(f"{'expression':<24} {'':<6} {'tapegrad':>14} {'expected':>18} {'relative error':>14}")
    wrong = sum(check(e, options.draw, number) for number, e in enumerate(EXPRESSIONS, start=1))
    print("expected: of values, pencil and paper; of derivatives, central differences")
    print(f"{wrong} disagree" if wrong else "all agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
