"""Functions of matrices: the marginal likelihood of a Gaussian process, and calls of small factorisations.

The negative log marginal likelihood of 150 noisy observations with a squared exponential kernel, in three
hyperparameters: its gradient and its Hessian. JAX is compiled; PyTorch is eager. Results are compared before anything
is timed. Matrices of three by three show what a call costs where arithmetic takes no time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench import tools
from bench.compare import Comparison, Ready, phase

OBSERVATIONS = 150
INPUTS = 6


def observations() -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of the places, and what was observed there."""
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(0.0, 10.0, OBSERVATIONS))
    return (x[:, None] - x) ** 2, np.sin(x) + 0.2 * rng.normal(size=OBSERVATIONS)


def likelihood(p: Any, functions: Any, apart: Any, y: Any, solve: Callable[[Any, Any], Any], eye: Any) -> Any:
    """The negative log marginal likelihood, but for a constant; p has the logarithms of length, scale and noise."""
    length, scale, noise = (functions.exp(2.0 * p[i]) for i in range(3))
    kernel = scale * functions.exp(-0.5 * apart / length) + noise * eye
    factor = functions.linalg.cholesky(kernel)
    whitened = solve(factor, y)
    return 0.5 * functions.sum(whitened * whitened) + functions.sum(functions.log(functions.diagonal(factor)))


def _tapegrad(kind: str, x: Any) -> Ready:
    import tapegrad as tg
    from tapegrad.scipy.linalg import solve_triangular

    (apart, y), eye = observations(), np.eye(OBSERVATIONS)
    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda p: likelihood(p, np, apart, y, partial(solve_triangular, lower=True), eye), x)
    run = recording.value_and_grad if kind == "gradient" else recording.hessian
    with phase(phases, "first call"):
        run(x)
    return Ready(run, phases=phases)


def _jax(kind: str, x: Any) -> Ready:
    import jax
    from jax.scipy.linalg import solve_triangular

    def program(p: Any, functions: Any, apart: Any, y: Any) -> Any:
        return likelihood(p, functions, apart, y, partial(solve_triangular, lower=True), functions.eye(OBSERVATIONS))

    return tools.jax(program, x, observations, jax.value_and_grad if kind == "gradient" else jax.hessian)


def _torch(kind: str, x: Any) -> Ready:
    import torch

    (apart, y), eye = map(torch.from_numpy, observations()), torch.eye(OBSERVATIONS, dtype=torch.float64)

    def solve(factor: Any, y: Any) -> Any:
        return torch.linalg.solve_triangular(factor, y[:, None], upper=False)[:, 0]

    def program(p: Any) -> Any:
        return likelihood(p, torch, apart, y, solve, eye)

    def gradient(x: Any) -> Any:
        value = program(x)
        return value.detach(), torch.autograd.grad(value, x)[0]

    def hessian(x: Any) -> Any:
        return torch.autograd.functional.hessian(program, x)

    def prepare(x: Any) -> Any:
        return torch.tensor(x, requires_grad=kind == "gradient")

    return Ready(gradient if kind == "gradient" else hessian, prepare=prepare)


def _comparison(kind: str) -> Comparison:
    rng = np.random.default_rng(1)
    contestants = {"tapegrad": _tapegrad, "jax.jit": _jax, "torch": _torch}
    return Comparison(
        name=f"Gaussian process of {OBSERVATIONS} observations, {kind}",
        tools={tool: partial(make, kind) for tool, make in contestants.items()},
        inputs=[np.array([0.0, 0.0, -1.5]) + 0.2 * rng.normal(size=3) for _ in range(INPUTS)],
        unit="gradient" if kind == "gradient" else "Hessian",
        tolerance=1e-7,
    )


def _small(name: str, program: Callable[[Any, Any], Any]) -> Comparison:
    rng = np.random.default_rng(2)

    def matrix() -> np.ndarray:
        a = rng.normal(size=(3, 3))
        return a @ a.T + np.eye(3)

    return Comparison(
        name=f"{name} of a matrix of 3 by 3, value and gradient",
        tools={
            "tapegrad": partial(tools.tapegrad, program), "jax.jit": partial(tools.jax, program),
            "torch": partial(tools.torch, program),
        },
        inputs=[matrix() for _ in range(INPUTS)],
        unit="gradient",
        tolerance=1e-10,
    )  # fmt: skip


COMPARISONS = [
    partial(_comparison, "gradient"),
    partial(_comparison, "Hessian"),
    partial(_small, "sum of the Cholesky factor", lambda a, functions: functions.sum(functions.linalg.cholesky(a))),
    partial(_small, "sum of the solution", lambda a, functions: functions.sum(functions.linalg.solve(a, a[0] * a[1]))),
]
