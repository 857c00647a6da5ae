"""A Hamiltonian Monte Carlo sampler wholly inside one Numba function, for a log density that is written in NumPy.

    python examples/njit_sampler.py

The density is a banana, which a normal distribution is bent to, beside two numbers that are strongly correlated. It is
an ordinary function of Python, recorded once and compiled; the sampler is handed the recording, and calls its gradient
some 60,000 times with no Python in between. Moments of the sample are printed with their errors beside the true ones;
trace and histograms are drawn, these with the true marginal densities.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

import tapegrad as tg

Array = NDArray[np.float64]

WIDE, NARROW, BEND, CORRELATION = 1.2, 0.6, 0.5, 0.9
NAMES = ("x0", "x1", "x2", "x3")
# Of x1 = BEND (x0^2 - WIDE^2) + NARROW z, and of the two that are correlated.
MEANS = np.zeros(4)
DEVIATIONS = np.array([WIDE, np.sqrt(2.0 * BEND**2 * WIDE**4 + NARROW**2), 1.0, 1.0])


def log_density(x: Array) -> Any:
    """But for a constant."""
    banana = (x[0] / WIDE) ** 2 + ((x[1] - BEND * (x[0] ** 2 - WIDE**2)) / NARROW) ** 2
    pair = (x[2] ** 2 - 2.0 * CORRELATION * x[2] * x[3] + x[3] ** 2) / (1.0 - CORRELATION**2)
    return -0.5 * (banana + pair)


@numba.njit
def sample(
    density: tg.Recording, x: Array, warm_up: int, samples: int, steps: int, rng: np.random.Generator
) -> tuple[Array, float]:
    """A chain of so many samples, after those in which the step size is found; also how many were accepted.

    For each, so many leapfrog steps are taken with a random momentum. Their size is changed a little each time, so that
    no orbit closes, and while warming up so that nine of ten proposals are accepted.
    """
    chain = np.empty((samples, len(x)))
    size, accepted = 0.1, 0
    value, slope = density.value_and_grad(x)
    for i in range(warm_up + samples):
        momentum = rng.normal(0.0, 1.0, len(x))
        before = value - 0.5 * np.sum(momentum**2)
        step = size * rng.uniform(0.4, 1.2)
        y, there, uphill = x, value, slope
        for _ in range(steps):
            momentum = momentum + 0.5 * step * uphill
            y = y + step * momentum
            there, uphill = density.value_and_grad(y)
            momentum = momentum + 0.5 * step * uphill
        gained = there - 0.5 * np.sum(momentum**2) - before
        # Where steps were much too large, numbers have run away.
        chance = np.exp(min(0.0, gained)) if np.isfinite(gained) else 0.0
        if rng.random() < chance:
            x, value, slope = y, there, uphill
            accepted += i >= warm_up
        if i < warm_up:
            size *= np.exp((chance - 0.9) / (1.0 + i) ** 0.6)
        else:
            chain[i - warm_up] = x
    return chain, accepted / samples


def standard_error(x: Array) -> float:
    """Of the mean of a chain, whose numbers hang together: by the means of 30 stretches of it."""
    n = len(x) // 30 * 30
    return float(np.std(x[:n].reshape(30, -1).mean(1), ddof=1) / np.sqrt(30))


def marginal(name: str, t: Array) -> Any:
    """The true density of a number at places t."""

    def normal(z: Any) -> Any:
        return np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)

    if name == "x1":
        z = np.linspace(-8.0, 8.0, 4001)
        bent = BEND * WIDE**2 * (z**2 - 1.0)
        return np.trapezoid(normal(z) * normal((t[:, None] - bent) / NARROW) / NARROW, z)
    width = WIDE if name == "x0" else 1.0
    return normal(t / width) / width


def draw(path: Path, chain: Array) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    figure, axes = plt.subplot_mosaic(
        [["trace", "trace", "banana"], ["x0", "x1", "x2"]], figsize=(11, 6.4), layout="constrained"
    )
    blue, orange, dark = "#2f6db5", "#c7641c", "#22252b"
    axes["trace"].plot(chain[:500, 1], color=orange, lw=0.8, label="x1")
    axes["trace"].plot(chain[:500, 0], color=blue, lw=0.8, label="x0")
    axes["trace"].set(title="Trace, the first 500 samples", xlabel="sample", ylabel="x")
    axes["trace"].legend(loc="upper right", fontsize=9, ncols=2)
    across = np.linspace(-5.0, 5.0, 200)
    axes["banana"].scatter(chain[:, 0], chain[:, 1], s=3, color=blue, alpha=0.35, lw=0, label="samples")
    axes["banana"].plot(across, BEND * (across**2 - WIDE**2), color=dark, lw=1, ls="dashed", label="ridge")
    axes["banana"].set(title="Two of four numbers", xlabel="x0", ylabel="x1")
    axes["banana"].set_ylim(chain[:, 1].min() - 1.0, chain[:, 1].max() + 1.0)
    axes["banana"].legend(loc="upper center", fontsize=9)
    for n, name in enumerate(NAMES[:3]):
        t = np.linspace(chain[:, n].min(), chain[:, n].max(), 300)
        axes[name].hist(chain[:, n], bins=60, density=True, color="#a9c5e3", label="samples")
        axes[name].plot(t, marginal(name, t), color=dark, lw=1.2, label="true density")
        axes[name].set(title=f"Density of {name}", xlabel=name, yticks=[])
        axes[name].legend(fontsize=9)
    for each in axes.values():
        each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Hamiltonian Monte Carlo inside one Numba function.")
    parser.add_argument("--samples", type=int, default=5500, help="(default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=500, help="samples before these (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="gradients for a sample (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("njit_sampler.png"), help="the figure (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    if chosen.samples < 60 or chosen.warm_up < 0 or chosen.steps < 1:
        parser.error("--samples must be at least 60, --steps at least 1, and --warm-up not negative")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')

    start = time.perf_counter()
    density = tg.record(log_density, np.zeros(4)).compile()
    sample(density, np.zeros(4), 1, 1, 1, np.random.default_rng(0))
    print(f"recorded and compiled in {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    rng = np.random.default_rng(chosen.seed)
    chain, accepted = sample(density, np.zeros(4), chosen.warm_up, chosen.samples, chosen.steps, rng)
    seconds = time.perf_counter() - start
    gradients = chosen.steps * (chosen.warm_up + chosen.samples) + 1
    print(f"{gradients:,} gradients in {seconds:.3f} s, {accepted:.0%} accepted")
    for n, name in enumerate(NAMES):
        x, second = chain[:, n], (chain[:, n] - MEANS[n]) ** 2
        wide = np.sqrt(np.mean(second))
        print(
            f"{name}: mean {np.mean(x):.3f} ± {standard_error(x):.3f} (true {MEANS[n]:.3f}), "
            f"deviation {wide:.3f} ± {standard_error(second) / (2.0 * wide):.3f} (true {DEVIATIONS[n]:.3f})"
        )
    print(f"correlation of x2 and x3 {np.corrcoef(chain[:, 2], chain[:, 3])[0, 1]:.3f} (true {CORRELATION})")
    draw(chosen.output, chain)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
