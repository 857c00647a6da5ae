"""Train a variational autoencoder on MNIST: each digit becomes a point in a plane, and each point a digit.

    python examples/vae.py
    python examples/vae.py --data path/to/mnist --epochs 30 --hidden 512

The encoder says where a digit may lie in the plane, as a normal density; a point is drawn from it, and the decoder
draws the digit again. The generator of these points is an argument of the loss: each replay of its gradient draws anew.
At the end the bound on the log likelihood of the test images is printed, and a figure with the plane is written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_data import MNIST
    from numpy.typing import DTypeLike

    History = list[tuple[float, float]]

PLANE = 2


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a variational autoencoder on MNIST.")
    add = parser.add_argument
    add("--data", type=Path, help="folder of the four MNIST files (default: TAPEGRAD_DATA, the cache, or a download)")
    add("--epochs", type=int, default=20, help="passes over the training images (default: %(default)s)")
    add("--batch", type=int, default=128, help="images in a step (default: %(default)s)")
    add("--hidden", type=int, default=256, help="units of the hidden layers (default: %(default)s)")
    add("--rate", type=float, default=2e-3, help="highest learning rate of Adam (default: %(default)s)")
    add("--dtype", choices=["float32", "float64"], default="float32", help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of the weights, the order of images and the draws (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of the matrix products (default: %(default)s)")
    add("--output", type=Path, default=Path("vae.png"), help="the figure (default: %(default)s)")
    add("--save", type=Path, help="also write the trained parameters to this .npz file")
    chosen = parser.parse_args(arguments)
    for name in ("epochs", "batch", "hidden", "threads"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return chosen


def extras() -> Any:
    """The packages that only the examples need."""
    try:
        import matplotlib
        import tqdm
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')
    matplotlib.use("Agg")
    return tqdm.tqdm


def made(chosen: argparse.Namespace, pixels: int, dtype: DTypeLike) -> Any:
    """The model: from images and a generator to the negative bound of their log likelihood, a mean."""
    import numpy as np

    import tapegrad as tg
    from tapegrad import nn

    class Autoencoder(nn.Module):
        def __init__(self, seed: int) -> None:
            rng = np.random.default_rng(seed)
            self.encoder = nn.MLP([pixels, chosen.hidden, 2 * PLANE], "tanh", seed=rng, dtype=dtype)
            self.decoder = nn.MLP([PLANE, chosen.hidden, pixels], "tanh", seed=rng, dtype=dtype)

        def densities(self, x: Any) -> tuple[Any, Any]:
            """Where images lie in the plane: the means, and the logarithms of the variances."""
            both = self.encoder(x)
            return both[:, :PLANE], both[:, PLANE:]

        def forward(self, x: Any, rng: Any) -> Any:
            mean, spread = self.densities(x)
            drawn = rng.standard_normal(mean.shape, dtype=dtype)
            logits = self.decoder(mean + np.exp(0.5 * spread) * drawn)
            # Pixels are probabilities of ink; and how far the densities are from the standard normal one.
            missed = np.sum(tg.softplus(logits) - x * logits)
            distance = 0.5 * np.sum(mean**2 + np.exp(spread) - 1.0 - spread)
            return (missed + distance) / len(x)

    return Autoencoder(chosen.seed)


def train(chosen: argparse.Namespace, data: MNIST, progress: Any) -> tuple[Any, History]:
    """The trained model, and for each epoch (loss, seconds)."""
    import numpy as np

    import tapegrad as tg
    from tapegrad import optim

    model = made(chosen, data.x_train.shape[1], data.x_train.dtype.type)
    n, batch = len(data.x_train), min(chosen.batch, len(data.x_train))
    rng = np.random.default_rng(chosen.seed)
    optimizer = optim.Adam(model, optim.cosine(chosen.rate, chosen.epochs * (n // batch)))
    gradient = tg.value_and_grad(lambda parameters, x, rng: model.call_with(parameters, x, rng))
    parameters = np.array(model.flat.data)
    print(model)
    history: History = []
    bar = progress(range(chosen.epochs), unit="epoch", file=sys.stderr)
    for _ in bar:
        start, total = time.perf_counter(), 0.0
        order = rng.permutation(n)
        for at in range(0, n - batch + 1, batch):
            value, slope = gradient(parameters, data.x_train[order[at : at + batch]], rng)
            optimizer.update(parameters, slope)
            total += value
        history.append((total / (n // batch), time.perf_counter() - start))
        bar.set_postfix_str(f"loss {history[-1][0]:.2f}")
    model.flat.data = parameters
    return model, history


def draw(path: Path, model: Any, history: History, bound: float, data: MNIST) -> None:
    """The plane with test digits in it, what the decoder draws all over it, and digits drawn again, as one picture."""
    import matplotlib.pyplot as plt
    import numpy as np
    import scipy.stats
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    ink, blue, grey = "#22252b", "#2f6db5", "#8a919c"
    plt.rcParams.update({"font.size": 10, "text.color": ink, "axes.edgecolor": grey, "axes.labelcolor": ink})
    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    side = round(data.x_test.shape[1] ** 0.5)

    def ink_of(z: Any) -> Any:
        """Images that points of the plane stand for."""
        return 1.0 / (1.0 + np.exp(-np.asarray(model.decoder(z).data)))

    x, labels = data.x_test[:5000], data.y_test[:5000]
    means = np.asarray(model.densities(x)[0].data)

    figure = plt.figure(figsize=(13, 8.2), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    figure.suptitle(
        f"A variational autoencoder: test images take {bound:.1f} nats each, in a plane of two numbers", fontsize=14
    )
    grid = figure.add_gridspec(2, 2, height_ratios=[3.2, 1], width_ratios=[1.12, 1])
    axes = figure.add_subplot(grid[0, 0])
    reach = np.quantile(np.abs(means), 0.995)
    for digit in range(10):
        own = means[labels == digit]
        axes.scatter(*own.T, s=5, alpha=0.5, linewidths=0, color=plt.cm.tab10(digit), label=str(digit))
    axes.set(title="Where test digits lie", xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.legend(frameon=False, markerscale=3, loc="center left", bbox_to_anchor=(1.0, 0.5), handletextpad=0.1)
    axes.spines[["top", "right"]].set_visible(False)

    count = 18
    at = scipy.stats.norm.ppf((np.arange(count) + 0.5) / count).astype(x.dtype)
    across, up = np.meshgrid(at, at[::-1])
    drawn = ink_of(np.stack([across.ravel(), up.ravel()], 1)).reshape(count, count, side, side)
    axes = figure.add_subplot(grid[0, 1])
    axes.imshow(drawn.transpose(0, 2, 1, 3).reshape(count * side, count * side), cmap="gray_r", vmin=0, vmax=1)
    axes.set(title="What the decoder draws, all over it", xticks=[], yticks=[])
    axes.spines[:].set_color("#d5d9e0")

    again = ink_of(means[:14])
    pairs = np.concatenate([x[:14].reshape(-1, side, side), again.reshape(-1, side, side)], 1)
    axes = figure.add_subplot(grid[1, 0])
    axes.imshow(np.concatenate(list(pairs), 1), cmap="gray_r", vmin=0, vmax=1)
    axes.set(title="Test digits, and below as they are drawn again", xticks=[], yticks=[])
    axes.spines[:].set_color("#d5d9e0")

    axes = figure.add_subplot(grid[1, 1])
    axes.plot(np.arange(1, len(history) + 1), [loss for loss, _ in history], color=blue, marker="o", markersize=4)
    axes.set(title="Negative bound of the log likelihood, training", xlabel="epoch")
    axes.grid(True, color="#e6e8ec", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    chosen = options(arguments)
    # The environment reaches the BLAS only before NumPy is imported; so the imports stand in the functions.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(chosen.threads))
    start = time.perf_counter()
    progress = extras()
    import numpy as np
    from mnist_data import load_mnist

    from tapegrad.errors import DataError

    try:
        data = load_mnist(chosen.data, dtype=chosen.dtype)
    except DataError as error:
        sys.exit(f"vae: {error}")
    print(f"{data.source}: {len(data.x_train)} images for training, {len(data.x_test)} for testing")
    model, history = train(chosen, data, progress)
    rng = np.random.default_rng(chosen.seed + 1)
    bound = float(np.asarray(model(data.x_test, rng).data))
    seconds = sorted(taken for _, taken in history)
    print(f"negative bound of the log likelihood: {bound:.2f} nats for each test image")
    print(f"{seconds[len(seconds) // 2]:.2f} s an epoch, {time.perf_counter() - start:.1f} s in all")
    if chosen.save:
        model.save(chosen.save)
        print(f"parameters written to {chosen.save}")
    draw(chosen.output, model, history, bound, data)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
