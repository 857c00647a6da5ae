"""Train a small convolutional network on MNIST, to 99 % in a few minutes.

    python examples/mnist_cnn.py
    python examples/mnist_cnn.py --data path/to/mnist --epochs 3 --channels 8 16

Two stages of convolution, ReLU and max pooling, and two linear layers. The training step is recorded once; every epoch
then runs in compiled code. At the end the accuracy on the test images is printed, and a figure with the curves, the
learnt filters of the first convolution and the misread digits is written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_data import MNIST
    from numpy.typing import DTypeLike, NDArray

    from tapegrad import nn

# For each epoch loss, accuracy, test accuracy and seconds.
History = list[tuple[float, float, float, float]]

# With few images, as those that stand in for MNIST, six epochs would be too few steps to learn them.
STEPS = 400
# How many misread digits are drawn.
DRAWN = 48


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small convolutional network on MNIST.")
    add = parser.add_argument
    add("--data", type=Path, help="folder of the four MNIST files (default: TAPEGRAD_DATA, the cache, or a download)")
    add("--epochs", type=int, help=f"passes over the training images (default: 6, or {STEPS} steps where that is more)")
    add("--batch", type=int, default=64, help="images in a step (default: %(default)s)")
    add("--rate", type=float, default=0.003, help="highest learning rate (default: %(default)s)")
    add("--channels", type=int, nargs=2, default=[16, 32], help="of the two convolutions (default: %(default)s)")
    add("--hidden", type=int, default=64, help="units of the first linear layer (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the initial weights and the order of images (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of the matrix products (default: %(default)s)")
    add("--output", type=Path, default=Path("mnist_cnn.png"), help="the figure (default: %(default)s)")
    add("--save", type=Path, help="also write the trained parameters to this .npz file")
    chosen = parser.parse_args(arguments)
    for name in ("epochs", "batch", "hidden", "threads"):
        if getattr(chosen, name) is not None and getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if min(chosen.channels) < 1:
        parser.error("--channels must be at least 1")
    return chosen


def settle_epochs(chosen: argparse.Namespace, data: MNIST) -> None:
    """As many epochs as were asked for, or as it takes."""
    if chosen.epochs is None:
        chosen.epochs = max(6, -(-STEPS // -(-len(data.x_train) // chosen.batch)))


def extras() -> Any:
    """The packages that only the examples need."""
    try:
        import matplotlib
        import tqdm
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')
    matplotlib.use("Agg")
    return tqdm.tqdm


def network(chosen: argparse.Namespace, dtype: DTypeLike) -> nn.Module:
    """The model: a module of its own, whose `forward` says what is computed."""
    import numpy as np

    import tapegrad as tg
    from tapegrad import nn

    rng = np.random.default_rng(chosen.seed)
    one, two = chosen.channels

    class Network(nn.Module):
        def __init__(self) -> None:
            self.first = nn.Conv2d(1, one, 5, padding=2, rng=rng, dtype=dtype)
            self.second = nn.Conv2d(one, two, 3, padding=1, rng=rng, dtype=dtype)
            self.pool = nn.MaxPool2d(2)
            self.hidden = nn.Linear(two * 7 * 7, chosen.hidden, rng=rng, dtype=dtype)
            self.last = nn.Linear(chosen.hidden, 10, rng=rng, dtype=dtype)

        def forward(self, x: Any) -> Any:
            x = self.pool(tg.relu(self.first(x.reshape(-1, 1, 28, 28))))
            x = self.pool(tg.relu(self.second(x)))
            return self.last(tg.relu(self.hidden(x.reshape(len(x), -1))))

    return Network()


def train(chosen: argparse.Namespace, data: MNIST, progress: Any) -> tuple[nn.Training, History]:
    """The trained model's training, and for each epoch (loss, accuracy, test accuracy, seconds)."""
    import numpy as np

    from tapegrad import nn, optim

    model = network(chosen, data.x_train.dtype)
    steps = chosen.epochs * -(-len(data.x_train) // chosen.batch)
    optimizer = optim.AdamW(model, optim.cosine(chosen.rate, steps), weight_decay=0.05)
    training = nn.Training(model, optimizer, "cross_entropy", batch_size=chosen.batch, threads=chosen.threads)
    rng = np.random.default_rng(chosen.seed)
    print(model)
    history: History = []
    bar = progress(range(chosen.epochs), unit="epoch", file=sys.stderr)
    for _ in bar:
        start = time.perf_counter()
        loss, accuracy = training.epoch(data.x_train, data.y_train, rng)
        seconds = time.perf_counter() - start
        test = training.evaluate(data.x_test, data.y_test).accuracy
        history.append((loss, accuracy, test, seconds))
        bar.set_postfix_str(f"loss {loss:.4f}, accuracy {accuracy:.2%}, test {test:.2%}")
    return training, history


def draw(path: Path, history: History, filters: NDArray[Any], logits: NDArray[Any], data: MNIST) -> None:
    """Curves, the filters of the first convolution and the misread digits, as one picture."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    ink, blue, orange, grey = "#22252b", "#2f6db5", "#d9742b", "#8a919c"
    plt.rcParams.update({"font.size": 10, "text.color": ink, "axes.edgecolor": grey, "axes.labelcolor": ink})
    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    _, accuracy, test, _ = map(np.array, zip(*history))
    epochs = np.arange(1, len(history) + 1)
    figure = plt.figure(figsize=(13, 7.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    figure.suptitle(f"A convolutional network reads {test[-1]:.2%} of {len(data.y_test):,} test digits", fontsize=14)
    grid = figure.add_gridspec(2, 1, height_ratios=[1.1, 1])
    top = grid[0].subgridspec(1, 2, width_ratios=[1.1, 1])

    axes = figure.add_subplot(top[0])
    for share, colour, name in ((1 - accuracy, blue, "training, over the epoch"), (1 - test, orange, "test, after it")):
        axes.plot(epochs, share, color=colour, marker="o", markersize=4, label=name)
        axes.annotate(f"{share[-1]:.2%}", (epochs[-1], share[-1]), xytext=(8, 0), textcoords="offset points",
                      color=colour, va="center", fontsize=9)  # fmt: skip
    axes.set(title="Share of digits misread", xlabel="epoch", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:g} %"))
    axes.yaxis.set_minor_formatter("")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(frameon=False)
    axes.grid(True, which="both", color="#e6e8ec", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)

    def pictures(
        place: Any, title: str, images: NDArray[Any], columns: int, labels: Sequence[str] = (), **shown: Any
    ) -> None:
        part = figure.add_subfigure(place)
        part.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        rows = max(1, -(-len(images) // columns))
        panels = np.reshape(part.subplots(rows, columns, squeeze=False), -1)
        for i, panel in enumerate(panels):
            panel.set(xticks=[], yticks=[])
            panel.set_visible(i < len(images))
            if i < len(images):
                panel.imshow(images[i], **shown)
                panel.spines[:].set_color("#d5d9e0")
                if labels:
                    panel.set_title(labels[i], fontsize=9, fontweight="normal", loc="center", pad=2)

    largest = np.abs(filters).max()
    title = f"The {len(filters)} filters of the first convolution (violet is negative)"
    pictures(top[1], title, filters[:, 0], -(-len(filters) // 3), cmap="PuOr_r", vmin=-largest, vmax=largest)

    answers, labels = logits.argmax(1), data.y_test
    shifted = logits - logits.max(1, keepdims=True)
    probability = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
    wrong = np.flatnonzero(answers != labels)
    # Those first whose true class got the lowest probability.
    drawn = wrong[np.argsort(probability[wrong, labels[wrong]])][:DRAWN]
    title = f"Misread digits: what they show, and what they were read as ({len(drawn)} of {len(wrong)})"
    pictures(grid[1], title, data.x_test[drawn].reshape(-1, 28, 28), 16,
             [f"{labels[i]}, as {answers[i]}" for i in drawn], cmap="gray_r", vmin=0, vmax=1)  # fmt: skip
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
        data = load_mnist(chosen.data)
    except DataError as error:
        sys.exit(f"mnist_cnn: {error}")
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
    draw(chosen.output, history, training.model.state_dict()["first.weight"], logits, data)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
