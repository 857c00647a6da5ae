"""A call option where the variance is random too: its price and six sensitivities, with standard errors.

    python examples/heston.py

In Heston's model the variance of a price goes back to a mean, and is pushed by noise that is correlated with that of
the price. One path is a plain function of NumPy: a loop over the days, and what the option pays at the end. It is
recorded once, and `recording.batch.value_and_grad` gives the payment of each of 100,000 paths and its gradient by the
six numbers of the model. Their means are the price and its sensitivities, and their spread says how far these may be
off. The same paths serve for every price to start from, so that the curves of the figure are smooth.

For this model there is a formula besides, an integral over the characteristic function of the logarithm of the price;
differences of that are what the sensitivities are held against.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.integrate
from numpy.typing import NDArray

import tapegrad as tg

Array = NDArray[np.float64]

NAMES = ("price S", "first variance v", "speed of reversion κ", "mean variance θ", "volatility of variance σ",
         "correlation ρ")  # fmt: skip
SHORT = ("dC/dS", "dC/dv", "dC/dκ", "dC/dθ", "dC/dσ", "dC/dρ")
MODEL = np.array([100.0, 0.05, 2.0, 0.05, 0.3, -0.7])
RATE = 0.02
# The variance may fall below zero between two steps. It counts as this then, where its root has a slope.
LEAST = 1e-8


def payment(model: Array, normals: Array, others: Array, strike: float, years: float) -> Any:
    """What one path pays, discounted: Euler's steps of the logarithm of the price and of the variance."""
    price, variance, speed, mean, volatility, correlation = (model[i] for i in range(6))
    step = years / len(normals)
    beside = np.sqrt(1.0 - correlation * correlation)
    log_price = np.log(price)
    for z, w in zip(normals, others, strict=True):
        left = np.maximum(variance, LEAST)
        spread = np.sqrt(left * step)
        log_price = log_price + (RATE - 0.5 * left) * step + spread * z
        variance = variance + speed * (mean - left) * step + volatility * spread * (correlation * z + beside * w)
    return math.exp(-RATE * years) * np.maximum(np.exp(log_price) - strike, 0.0)


def formula(model: Array, strike: float, years: float) -> float:
    """The price of the option by the characteristic function of the logarithm of the price (Lewis's integral)."""
    price, variance, speed, mean, volatility, correlation = model

    def characteristic(u: complex) -> Any:
        # E exp(i u log(S at the end / forward)), in the form whose logarithm stays on one branch.
        a = speed - 1j * correlation * volatility * u
        d = np.sqrt(a * a + volatility**2 * (u * u + 1j * u))
        g, fall = (a - d) / (a + d), np.exp(-d * years)
        level = (a - d) * years - 2.0 * np.log((1.0 - g * fall) / (1.0 - g))
        return np.exp((speed * mean * level + variance * (a - d) * (1.0 - fall) / (1.0 - g * fall)) / volatility**2)

    forward = price * math.exp(RATE * years)
    shift = math.log(forward / strike)

    def part(u: float) -> Any:
        return (np.exp(1j * u * shift) * characteristic(u - 0.5j)).real / (u * u + 0.25)

    integral = scipy.integrate.quad(part, 0.0, np.inf, epsabs=1e-11, epsrel=1e-11, limit=500)[0]
    return float(math.exp(-RATE * years) * (forward - math.sqrt(forward * strike) / math.pi * integral))


def sensitivities_of_formula(model: Array, strike: float, years: float) -> Array:
    """The six derivatives of the formula, by central differences of the fourth order."""
    found = []
    for i in range(len(model)):
        h = 1e-3 * max(abs(model[i]), 0.1)
        values = []
        for k in (-2, -1, 1, 2):
            moved = model.copy()
            moved[i] += k * h
            values.append(formula(moved, strike, years))
        found.append((values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * h))
    return np.array(found)


