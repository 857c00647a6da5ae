"""Layers of networks, in float32: value and gradient of a loss in the weights and in what the layer is given.

Every layer is written once for each tool as a function loss(*arrays), of which all arrays are differentiated, and
`_comparison` makes a comparison of these; some are compared forward alone as well. JAX is compiled; PyTorch is eager.
Results are compared before anything is timed.
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


def _tapegrad_forward(f: Loss, x: Sequence[Any]) -> Ready:
    import tapegrad as tg

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(f, *x)
    with phase(phases, "compile or load"):
        recording(*x)
    return Ready(lambda x: recording(*x), phases=phases)


def _jax_forward(f: Loss, x: Sequence[Any]) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", False)
    compiled = jax.jit(f).lower(*x).compile()
    return Ready(lambda x: jax.block_until_ready(compiled(*x)), lambda x: tuple(map(jax.numpy.asarray, x)))


def _torch_forward(f: Loss, x: Sequence[Any]) -> Ready:
    import torch

    def run(x: Any) -> Any:
        with torch.no_grad():
            return f(*x)

    return Ready(run, lambda x: tuple(map(torch.tensor, x)))


FORWARD = {"tapegrad": _tapegrad_forward, "torch": _torch_forward, "jax.jit": _jax_forward}


def _comparison(
    name: str, losses: dict[str, Loss], shapes: Sequence[tuple[int, ...]], tools: Any = None, unit: str = "gradient"
) -> Comparison:
    """A comparison of a loss, written for each tool, at arrays of these shapes; the first is what the layer is given,
    and weights are such that sums keep their size."""
    rng = np.random.default_rng(0)

    def drawn(i: int, shape: tuple[int, ...]) -> np.ndarray:
        wide = np.sqrt(np.prod(shape[1:])) if i and len(shape) > 1 else 1.0
        return (rng.normal(size=shape) / wide).astype(np.float32)

    return Comparison(
        name=name,
        inputs=[tuple(drawn(i, shape) for i, shape in enumerate(shapes)) for _ in range(INPUTS)],
        tools={tool: settling(partial((tools or TOOLS)[tool], loss)) for tool, loss in losses.items()},
        unit=unit,
        tolerance=TOLERANCE,
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


# A convolution alone: with stride 2, and of each channel by itself. The mean of its squares with its gradient, or its
# result alone.


def _convolved(tool: str, stride: int, groups: int) -> Loss:
    def run(x: Any, kernel: Any) -> Any:
        if tool == "tapegrad":
            import tapegrad as tg

            return tg.conv(x, kernel, stride=stride, padding=1, groups=groups)
        if tool == "torch":
            from torch.nn import functional

            return functional.conv2d(x, kernel, stride=stride, padding=1, groups=groups)
        import jax

        around = [(1, 1), (1, 1)]
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), around, feature_group_count=groups)

    return run


def single(name: str, shapes: Sequence[tuple[int, ...]], stride: int, groups: int, forward: bool) -> Comparison:
    convolved = {tool: _convolved(tool, stride, groups) for tool in TOOLS}
    losses = {tool: lambda x, kernel, f=f: (f(x, kernel) ** 2).mean() for tool, f in convolved.items()}
    if not forward:
        return _comparison(f"{name}, value and gradient", losses, shapes)
    return _comparison(f"{name}, forward alone", convolved, shapes, FORWARD, "value")


STRIDED = "convolution with stride 2, 16 images, 32 to 64 channels, 28 by 28", [(16, 32, 28, 28), (64, 32, 3, 3)]
DEPTHWISE = "depthwise convolution, 16 images, 64 channels, 28 by 28", [(16, 64, 28, 28), (64, 1, 3, 3)]

COMPARISONS = [
    partial(convolution, 8, 16, 32, 28),
    partial(convolution, 32, 32, 64, 14),
    *(partial(single, *STRIDED, 2, 1, forward) for forward in (False, True)),
    *(partial(single, *DEPTHWISE, 1, 64, forward) for forward in (False, True)),
]
