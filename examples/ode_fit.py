"""Hares and lynxes: the rates of a predator-prey system, found from noisy counts by the adjoint method.

    python examples/ode_fit.py

Lotka and Volterra's equations, x' = a x - b x y and y' = c x y - d y, are solved by SciPy, the counts at some times are
compared with noisy ones, and the sum of squares is minimised by L-BFGS-B over the logarithms of the four rates and of
both starts. Its gradient comes from the adjoint equation, solved back from the last count to the first. It is held
against differences first. The fit and the course of the loss are drawn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tapegrad as tg
from tapegrad import optimize
from tapegrad.scipy.integrate import solve_ivp

Array = NDArray[np.float64]

NAMES = ("a", "b", "c", "d", "x(0)", "y(0)")
TRUE = np.array([1.1, 0.4, 0.1, 0.4, 10.0, 5.0])
GUESS = np.array([1.0, 0.3, 0.07, 0.5, 8.0, 4.0])


def slope(t: float, state: Array, rates: Array) -> list[Any]:
    prey, predators = state
    a, b, c, d = rates
    return [a * prey - b * prey * predators, c * prey * predators - d * predators]


def counts(logs: Array, times: Array, tolerance: float = 1e-6) -> Any:
    """Prey and predators at the times, (2, len(times)), of the logarithms of rates and starts."""
    rates, start = np.exp(logs[:4]), np.exp(logs[4:])
    found = solve_ivp(
        slope, (0.0, times[-1]), start, t_eval=times, args=(rates,), rtol=tolerance, atol=tolerance,
        sensitivity="adjoint",
    )  # fmt: skip
    return found.y


def misfit(logs: Array, times: Array, data: Array) -> Any:
    """The mean square of what the logarithms of the counts are off by."""
    return np.mean((np.log(counts(logs, times)) - np.log(data)) ** 2)


def differences(f: Callable[[Array], float], x: Array, step: float = 1e-4) -> Array:
    return np.array([(f(x + e) - f(x - e)) / (2.0 * step) for e in step * np.eye(len(x))])


def draw(path: Path, times: Array, data: Array, fitted: Array, losses: list[float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[1.7, 1], layout="constrained")
    fine = np.linspace(0.0, times[-1], 400)
    lines = {"true rates": (TRUE, "dashed", 1.0), "first guess": (GUESS, "dotted", 1.0), "fit": (fitted, "solid", 1.8)}
    for label, (rates, style, width) in lines.items():
        curves = counts(np.log(rates), fine)
        for curve, colour in zip(curves, ("#c7641c", "#5b3a8c"), strict=True):
            left.plot(fine, curve, color=colour, linestyle=style, linewidth=width)
        left.plot([], [], color="#22252b", linestyle=style, linewidth=width, label=label)
    for series, colour, name in zip(data, ("#c7641c", "#5b3a8c"), ("prey", "predators"), strict=True):
        left.scatter(
            times, series, s=22, color=colour, edgecolors="white", linewidths=0.6, zorder=3, label=f"{name}, counted"
        )
    left.legend(fontsize=9, ncols=2, loc="upper center")
    left.set(title="Predators and prey", xlabel="time", ylabel="count", ylim=(0.0, 1.5 * data.max()))
    right.plot(losses, color="#2f6db5")
    right.set(title="Loss", xlabel="iteration", yscale="log")
    right.grid(True, which="both", color="#e6e8ec", linewidth=0.7)
    right.set_axisbelow(True)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Fits a predator-prey system by the adjoint method.")
    parser.add_argument("--points", type=int, default=40, help="counts of each animal (default: %(default)s)")
    parser.add_argument("--time", type=float, default=20.0, help="until when is counted (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.1, help="of the logarithms (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("ode_fit.png"), help="the figure (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if chosen.points < 1 or chosen.time <= 0.0 or chosen.noise < 0.0:
        parser.error("--points must be at least 1, --time positive, --noise not negative")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')

    rng = np.random.default_rng(chosen.seed)
    times = np.linspace(0.0, chosen.time, chosen.points + 1)[1:]
    data = counts(np.log(TRUE), times) * np.exp(chosen.noise * rng.normal(size=(2, chosen.points)))

    def loss(logs: Array) -> Any:
        return misfit(logs, times, data)

    start = np.log(GUESS)
    recording = tg.record(loss, start)
    gradient = recording.grad(start)
    apart = np.abs(gradient - differences(recording, start)).max() / np.abs(gradient).max()
    print(f"adjoint gradient and differences are apart by {apart:.1e} of the largest component")

    losses = [recording(start)]
    began = time.perf_counter()
    result = optimize.minimize(
        loss, start, method="L-BFGS-B", callback=lambda intermediate_result: losses.append(intermediate_result.fun)
    )
    took = time.perf_counter() - began
    fitted = np.exp(result.x)
    print(f"{result.nit} iterations, {result.nfev} values and gradients in {took:.2f} s: loss {losses[0]:.4f}, then "
          f"{result.fun:.4f}")  # fmt: skip
    print("         " + "".join(f"{name:>9}" for name in NAMES))
    for label, row in (("true", TRUE), ("guess", GUESS), ("fit", fitted)):
        print(f"{label:>9}" + "".join(f"{x:9.4f}" for x in row))
    draw(chosen.output, times, data, fitted, losses)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