def draw(path: Path, prices: Array, means: Array, errors: Array, exact: Array, strike: float, paths: int) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    figure, panels = plt.subplots(2, 3, figsize=(12, 6.6), layout="constrained")
    for i, axes in enumerate(panels.flat):
        mean, error = means[:, 1 + i], errors[:, 1 + i]
        axes.axvline(strike, color="#8a8f98", lw=0.8, ls="dotted")
        axes.fill_between(prices, mean - 2.0 * error, mean + 2.0 * error, color="#2f6db5", alpha=0.25, lw=0,
                          label=f"± 2 standard errors, {paths:,} paths")  # fmt: skip
        axes.plot(prices, mean, color="#2f6db5", lw=1.8, label="gradient of the simulation")
        axes.plot(prices, exact[:, i], color="#c7641c", lw=1.2, ls="dashed", label="formula")
        axes.set(title=f"{SHORT[i]}: {NAMES[i]}", xlabel="price at the start")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, color="#e6e8ec", lw=0.7)
        axes.set_axisbelow(True)
    panels[0, 0].legend(fontsize=9, loc="lower right")
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Sensitivities of a call option in Heston's model, with errors.")
    parser.add_argument("--paths", type=int, default=100_000, help="that are simulated (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="of a path (default: %(default)s)")
    parser.add_argument("--prices", type=int, default=21, help="to start from, for the figure (default: %(default)s)")
    parser.add_argument("--strike", type=float, default=100.0, help="(default: %(default)s)")
    parser.add_argument("--years", type=float, default=1.0, help="until the option ends (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="that compute (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("heston.png"), help="the figure (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if min(chosen.paths, chosen.prices) < 2 or min(chosen.steps, chosen.threads) < 1:
        parser.error("--paths and --prices must be at least 2, --steps and --threads at least 1")
    if not (chosen.strike > 0.0 and chosen.years > 0.0):
        parser.error("--strike and --years must be positive")
    try:
        import matplotlib  # noqa: F401
    except ImportError as missing:
        sys.exit(f'this example needs {missing.name}: pip install "tapegrad[examples]"')

    rng = np.random.default_rng(chosen.seed)
    # Lanes last: the numbers of one day for all paths follow each other in memory.
    normals, others = (rng.standard_normal((chosen.steps, chosen.paths)) for _ in range(2))

    began = time.perf_counter()
    recording = tg.record(payment, MODEL, normals[:, 0], others[:, 0], chosen.strike, chosen.years, compile=True)

    def simulated(model: Array) -> tuple[Array, Array]:
        """The means of the payments and of their gradients, and the standard errors of these means."""
        values, gradients = recording.batch.value_and_grad(
            model, normals, others, chosen.strike, chosen.years, in_axes=(None, 1, 1, None, None),
            threads=chosen.threads,
        )  # fmt: skip
        all_of_them = np.column_stack([values, gradients])
        return all_of_them.mean(0), all_of_them.std(0, ddof=1) / math.sqrt(chosen.paths)

    simulated(MODEL)
    print(f"recorded and compiled, or found on disk, after {time.perf_counter() - began:.1f} s")
    began = time.perf_counter()
    mean, error = simulated(MODEL)
    seconds = time.perf_counter() - began
    print(f"{chosen.paths:,} paths of {chosen.steps} steps, value and six sensitivities of each: {seconds:.2f} s, "
          f"{1e6 * seconds / chosen.paths:.1f} us a path")  # fmt: skip
    exact = np.array([formula(MODEL, chosen.strike, chosen.years),
                      *sensitivities_of_formula(MODEL, chosen.strike, chosen.years)])  # fmt: skip
    for name, one, off, true in zip(("C", *SHORT), mean, error, exact, strict=True):
        print(f"{name:>6} {one:10.5f} ± {off:.5f}   formula {true:10.5f}   apart {abs(one - true) / off:.1f} errors")

    prices = np.linspace(0.7, 1.3, chosen.prices) * chosen.strike
    means, errors, exacts = [], [], []
    for price in prices:
        model = np.array([price, *MODEL[1:]])
        mean, error = simulated(model)
        means.append(mean)
        errors.append(error)
        exacts.append(sensitivities_of_formula(model, chosen.strike, chosen.years))
    draw(chosen.output, prices, np.array(means), np.array(errors), np.array(exacts), chosen.strike, chosen.paths)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
