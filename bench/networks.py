"""Layers of networks, in float32: value and gradient of a loss in the weights and in what the layer is given.

Every layer is written once for each tool as a function loss(*arrays), of which all arrays are differentiated, and
`_comparison` makes a comparison of these. JAX is compiled; PyTorch is eager. Results are compared before anything is
timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from bench.compare import Comparison, Ready, phase
from bench.tools import settling

INPUTS = 4
# In float32 sums of some ten thousand products differ by so much of the largest number.
TOLERANCE = 1e-3
Loss = Callable[..., Any]


def _tapegrad(loss: Loss, x: Sequence[Any]) -> Ready:
    import tapegrad as tg

    every = tuple(range(len(x)))
    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(loss, *x)
    with phase(phases, "compile or load"):
        recording.value_and_grad(*x, argnums=every)
    return Ready(lambda x: recording.value_and_grad(*x, argnums=every), phases=phases)


def _jax(loss: Loss, x: Sequence[Any]) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", False)
    phases: dict[str, float] = {}
    with phase(phases, "trace"):
        lowered = jax.jit(jax.value_and_grad(loss, argnums=tuple(range(len(x))))).lower(*x)
    with phase(phases, "compile"):
        compiled = lowered.compile()
    return Ready(
        lambda x: jax.block_until_ready(compiled(*x)), lambda x: tuple(map(jax.numpy.asarray, x)), phases=phases
    )  # fmt: skip


def _torch(loss: Loss, x: Sequence[Any]) -> Ready:
    import torch

    def run(x: Any) -> Any:
        value = loss(*x)
        return value.detach(), torch.autograd.grad(value, x)

    return Ready(run, lambda x: tuple(torch.tensor(a, requires_grad=True) for a in x))


TOOLS = {"tapegrad": _tapegrad, "torch": _torch, "jax.jit": _jax}


def _comparison(name: str, losses: dict[str, Loss], shapes: Sequence[tuple[int, ...]], **options: Any) -> Comparison:
    """A comparison of a loss, written for each tool, at arrays of these shapes; the first is what the layer is given,
    and weights are such that sums keep their size."""
    rng = np.random.default_rng(0)

    def drawn(i: int, shape: tuple[int, ...]) -> np.ndarray:
        wide = np.sqrt(np.prod(shape[1:])) if i and len(shape) > 1 else 1.0
        return (rng.normal(size=shape) / wide).astype(np.float32)

    return Comparison(
        name=name,
        inputs=[tuple(drawn(i, shape) for i, shape in enumerate(shapes)) for _ in range(INPUTS)],
        tools={tool: settling(partial(TOOLS[tool], loss)) for tool, loss in losses.items()},
        unit="gradient",
        tolerance=TOLERANCE,
        **options,
    )


# A convolution of 3 by 3 with padding, ReLU, the largest of each 2 by 2, and the mean of the squares.


def _tapegrad_convolution(x: Any, kernel: Any, bias: Any) -> Any:
    import tapegrad as tg

    return np.mean(tg.max_pool(tg.relu(tg.conv(x, kernel, bias, padding=1)), (2, 2)) ** 2)


def _jax_convolution(x: Any, kernel: Any, bias: Any) -> Any:
    import jax

    maps = jax.nn.relu(jax.lax.conv(x, kernel, (1, 1), "SAME") + bias[:, None, None])
    two = (1, 1, 2, 2)
    return (jax.lax.reduce_window(maps, -np.inf, jax.lax.max, two, two, "VALID") ** 2).mean()


def _torch_convolution(x: Any, kernel: Any, bias: Any) -> Any:
    from torch.nn import functional

    maps = functional.relu(functional.conv2d(x, kernel, bias, padding=1))
    return (functional.max_pool2d(maps, 2) ** 2).mean()


def convolution(images: int, channels: int, maps: int, side: int) -> Comparison:
    return _comparison(
        f"convolution stage, {images} images, {channels} to {maps} channels, {side} by {side}",
        {"tapegrad": _tapegrad_convolution, "torch": _torch_convolution, "jax.jit": _jax_convolution},
        [(images, channels, side, side), (maps, channels, 3, 3), (maps,)],
    )


COMPARISONS = [partial(convolution, 8, 16, 32, 28), partial(convolution, 32, 32, 64, 14)]
