"""Two moons, told apart by a perceptron of single numbers: neuron by neuron, as autograd tutorials do it.

    python examples/moons.py

First the tutorial's loop: every step builds the expression of the whole loss anew, some tens of thousands of Values,
and calls `backward`. Then the same Python code is recorded once, as a function of all parameters, and replayed. Both
speeds are printed, and the decision boundary is drawn.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tapegrad as tg
from tapegrad.optim import Adam, cosine

Array = NDArray[np.float64]


class Neuron:
    def __init__(self, n_in: int, activate: bool, rng: np.random.Generator) -> None:
        self.w = [tg.Value(w) for w in rng.normal(size=n_in) * np.sqrt(2 / n_in)]
        self.b = tg.Value(0.0)
        self.activate = activate

    def __call__(self, x: Sequence[Any]) -> Any:
        total = self.b
        for w, xi in zip(self.w, x):
            total = total + w * xi
        return total.relu() if self.activate else total

    def parameters(self) -> list[tg.Value]:
        return [*self.w, self.b]

    def use(self, numbers: Iterator[Any]) -> None:
        self.w = [next(numbers) for _ in self.w]
        self.b = next(numbers)


class Layer:
    def __init__(self, n_in: int, n_out: int, activate: bool, rng: np.random.Generator) -> None:
        self.neurons = [Neuron(n_in, activate, rng) for _ in range(n_out)]

    def __call__(self, x: Sequence[Any]) -> Sequence[Any]:
        return [neuron(x) for neuron in self.neurons]


class MLP:
    def __init__(self, sizes: Sequence[int], rng: np.random.Generator) -> None:
        last = len(sizes) - 2
        self.layers = [Layer(a, b, i < last, rng) for i, (a, b) in enumerate(pairwise(sizes))]

    def __call__(self, x: Sequence[Any]) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x[0]

    def neurons(self) -> list[Neuron]:
        return [neuron for layer in self.layers for neuron in layer.neurons]

    def parameters(self) -> list[tg.Value]:
        return [p for neuron in self.neurons() for p in neuron.parameters()]

    def use(self, numbers: Iterable[Any]) -> None:
        """Compute with other numbers, or Values, in place of the parameters."""
        numbers = iter(numbers)
        for neuron in self.neurons():
            neuron.use(numbers)


def moons(n: int, noise: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Two half circles that reach into each other, and for each point which of them it is on: -1 or 1."""
    angle = np.pi * rng.random(n)
    side = rng.permutation(n) % 2
    x = np.where(side, 1 - np.cos(angle), np.cos(angle))
    y = np.where(side, 0.5 - np.sin(angle), np.sin(angle))
    return np.column_stack([x, y]) + noise * rng.normal(size=(n, 2)), np.where(side, 1.0, -1.0)


def hinge_loss(model: MLP, points: Array, sides: Array, penalty: float = 1e-4) -> Any:
    """Mean of max(0, 1 - side · score), and the squares of the parameters times `penalty`."""
    loss = 0.0
    for point, side in zip(points.tolist(), sides.tolist()):
        loss = loss + (1.0 - side * model(point)).relu()
    squares: tg.Value | float = 0.0
    for p in model.parameters():
        squares = squares + p * p
    return loss / len(points) + penalty * squares


def naive_steps(
    model: MLP, points: Array, sides: Array, steps: int, rate: float
) -> tuple[float, tuple[float, Array]]:
    """The tutorial's loop. Returns milliseconds a step (median) and the first loss and gradient."""
    first: Any = None
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = hinge_loss(model, points, sides)
        for p in model.parameters():
            p.zero_grad()
        loss.backward()
        if first is None:
            first = loss.item(), np.array([p.grad for p in model.parameters()])
        for p in model.parameters():
            p.data -= rate * p.grad
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3, first


