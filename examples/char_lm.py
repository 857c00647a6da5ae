"""Train a small LSTM to write text, character by character, and let it write.

    python examples/char_lm.py
    python examples/char_lm.py --text a_book.txt --hidden 256 --layers 2 --steps 5000

Without --text it reads what Python's own help says of the language, which comes with Python. The loss of a step,
through all characters of its windows, is recorded once and replayed at other windows; so is the step by which the
model writes. A figure shows how the loss falls, and what the model wrote on the way.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tapegrad import nn

    # Losses of all steps; steps and the losses on held-out text then; steps and what was written then.
    History = tuple[list[float], list[tuple[int, float]], list[tuple[int, str]]]

# Characters that the text has less often than this count as a space.
RARE = 20


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small LSTM to write text, character by character.")
    add = parser.add_argument
    add("--text", type=Path, help="a text in UTF-8 (default: what Python's own help says of the language)")
    add("--hidden", type=int, default=128, help="length of the state (default: %(default)s)")
    add("--embedding", type=int, default=32, help="numbers that stand for a character (default: %(default)s)")
    add("--layers", type=int, default=1, help="LSTMs above each other (default: %(default)s)")
    add("--length", type=int, default=64, help="characters in a window (default: %(default)s)")
    add("--batch", type=int, default=32, help="windows in a step (default: %(default)s)")
    add("--steps", type=int, default=2000, help="steps of the training (default: %(default)s)")
    add("--rate", type=float, default=0.004, help="highest learning rate (default: %(default)s)")
    add("--dtype", choices=["float32", "float64"], default="float32", help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of the weights, the windows and what is written (default: %(default)s)")
    add("--threads", type=int, default=1, help="threads of the matrix products (default: %(default)s)")
    add("--sample", type=int, default=400, help="characters to write at the end (default: %(default)s)")
    add("--start", default="The ", help="how what is written begins (default: %(default)r)")
    add("--temperature", type=float, default=0.6, help="below 1 likely characters are preferred (default: %(default)s)")
    add("--output", type=Path, default=Path("char_lm.png"), help="the figure (default: %(default)s)")
    add("--save", type=Path, help="also write the trained parameters to this .npz file")
    chosen = parser.parse_args(arguments)
    for name in ("hidden", "embedding", "layers", "length", "batch", "steps", "threads"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    for name in ("rate", "temperature"):
        if getattr(chosen, name) <= 0:
            parser.error(f"--{name} must be positive")
    if not chosen.start:
        parser.error("--start must not be empty")
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


def read(path: Path | None) -> tuple[str, str]:
    """The text, and what to call it."""
    if path is None:
        from pydoc_data.topics import topics

        return "\n\n".join(topics[name] for name in sorted(topics)), "Python's help"
    try:
        return path.read_text(encoding="utf-8"), path.name
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"char_lm: {path} cannot be read: {error}")


class Letters:
    """The characters of a text, as whole numbers."""

    def __init__(self, text: str) -> None:
        import numpy as np

        counts = {c: text.count(c) for c in set(text)}
        self.known = sorted({c for c, n in counts.items() if n >= min(RARE, len(text) // 100)} | {" "})
        self._number = {c: i for i, c in enumerate(self.known)}
        self.numbers = np.array([self.of(c) for c in text])

    def of(self, character: str) -> int:
        return self._number.get(character, self._number[" "])


def model_of(chosen: argparse.Namespace, letters: int) -> nn.Module:
    """Characters to the logits of the next one; with the state that it is in, for writing."""
    import numpy as np

    from tapegrad import nn

    rng = np.random.default_rng(chosen.seed)

    class Writer(nn.Module):
        def __init__(self) -> None:
            self.embedding = nn.Embedding(letters, chosen.embedding, rng=rng, dtype=chosen.dtype)
            self.lstm = nn.LSTM(chosen.embedding, chosen.hidden, chosen.layers, rng=rng, dtype=chosen.dtype)
            self.head = nn.Linear(chosen.hidden, letters, init="xavier", rng=rng, dtype=chosen.dtype)

        def forward(self, index: Any, state: Any = None) -> Any:
            y, state = self.lstm(self.embedding(index), state)
            return self.head(y), state

    return Writer()


def windows(
    numbers: NDArray[np.integer], chosen: argparse.Namespace, rng: np.random.Generator
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Random windows, (length, batch), and the same one character further."""
    import numpy as np

    at = rng.integers(0, len(numbers) - chosen.length, chosen.batch)
    index = numbers[at + np.arange(chosen.length + 1)[:, None]]
    return index[:-1], index[1:]


