"""Four normalisations one after the other, as in a network: the sum of squares of the result, and its gradient in their
weights and biases; float32, one thread. PyTorch is eager. Results are compared before anything is timed.

What comes first is data, so its gradient is left out; that of the others passes through three of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import tapegrad as tg
from bench import tools
from bench.compare import Comparison

LAYERS, INPUTS = 4, 4


def _functions(functions: Any) -> Any:
    if functions is np:
        return tg
    import torch

    torch.set_num_threads(1)
    return torch.nn.functional


def batch(functions: Any, x: Any, w: Any, b: Any) -> Any:
    """Batch normalisation in training, without running statistics."""
    return _functions(functions).batch_norm(x, None, None, w, b, True)


def layer(functions: Any, x: Any, w: Any, b: Any) -> Any:
    """Layer normalisation over the last axis."""
    return _functions(functions).layer_norm(x, (x.shape[-1],), w, b)


def groups(functions: Any, x: Any, w: Any, b: Any) -> Any:
    """Group normalisation in eight groups."""
    return _functions(functions).group_norm(x, 8, w, b)


def stack(norm: Callable[..., Any], w: Any, functions: Any, x: Any) -> Any:
    """The sum of squares of the last of four; w has their weights and biases."""
    for i in range(LAYERS):
        x = norm(functions, x, w[2 * i], w[2 * i + 1])
    return functions.sum(x * x)


def _data(shape: tuple[int, ...]) -> tuple[np.ndarray]:
    return (np.random.default_rng(0).normal(size=shape).astype(np.float32),)


def _comparison(name: str, norm: Callable[..., Any], shape: tuple[int, ...], channels: int) -> Comparison:
    rng = np.random.default_rng(1)
    contestants = {"tapegrad": tools.tapegrad, "torch": tools.torch}
    return Comparison(
        name=f"four {name} normalisations of {shape}, float32",
        tools={
            tool: tools.settling(partial(make, partial(stack, norm), data=partial(_data, shape)))
            for tool, make in contestants.items()
        },
        inputs=[(0.5 + rng.random(size=(2 * LAYERS, channels))).astype(np.float32) for _ in range(INPUTS)],
        unit="gradient",
        tolerance=1e-2,
    )


COMPARISONS = [
    partial(_comparison, "batch", batch, (32, 64, 28, 28), 64),
    partial(_comparison, "batch", batch, (256, 512), 512),
    partial(_comparison, "layer", layer, (64, 128, 256), 256),
    partial(_comparison, "group", groups, (32, 64, 28, 28), 64),
]
