"""Hares, lynxes and hunters: a simulation in Numba is fitted to noisy counts by its exact gradient.

    python examples/njit_simulation.py

Prey grow at a rate that changes from year to year, predators live on them, and while there are too many prey, hunters
take of those. The simulation is an ordinary Numba function: steps of Bogacki and Shampine whose length an estimate of
the error decides, steps that are refused, and hunts whose begin and end are events, at times that are found within a
step. It takes thousands of steps, and seldom the same number twice. What is to be found from the counts: the growth of
each year, how fast predators are born and die, and both starts.

`tg.value_and_grad` differentiates the function as it is. Gradient descent and L-BFGS use that gradient, and L-BFGS
central differences for comparison; the differences are held against the gradient for steps of all sizes as well.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

import tapegrad as tg

Array = NDArray[np.float64]
Loss = Callable[[Array], float]
LossAndGradient = Callable[[Array], tuple[float, Array]]

NAMES = ("born", "die", "x(0)", "y(0)")
TRUE = np.array([0.10, 0.45, 5.0, 4.0])
GUESS = np.array([0.107, 0.48, 4.6, 4.4])
# What part of the prey a predator eats in a year.
EATEN = 0.4
# Above this number of prey, hunters take this part of what there is above it, in a year.
LIMIT, HUNTED = 4.0, 1.5
# How much a change of the growth from one year to the next adds to the loss.
ROUGH = 0.001


@numba.njit(error_model="numpy")
def slope(t: float, x: float, y: float, rates: Array, growth: Array, hunted: bool) -> tuple[float, float]:
    """How fast prey and predators change; the growth is given for whole years and goes straight in between."""
    year = min(int(t), len(growth) - 2)
    part = t - year
    dx = ((1.0 - part) * growth[year] + part * growth[year + 1]) * x - EATEN * x * y
    if hunted:
        dx -= HUNTED * (x - LIMIT)
    return dx, rates[0] * x * y - rates[1] * y


@numba.njit(error_model="numpy")
def between(s: float, h: float, x: float, y: float, dx: float, dy: float) -> float:
    """The cubic with values x and y and slopes dx and dy at both ends of a step of length h, at the part s of it."""
    r = 1.0 - s
    return r * r * ((1.0 + 2.0 * s) * x + s * h * dx) + s * s * ((3.0 - 2.0 * s) * y - r * h * dy)


@numba.njit(error_model="numpy")
def simulate(unknown: Array, times: Array, found: Array, tolerance: float) -> tuple[int, int]:
    """Put the numbers of prey and predators at some times into `found`; returns the number of steps, and of hunts.

    `unknown` has the logarithms of `NAMES`, then the growth of each year.
    """
    rates, growth = np.exp(unknown[:4]), unknown[4:]
    t, x, y = 0.0, rates[2], rates[3]
    h, steps, hunts, hunted = 0.01, 0, 0, x > LIMIT
    dx, dy = slope(t, x, y, rates, growth, hunted)
    for k in range(len(times)):
        while t < times[k]:
            last = t + h >= times[k]
            step = times[k] - t if last else h
            dx2, dy2 = slope(t + 0.5 * step, x + 0.5 * step * dx, y + 0.5 * step * dy, rates, growth, hunted)
            dx3, dy3 = slope(t + 0.75 * step, x + 0.75 * step * dx2, y + 0.75 * step * dy2, rates, growth, hunted)
            x1 = x + step * (2.0 * dx + 3.0 * dx2 + 4.0 * dx3) / 9.0
            y1 = y + step * (2.0 * dy + 3.0 * dy2 + 4.0 * dy3) / 9.0
            dx1, dy1 = slope(t + step, x1, y1, rates, growth, hunted)
            ex = step * (5.0 * dx / 72.0 - dx2 / 12.0 - dx3 / 9.0 + dx1 / 8.0) / x
            ey = step * (5.0 * dy / 72.0 - dy2 / 12.0 - dy3 / 9.0 + dy1 / 8.0) / y
            error = math.sqrt(ex * ex + ey * ey) / tolerance + 1e-6
            steps += 1
            if error <= 1.0:
                if (x1 > LIMIT) != hunted:
                    # Where in the step the limit is reached: Newton's method on the cubic through both ends.
                    s = (LIMIT - x) / (x1 - x)
                    for _ in range(4):
                        reached = between(s, step, x, x1, dx, dx1)
                        speed = (between(s + 1e-3, step, x, x1, dx, dx1) - reached) / 1e-3
                        s = s - (reached - LIMIT) / speed
                    y = between(s, step, y, y1, dy, dy1)
                    t, x, last, hunted = t + s * step, LIMIT, False, not hunted
                    dx, dy = slope(t, x, y, rates, growth, hunted)
                    hunts += hunted
                else:
                    t, x, y, dx, dy = t + step, x1, y1, dx1, dy1
            if not (error <= 1.0 and last):
                h = step * min(3.0, max(0.2, 0.9 * error ** (-1.0 / 3.0)))
        t = times[k]
        found[0, k], found[1, k] = x, y
    return steps, hunts


@numba.njit(error_model="numpy")
def misfit(unknown: Array, times: Array, counts: Array, found: Array, tolerance: float) -> float:
    """The mean square of what the logarithms of the counts are off by, and a little for a growth that changes."""
    simulate(unknown, times, found, tolerance)
    total = 0.0
    for i in range(2):
        for k in range(len(times)):
            total += (math.log(found[i, k]) - counts[i, k]) ** 2
    rough = 0.0
    for j in range(5, len(unknown)):
        rough += (unknown[j] - unknown[j - 1]) ** 2
    return total / (2 * len(times)) + ROUGH * rough


def growth_of(years: int) -> Array:
    """The true growth of each year."""
    year = np.arange(years)
    growth: Array = 1.1 + 0.35 * np.sin(0.55 * year) + 0.2 * np.cos(0.23 * year + 1.0)
    return growth


class Counted:
    """Value and gradient, and the course of the loss over time."""

    def __init__(self, value_and_grad: LossAndGradient) -> None:
        self.value_and_grad = value_and_grad
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self.calls = 0
        self.start = time.perf_counter()

    def __call__(self, unknown: Array) -> tuple[float, Array]:
        value, gradient = self.value_and_grad(unknown)
        self.calls += 1
        self.losses.append(value)
        self.seconds.append(time.perf_counter() - self.start)
        return value, gradient

    @property
    def best(self) -> Array:
        return np.minimum.accumulate(self.losses)


def descend(f: LossAndGradient, unknown: Array, steps: int) -> Array:
    """Gradient descent whose steps grow by a fifth while the loss falls, and halve where it does not."""
    rate, (value, gradient) = 0.05, f(unknown)
    for _ in range(steps):
        tried = unknown - rate * gradient
        found, there = f(tried)
        if found < value:
            unknown, value, gradient, rate = tried, found, there, 1.2 * rate
        else:
            rate *= 0.5
    return unknown


def differences(f: Loss, unknown: Array, step: float) -> Array:
    """Central differences, two simulations for each number."""
    return np.array([(f(unknown + e) - f(unknown - e)) / (2.0 * step) for e in step * np.eye(len(unknown))])


def draw(
    path: Path, times: Array, counts: Array, curves: tuple[Array, ...], growth: dict[str, Array],
    courses: dict[str, Counted], apart: tuple[NDArray[np.floating], list[float]],
) -> None:  # fmt: skip
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    figure, panels = plt.subplots(2, 2, figsize=(12, 7.4), width_ratios=[1.5, 1], layout="constrained")
    colours, (fine, fitted, true) = ("#c7641c", "#5b3a8c"), curves
    above, right, below, corner = panels[0, 0], panels[0, 1], panels[1, 0], panels[1, 1]
    for series, dots, exact, colour, name in zip(fitted, counts, true, colours, ("prey", "predators"), strict=True):
        above.plot(fine, exact, color=colour, lw=1.0, ls="dashed")
        above.plot(fine, series, color=colour, lw=1.8)
        above.scatter(times, np.exp(dots), s=14, color=colour, edgecolors="white", lw=0.5, zorder=3,
                      label=f"{name}, counted")  # fmt: skip
    above.axhline(LIMIT, color="#8a8f98", lw=1.0, ls="dotted", label="hunters come")
    for label, style, width in (("fit", "solid", 1.8), ("truth", "dashed", 1.0)):
        above.plot([], [], color="#22252b", ls=style, lw=width, label=label)
    above.set(title="Prey, predators and hunters", xlabel="year", ylabel="count",
              ylim=(0.0, 1.45 * np.exp(counts).max()))  # fmt: skip
    above.legend(fontsize=9, ncols=3, loc="upper center")
    year = np.arange(len(growth["true"]))
    styles = {"true": ("#22252b", "dashed", 1.2), "first guess": ("#8a8f98", "dotted", 1.4),
              "gradient descent": ("#2a9d6f", "solid", 1.4), "L-BFGS": ("#2f6db5", "solid", 2.0)}  # fmt: skip
    for label, values in growth.items():
        colour, style, width = styles[label]
        below.plot(year, values, color=colour, ls=style, lw=width, label=label)
    below.set(title="Growth of the prey, found year by year", xlabel="year", ylabel="rate",
              ylim=(0.9 * growth["true"].min(), 1.25 * growth["true"].max()))  # fmt: skip
    below.legend(fontsize=9, ncols=4, loc="upper center")
    lines = {"gradient descent": "#2a9d6f", "L-BFGS": "#2f6db5", "L-BFGS, differences": "#b53a4b"}
    for label, f in courses.items():
        right.plot(f.seconds, f.best, color=lines[label], lw=1.6, label=label)
    right.set(title="Loss", xlabel="seconds", xscale="log", yscale="log")
    right.legend(fontsize=9)
    corner.plot(*apart, color="#b53a4b", marker="o", ms=4, lw=1.2)
    corner.set(title="How far differences are from the gradient", xlabel="step of the differences", xscale="log",
               yscale="log", ylabel="worst, of the largest element")  # fmt: skip
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    for axes in (right, corner):
        axes.grid(True, color="#e6e8ec", lw=0.7)
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fits a simulation written in Numba to noisy counts.")
    parser.add_argument("--years", type=int, default=30, help="that are simulated (default: %(default)s)")
    parser.add_argument("--points", type=int, default=240, help="counts of each animal (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.05, help="of the logarithms (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=400, help="of gradient descent (default: %(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-8, help="of a step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("njit_simulation.png"), help="the figure (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    if chosen.years < 2 or chosen.points < 2 or chosen.steps < 1 or chosen.noise < 0.0 or not chosen.tolerance > 0.0:
        parser.error("--years and --points must be at least 2, --steps at least 1, --noise and --tolerance positive")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')

    years = chosen.years
    times = np.linspace(0.0, years - 1.0, chosen.points + 1)[1:]
    true = np.concatenate([np.log(TRUE), growth_of(years)])
    start = np.concatenate([np.log(GUESS), np.full(years, 1.1)])
    room = np.zeros((2, chosen.points))
    steps, hunts = simulate(true, times, room, chosen.tolerance)
    counts = np.log(room) + chosen.noise * np.random.default_rng(chosen.seed).normal(size=room.shape)
    print(f"{len(true)} numbers to find from {counts.size} counts; a simulation takes {steps} steps, with {hunts} "
          "hunts")  # fmt: skip

    def value(unknown: Array) -> Any:
        return misfit(unknown, times, counts, room, chosen.tolerance)

    slopes = tg.value_and_grad(misfit)

    def exact(unknown: Array) -> tuple[float, Array]:
        return slopes(unknown, times, counts, room, chosen.tolerance)

    began = time.perf_counter()
    gradient = exact(start)[1]
    print(f"first gradient, compiled or found on disk, after {time.perf_counter() - began:.1f} s")
    sizes = 10.0 ** np.arange(-1, -11, -1)
    apart = [np.abs(differences(value, start, h) - gradient).max() / np.abs(gradient).max() for h in sizes]
    nearest = int(np.argmin(apart))
    print(f"differences come as near as {apart[nearest]:.1e} of the largest element, with steps of "
          f"{sizes[nearest]:.0e}")  # fmt: skip
    seconds = [min(_time(f, start) for _ in range(5)) for f in (value, exact)]
    print(f"one simulation {1e3 * seconds[0]:.2f} ms, its gradient {1e3 * seconds[1]:.2f} ms, as long as "
          f"{seconds[1] / seconds[0]:.0f} simulations; differences take {2 * len(start)}")  # fmt: skip

    def by_differences(unknown: Array) -> tuple[float, Array]:
        return value(unknown), differences(value, unknown, sizes[nearest])

    courses, fits = {}, {}
    f = courses["gradient descent"] = Counted(exact)
    fits["gradient descent"] = descend(f, start, chosen.steps)
    for label, each in (("L-BFGS", exact), ("L-BFGS, differences", by_differences)):
        f = courses[label] = Counted(each)
        fits[label] = minimize(
            f, start, jac=True, method="L-BFGS-B", bounds=[(x - 1.0, x + 1.0) for x in start], options={"maxiter": 100}
        ).x
    for label, f in courses.items():
        print(f"{label:>20}: loss {f.losses[0]:.4f}, then {f.best[-1]:.5f} after {f.calls} gradients, "
              f"{f.seconds[-1]:.2f} s")  # fmt: skip
    print("         " + "".join(f"{name:>9}" for name in NAMES) + "   growth, off by")
    fitted = fits["L-BFGS"]
    for label, row in (("true", true), ("guess", start), ("fit", fitted)):
        off = np.sqrt(np.mean((row[4:] - true[4:]) ** 2))
        print(f"{label:>9}" + "".join(f"{x:9.4f}" for x in np.exp(row[:4])) + f"{off:12.3f}")

    fine = np.linspace(0.0, years - 1.0, 1201)[1:]
    curves = []
    for unknown in (fitted, true):
        curve = np.zeros((2, len(fine)))
        simulate(unknown, fine, curve, chosen.tolerance)
        curves.append(curve)
    growth = {label: found[4:] for label, found in (("true", true), ("first guess", start), *list(fits.items())[:2])}
    draw(chosen.output, times, counts, (fine, *curves), growth, courses, (sizes, apart))
    print(f"figure written to {chosen.output}")


def _time(f: Callable[[Array], Any], x: Array) -> float:
    start = time.perf_counter()
    f(x)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