def train(chosen: argparse.Namespace, letters: Letters, model: nn.Module, progress: Any) -> History:
    """Trains the model. Returns the losses of all steps, those on held-out text, and what it wrote on the way."""
    import numpy as np

    import tapegrad as tg
    from tapegrad import optim
    from tapegrad.threads import blas_threads

    cut = len(letters.numbers) * 19 // 20
    texts = letters.numbers[:cut], letters.numbers[cut:]
    if len(texts[1]) <= chosen.length:
        sys.exit(f"char_lm: the text is too short for windows of {chosen.length} characters")

    def loss(flat: Any, index: Any, following: Any) -> Any:
        return tg.cross_entropy(model.call_with(flat, index)[0], following)

    step, held_out = tg.value_and_grad(loss), tg.recorded(loss)
    flat = np.array(model.flat.data)
    optimizer = optim.AdamW(lr=optim.cosine(chosen.rate, chosen.steps), weight_decay=0.01)
    rng = np.random.default_rng(chosen.seed)
    losses: list[float] = []
    checked: list[tuple[int, float]] = []
    written: list[tuple[int, str]] = []
    looks = {round(chosen.steps * share) for share in (0.05, 0.25, 1.0)}
    every = max(1, chosen.steps // 40)
    others = [windows(texts[1], chosen, np.random.default_rng(1)) for _ in range(4)]
    bar = progress(range(1, chosen.steps + 1), unit="step", file=sys.stderr)
    with blas_threads(chosen.threads):
        for n in bar:
            value, gradient = step(flat, *windows(texts[0], chosen, rng))
            # Once in a while a gradient through many steps is very long.
            optimizer.update(flat, gradient * min(1.0, 1.0 / max(float(np.linalg.norm(gradient)), 1e-12)))
            losses.append(float(value))
            if n % every == 0 or n == chosen.steps:
                checked.append((n, float(np.mean([held_out(flat, *window) for window in others]))))
                bar.set_postfix_str(f"loss {np.mean(losses[-every:]):.3f}, held-out text {checked[-1][1]:.3f}")
            if n in looks:
                model.flat.data = flat
                written.append((n, write(chosen, letters, model, chosen.sample)))
    return losses, checked, written


def write(chosen: argparse.Namespace, letters: Letters, model: nn.Module, count: int) -> str:
    """Text from the model: it reads the start, then each character that it has drawn."""
    import numpy as np

    import tapegrad as tg

    flat = np.array(model.flat.data)

    def step(flat: Any, index: Any, h: Any, c: Any) -> Any:
        return model.call_with(flat, index, (h, c))

    one = tg.recorded(step)
    h = c = np.zeros((chosen.layers, 1, chosen.hidden), chosen.dtype)
    rng = np.random.default_rng(chosen.seed)
    text: str = chosen.start
    for i in range(len(chosen.start) + count):
        logits, (h, c) = one(flat, np.array([[letters.of(text[i])]]), h, c)
        if i + 1 == len(text):
            likely = logits[0, 0].astype(float) / chosen.temperature
            chances = np.exp(likely - likely.max())
            text += letters.known[rng.choice(len(chances), p=chances / chances.sum())]
    return text[: len(chosen.start) + count]


def shown(text: str, width: int, lines: int) -> str:
    """A text in so many lines of such a width."""
    paragraph = [part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""]]
    return "\n".join(paragraph[:lines])


def draw(path: Path, history: History, name: str, parameters: int) -> None:
    """The course of the loss, in bits for a character, and what the model wrote on the way."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    losses, checked, written = history
    ink, blue, orange, grey = "#22252b", "#2f6db5", "#d9742b", "#8a919c"
    plt.rcParams.update({"font.size": 10, "text.color": ink, "axes.edgecolor": grey, "axes.labelcolor": ink})
    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    figure = plt.figure(figsize=(13, 7.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    bits = np.array(losses) / np.log(2.0)
    of_others = np.array(checked) / [1.0, np.log(2.0)]
    figure.suptitle(
        f"An LSTM of {parameters:,} parameters reads {name}: {of_others[-1, 1]:.2f} bits a character on unseen text",
        fontsize=14,
    )  # fmt: skip
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 1.15])
    left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    axes = left.subplots()
    axes.plot(np.arange(1, len(bits) + 1), bits, color=blue, alpha=0.25, linewidth=0.8)
    width = max(1, len(bits) // 50)
    smooth = np.convolve(bits, np.ones(width) / width, "valid")
    axes.plot(np.arange(width, len(bits) + 1), smooth, color=blue, label="training")
    axes.plot(of_others[:, 0], of_others[:, 1], color=orange, label="held-out text")
    axes.set(title="Loss, bits for a character", xlabel="step", yscale="log")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}")
    axes.grid(True, which="both", color="#e6e8ec", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    for axes, (step, text) in zip(right.subplots(len(written), 1, squeeze=False)[:, 0], written):
        axes.set(title=f"What it writes after {step:,} steps", xticks=[], yticks=[])
        axes.text(
            0.015, 0.95, shown(text, 72, 9), family="monospace", fontsize=8.5, va="top", transform=axes.transAxes,
            parse_math=False,
        )  # fmt: skip
        axes.spines[:].set_color("#d5d9e0")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    chosen = options(arguments)
    # The environment reaches the BLAS only before NumPy is imported; so the imports stand in the functions.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(chosen.threads))
    start = time.perf_counter()
    progress = extras()
    text, name = read(chosen.text)
    if len(text) < 1000:
        sys.exit(f"char_lm: {name} has {len(text)} characters, and a thousand are too few to learn from")
    letters = Letters(text)
    print(f"{name}: {len(text):,} characters, {len(letters.known)} of them different")
    model = model_of(chosen, len(letters.known))
    print(model)
    history = train(chosen, letters, model, progress)
    _, checked, written = history
    print(f"{written[-1][1]}\n")
    seconds = time.perf_counter() - start
    print(f"cross-entropy {checked[-1][1]:.3f} on held-out text after {chosen.steps:,} steps, {seconds:.1f} s in all")
    if chosen.save:
        model.save(chosen.save)
        print(f"parameters written to {chosen.save}")
    draw(chosen.output, history, name, model.flat.size)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