def recorded_steps(
    model: MLP, flat: Array, points: Array, sides: Array, steps: int, rate: float
) -> tuple[float, float, tuple[float, Array], list[float]]:
    """The same loss, recorded once; changes `flat`. Returns ms a step, s to record, the first step's result, losses."""

    def evaluate(flat: Array) -> Any:
        model.use(flat)
        return hinge_loss(model, points, sides)

    start = time.perf_counter()
    loss = tg.record(evaluate, flat)
    first = loss.value_and_grad(flat)
    recorded = time.perf_counter() - start
    optimizer = Adam(lr=cosine(rate, steps))
    losses = []
    start = time.perf_counter()
    for _ in range(steps):
        value, gradient = loss.value_and_grad(flat)
        optimizer.update(flat, gradient)
        losses.append(value)
    return (time.perf_counter() - start) / steps * 1e3, recorded, first, losses


def draw(
    path: Path, scores: Array, xs: Array, ys: Array, points: Array, sides: Array, losses: list[float]
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=[1.7, 1], layout="constrained")
    reach = np.abs(scores).max()
    levels = np.linspace(-reach, reach, 25)
    left.contourf(xs, ys, scores, levels=levels, cmap="PuOr_r", alpha=0.65)
    lines = {"linewidths": [0.8, 1.8, 0.8], "linestyles": ["dashed", "solid", "dashed"]}
    left.contour(xs, ys, scores, levels=[-1, 0, 1], colors="#22252b", **lines)
    for side, colour in ((-1, "#5b3a8c"), (1, "#c7641c")):
        which = sides == side
        left.scatter(*points[which].T, s=34, color=colour, edgecolors="white", linewidths=0.7, zorder=3,
                     label=f"moon {side:+d}")  # fmt: skip
    left.legend(loc="upper right", fontsize=9)
    left.set(title="Decision boundary, and margins of the hinge loss", xlabel="x", ylabel="y", aspect="equal")
    right.plot(np.arange(1, len(losses) + 1), losses, color="#2f6db5")
    right.set(title="Loss", xlabel="step", yscale="log")
    right.grid(True, which="both", color="#e6e8ec", linewidth=0.7)
    right.set_axisbelow(True)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Two moons, told apart by a perceptron of scalar Values.")
    parser.add_argument("--points", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=500, help="steps by replay (default: %(default)s)")
    parser.add_argument("--naive", type=int, default=5, help="steps of the tutorial's loop (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=0.1, help="(default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=16, help="neurons in each hidden layer (default: %(default)s)")
    parser.add_argument("--grid", type=int, default=100, help="points a side of the picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("moons.png"), help="the figure (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if min(chosen.points, chosen.steps, chosen.naive, chosen.hidden) < 1 or chosen.grid < 2:
        parser.error("counts must be at least 1, and --grid at least 2")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')

    rng = np.random.default_rng(chosen.seed)
    points, sides = moons(chosen.points, chosen.noise, rng)
    model = MLP([2, chosen.hidden, chosen.hidden, 1], rng)
    flat = np.array([p.data for p in model.parameters()])
    print(f"{chosen.points} points, {flat.size} parameters")

    naive, (value, gradient) = naive_steps(model, points, sides, chosen.naive, rate=0.05)
    fast, recording, first, losses = recorded_steps(model, flat, points, sides, chosen.steps, rate=0.02)
    apart = np.abs(first[1] - gradient).max()
    print(f"a step built anew     {naive:9.3f} ms  (median of {chosen.naive})")
    print(f"a step by replay      {fast:9.3f} ms  (mean of {chosen.steps}, and once {recording:.2f} s to record)")
    print(f"first losses {value:.6f} and {first[0]:.6f}; their gradients differ by at most {apart:.1e}")

    def output(flat: Array, x: float, y: float) -> Any:
        model.use(flat)
        return model([x, y])

    score = tg.record(output, flat, 0.0, 0.0)
    right = np.mean([score(flat, x, y) * side > 0 for (x, y), side in zip(points.tolist(), sides)])
    print(f"loss {losses[-1]:.4f}, {right:.1%} of the points on their side")
    low, high = points.min(0) - 0.4, points.max(0) + 0.4
    xs, ys = np.linspace(low[0], high[0], chosen.grid), np.linspace(low[1], high[1], chosen.grid)
    scores = np.array([[score(flat, x, y) for x in xs.tolist()] for y in ys.tolist()])
    draw(chosen.output, scores, xs, ys, points, sides, losses)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
