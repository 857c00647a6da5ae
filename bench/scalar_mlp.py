"""micrograd's case: the gradient of a 2-16-16-1 perceptron of scalars over 100 points, with respect to its parameters.

tapegrad and CasADi record it once; micrograd builds its graph at each call. Parameters are fresh at each call.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import programs, tools
from bench.compare import Comparison

SIZES = (2, 16, 16, 1)
POINTS = 100


def _relu(functions: Any) -> Any:
    if functions is np:
        return lambda z: z.relu()
    if hasattr(functions, "fmax"):
        return lambda z: functions.fmax(z, 0)
    return functions.relu


def scalar_mlp() -> Comparison:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(POINTS, 2))
    targets = np.sign(points[:, 0] * points[:, 1])
    parameters = 0.3 * rng.normal(size=(6, programs.mlp_size(SIZES)))

    def program(x: Any, functions: Any) -> Any:
        return programs.squared_error(x, points, targets, SIZES, _relu(functions))

    count = programs.operations(
        lambda x: programs.squared_error(x, points, targets, SIZES, programs.Counter.relu), parameters[0]
    )
    contestants = {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "casadi", "micrograd")}
    return Comparison(f"2-16-16-1 perceptron of scalars, {POINTS} points, {count} operations", parameters, contestants)


COMPARISONS = [scalar_mlp]
