"""A Gaussian process: hyperparameters by marginal likelihood, and the band that it predicts.

    python examples/gaussian_process.py

Observations of a curve, with noise and a gap. Length, amplitude and noise of a squared exponential kernel are found by
minimising the negative logarithm of the marginal likelihood with Newton's method in a trust region, which takes the
gradient and the Hessian of a function that has a Cholesky factorisation in it. Then mean and standard deviation of the
posterior are drawn.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tapegrad as tg
from tapegrad.optimize import minimize
from tapegrad.scipy.linalg import cho_factor, cho_solve, solve_triangular

Array = NDArray[np.float64]


def curve(x: Array) -> Array:
    return np.sin(1.3 * x) + 0.3 * x


def observations(n: int, noise: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Noisy observations of the curve, with a gap in the midst of them."""
    x = np.sort(np.concatenate([rng.uniform(0.0, 4.0, n - n // 2), rng.uniform(6.5, 10.0, n // 2)]))
    return x, curve(x) + noise * rng.normal(size=n)


def kernel(p: dict[str, Any], x: Array, z: Array) -> Any:
    """The covariance of the curve at places x and z; p has the logarithms of the hyperparameters."""
    return np.exp(2.0 * p["amplitude"] - 0.5 * (x[:, None] - z) ** 2 * np.exp(-2.0 * p["length"]))


def covariance(p: dict[str, Any], x: Array) -> Any:
    """That of observations."""
    return kernel(p, x, x) + np.exp(2.0 * p["noise"]) * np.eye(len(x))


def negative_log_likelihood(p: dict[str, Any], x: Array, y: Array) -> Any:
    """-log p(y | x): half of y' K^-1 y, of log det K, and of n log 2 pi."""
    factor = cho_factor(covariance(p, x), lower=True)
    return 0.5 * y @ cho_solve(factor, y) + np.sum(np.log(np.diagonal(factor[0]))) + 0.5 * len(x) * np.log(2.0 * np.pi)


def posterior(p: dict[str, Any], x: Array, y: Array, z: Array) -> tuple[Any, Any]:
    """Mean and standard deviation of the curve at places z, given observations."""
    factor, across = cho_factor(covariance(p, x), lower=True), kernel(p, x, z)
    whitened = solve_triangular(factor[0], across, lower=True)
    variance = np.exp(2.0 * p["amplitude"]) - np.sum(whitened**2, 0)
    return across.T @ cho_solve(factor, y), np.sqrt(np.maximum(variance, 0.0))


def draw(path: Path, x: Array, y: Array, z: Array, mean: Array, deviation: Array, noise: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    figure, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")
    bands = ("#dbe6f2", np.hypot(deviation, noise), "observations, 95 %"), ("#a9c5e3", deviation, "curve, 95 %")
    for colour, width, label in bands:
        axes.fill_between(z, mean - 1.96 * width, mean + 1.96 * width, color=colour, lw=0, label=label)
    axes.plot(z, mean, color="#2f6db5", lw=2, label="posterior mean")
    axes.plot(z, curve(z), color="#22252b", lw=1, ls="dashed", label="curve")
    axes.scatter(x, y, s=18, color="#c7641c", edgecolors="white", linewidths=0.5, zorder=3, label="observed")
    axes.set(title="Gaussian process, hyperparameters by marginal likelihood", xlabel="x", ylabel="y")
    axes.legend(loc="upper left", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A Gaussian process, its hyperparameters by marginal likelihood.")
    parser.add_argument("--points", type=int, default=80, help="observations (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.2, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("gaussian_process.png"), help="the figure (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    if chosen.points < 2 or not chosen.noise > 0.0:
        parser.error("--points must be at least 2, and --noise positive")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')

    x, y = observations(chosen.points, chosen.noise, np.random.default_rng(chosen.seed))
    start = {"length": 0.0, "amplitude": 0.0, "noise": -1.0}
    result = minimize(lambda p: negative_log_likelihood(p, x, y), start, method="trust-exact")
    found = {name: float(np.exp(value)) for name, value in result.x.items()}
    print(f"{chosen.points} observations, negative log likelihood {result.fun:.3f} after {result.nit} steps")
    print(", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    gradient = tg.grad(negative_log_likelihood)(result.x, x, y)
    print(f"largest element of the gradient {max(abs(g) for g in gradient.values()):.1e}")

    z = np.linspace(-0.5, 11.0, 400)
    mean, deviation = posterior(result.x, x, y, z)
    inside = np.mean(np.abs(mean - curve(z)) < 1.96 * deviation)
    print(f"{inside:.0%} of the curve within the band")
    draw(chosen.output, x, y, z, mean, deviation, found["noise"])
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
