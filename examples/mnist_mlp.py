"""Train a 784-128-64-10 perceptron on MNIST, in seconds.

    python examples/mnist_mlp.py
    python examples/mnist_mlp.py --data path/to/mnist --epochs 20 --optimizer sgd --rate 0.1

The training step is recorded once; every epoch then runs in compiled code. At the end the accuracy on the test images
is printed, and a figure with the curves, the confusion matrix and the worst-read digits is written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from mnist_data import MNIST
    from numpy.typing import NDArray

    from tapegrad import nn

    History = list[tuple[float, float, float, float]]

# With few images, as those that stand in for MNIST, eight epochs would be too few steps to learn them.
STEPS = 960


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a 784-128-64-10 perceptron on MNIST.")
    add = parser.add_argument
    add("--data", type=Path, help="folder of the four MNIST files (default: TAPEGRAD_DATA, the cache, or a download)")
    add("--epochs", type=int, help=f"passes over the training images (default: 8, or {STEPS} steps where that is more)")
    add("--batch", type=int, default=64, help="images in a step (default: %(default)s)")
    add("--rate", type=float, help="highest learning rate (default: 0.002 for adam and adamw, 0.1 for sgd)")
    add("--dtype", choices=["float32", "float64"], default="float32", help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of the initial weights and the order of images (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of the matrix products (default: %(default)s)")
    add("--optimizer", choices=["adamw", "adam", "sgd"], default="adamw", help="(default: %(default)s)")
    add("--output", type=Path, default=Path("mnist_mlp.png"), help="the figure (default: %(default)s)")
    add("--save", type=Path, help="also write the trained parameters to this .npz file")
    chosen = parser.parse_args(arguments)
    for name in ("epochs", "batch", "threads"):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if chosen.rate is None:
        chosen.rate = 0.1 if chosen.optimizer == "sgd" else 0.002
    return chosen


def settle_epochs(chosen: argparse.Namespace, data: MNIST) -> None:
    """As many epochs as were asked for, or as it takes."""
    if chosen.epochs is None:
        chosen.epochs = max(8, -(-STEPS // -(-len(data.x_train) // chosen.batch)))


def extras() -> Any:
    """The packages that only the examples need."""
    try:
        import matplotlib
        import tqdm
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')
    matplotlib.use("Agg")
    return tqdm.tqdm


def train(chosen: argparse.Namespace, data: MNIST, progress: Any) -> tuple[nn.Training, History]:
    """The trained model's training, and for each epoch (loss, accuracy, test accuracy, seconds)."""
    import numpy as np

    from tapegrad import nn, optim

    model = nn.MLP([784, 128, 64, 10], activation="relu", seed=chosen.seed, dtype=data.x_train.dtype)
    steps = chosen.epochs * -(-len(data.x_train) // chosen.batch)
    rate = optim.cosine(chosen.rate, steps)
    optimizers: dict[str, Callable[[], optim.Optimizer]] = {
        "adamw": lambda: optim.AdamW(model, rate, weight_decay=0.1),
        "adam": lambda: optim.Adam(model, rate),
        "sgd": lambda: optim.SGD(model, rate, momentum=0.9, nesterov=True, weight_decay=5e-5),
    }
    optimizer = optimizers[chosen.optimizer]()
    training = nn.Training(model, optimizer, "cross_entropy", batch_size=chosen.batch, threads=chosen.threads)
    rng = np.random.default_rng(chosen.seed)
    print(model)
    history = []
    bar = progress(range(chosen.epochs), unit="epoch", file=sys.stderr)
    for _ in bar:
        start = time.perf_counter()
        loss, accuracy = training.epoch(data.x_train, data.y_train, rng)
        seconds = time.perf_counter() - start
        test = training.evaluate(data.x_test, data.y_test).accuracy
        history.append((loss, accuracy, test, seconds))
        bar.set_postfix_str(f"loss {loss:.4f}, accuracy {accuracy:.2%}, test {test:.2%}")
    return training, history


def draw(path: Path, history: History, logits: NDArray[np.floating], data: MNIST) -> None:
    """Curves, confusion matrix and the worst-read digits, as one picture."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    ink, blue, orange, grey = "#22252b", "#2f6db5", "#d9742b", "#8a919c"
    plt.rcParams.update({"font.size": 10, "text.color": ink, "axes.edgecolor": grey, "axes.labelcolor": ink})
    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    loss, accuracy, test, _ = map(np.array, zip(*history))
    epochs = np.arange(1, len(history) + 1)
    figure = plt.figure(figsize=(13, 8.6), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    figure.suptitle(f"A 784-128-64-10 perceptron reads {test[-1]:.2%} of {len(data.y_test):,} test digits", fontsize=14)
    grid = figure.add_gridspec(2, 1, height_ratios=[1.55, 1])
    top = grid[0].subgridspec(1, 2, width_ratios=[1.25, 1])
    curves = top[0].subgridspec(2, 1, hspace=0.08)

    axes = figure.add_subplot(curves[0])
    axes.plot(epochs, loss, color=blue, marker="o", markersize=4)
    axes.set(title="Training loss (cross-entropy)", yscale="log")
    axes.tick_params(labelbottom=False)
    lower = figure.add_subplot(curves[1], sharex=axes)
    for share, colour, name in ((1 - accuracy, blue, "training, over the epoch"), (1 - test, orange, "test, after it")):
        lower.plot(epochs, share, color=colour, marker="o", markersize=4, label=name)
        lower.annotate(f"{share[-1]:.2%}", (epochs[-1], share[-1]), xytext=(8, 0), textcoords="offset points",
                       color=colour, va="center", fontsize=9)  # fmt: skip
    lower.set(title="Share of digits misread", xlabel="epoch", yscale="log")
    for a, text in ((axes, lambda y, _: f"{y:g}"), (lower, lambda y, _: f"{100 * y:g} %")):
        a.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        a.yaxis.set_major_formatter(FuncFormatter(text))
        a.yaxis.set_minor_formatter("")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    lower.legend(frameon=False)
    for a in (axes, lower):
        a.grid(True, which="both", color="#e6e8ec", linewidth=0.7)
        a.set_axisbelow(True)
        a.spines[["top", "right"]].set_visible(False)

    answers, labels = logits.argmax(1), data.y_test
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (labels, answers), 1)
    wrong = np.where(np.eye(10, dtype=bool), np.nan, confusion.astype(float))
    axes = figure.add_subplot(top[1])
    image = axes.imshow(wrong, cmap="Oranges", vmin=0)
    image.cmap.set_bad("#eef1f5")
    most = max(np.nanmax(wrong), 1)
    for i in range(10):
        for j in range(10):
            if confusion[i, j]:
                colour = blue if i == j else "white" if confusion[i, j] > 0.6 * most else ink
                axes.text(j, i, confusion[i, j], ha="center", va="center", color=colour, fontsize=8)
    axes.set(title="Test digits: shown and read", xlabel="read as", ylabel="shown", xticks=range(10), yticks=range(10))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)

    # The worst-read: those whose true class got the lowest probability.
    shifted = logits - logits.max(1, keepdims=True)
    probability = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    worst = np.argsort(probability[np.arange(len(labels)), labels])[:20]
    digits = figure.add_subfigure(grid[1])
    digits.suptitle("The worst-read digits", x=0.01, ha="left", fontsize=11, fontweight="bold")
    for axes, i in zip(digits.subplots(2, 10).flat, worst):
        axes.imshow(data.x_test[i].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
        axes.set_title(f"{labels[i]}, read as {answers[i]}", fontsize=9, fontweight="normal", loc="center", pad=3)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#d5d9e0")
    figure.savefig(path, dpi=130)


def main(arguments: list[str] | None = None) -> None:
    chosen = options(arguments)
    # The environment reaches the BLAS only before NumPy is imported; so the imports stand in the functions.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(chosen.threads))
    start = time.perf_counter()
    progress = extras()
    from mnist_data import load_mnist

    from tapegrad.errors import DataError

    try:
        data = load_mnist(chosen.data, dtype=chosen.dtype)
    except DataError as error:
        sys.exit(f"mnist_mlp: {error}")
    print(f"{data.source}: {len(data.x_train)} images for training, {len(data.x_test)} for testing")
    settle_epochs(chosen, data)
    training, history = train(chosen, data, progress)
    logits = training.predict(data.x_test)
    right = int((logits.argmax(1) == data.y_test).sum())
    seconds = time.perf_counter() - start
    epochs = sorted(h[3] for h in history)
    print(f"test accuracy {right / len(data.y_test):.2%} ({len(data.y_test) - right} of {len(data.y_test)} misread)")
    middle = epochs[len(epochs) // 2]
    print(f"{middle:.2f} s an epoch, {seconds:.1f} s in all with imports, compiling and reading the data")
    if chosen.save:
        training.model.save(chosen.save)
        print(f"parameters written to {chosen.save}")
    draw(chosen.output, history, logits, data)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
