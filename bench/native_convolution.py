"""A convolution stage for `bench.native`: 3 by 3 convolution, ReLU, the largest of each 2 by 2, the mean of it all.

Eight images of 16 channels, 28 by 28, become 32 channels; the gradient is that of the kernel. Images are an argument,
so that nothing made of them is taken for a constant. tapegrad's is written by hand, in slices and products, as what
the compiler is measured at; `tg.conv` and `tg.max_pool` are measured in `networks`. Nine shifted slices are stacked and
multiplied with the kernel as one matrix product (slower were nine products that are added up, twice, and `einsum` on
the stack, a third).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.compare import Comparison, Ready, phase
from bench.native_scalars import TOLERANCE
from bench.sparse import jax_compiled

BATCH, CHANNELS, MAPS, SIDE = 8, 16, 32, 28


def _tapegrad(x: Any) -> Ready:
    import tapegrad as tg

    def stage(kernel: Any, images: Any) -> Any:
        shifted = [images[:, :, i : i + SIDE, j : j + SIDE] for i in range(3) for j in range(3)]
        columns = np.stack(shifted, axis=2).reshape(BATCH, 9 * CHANNELS, SIDE * SIDE)
        maps = tg.relu(kernel.reshape(MAPS, 9 * CHANNELS) @ columns).reshape(BATCH, MAPS, SIDE, SIDE)
        upper, lower = (np.maximum(maps[:, :, i::2, ::2], maps[:, :, i::2, 1::2]) for i in range(2))
        return np.mean(np.maximum(upper, lower))

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(stage, *x)
    with phase(phases, "compile or load"):
        recording.value_and_grad(*x)
    return Ready(lambda x: recording.value_and_grad(*x), phases=phases)


def _jax(x: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)

    def stage(kernel: Any, images: Any) -> Any:
        maps = jax.nn.relu(jax.lax.conv(images, kernel, (1, 1), "VALID"))
        two = (1, 1, 2, 2)
        return jax.lax.reduce_window(maps, -np.inf, jax.lax.max, two, two, "VALID").mean()

    phases: dict[str, float] = {}
    compiled = jax_compiled(phases, jax.value_and_grad(stage), *x)
    return Ready(
        lambda x: jax.block_until_ready(compiled(*x)), lambda x: tuple(map(jax.numpy.asarray, x)), phases=phases
    )  # fmt: skip


def _torch(x: Any) -> Ready:
    import torch

    def run(x: Any) -> Any:
        kernel, images = x
        maps = torch.relu(torch.nn.functional.conv2d(images, kernel))
        value = torch.nn.functional.max_pool2d(maps, 2).mean()
        return value.detach(), torch.autograd.grad(value, kernel)[0]

    return Ready(run, lambda x: (torch.tensor(x[0], requires_grad=True), torch.from_numpy(x[1])))


def convolution() -> Comparison:
    rng = np.random.default_rng(60)

    def given() -> tuple[np.ndarray, np.ndarray]:
        images = np.pad(rng.normal(size=(BATCH, CHANNELS, SIDE, SIDE)), ((0, 0), (0, 0), (1, 1), (1, 1)))
        return rng.normal(size=(MAPS, CHANNELS, 3, 3)) / 12.0, images

    name = f"convolution stage, {BATCH} images, {CHANNELS} to {MAPS} channels, {SIDE} by {SIDE}: gradient"
    return Comparison(
        name, [given() for _ in range(4)], {"tapegrad": _tapegrad, "jax": _jax, "torch": _torch}, tolerance=TOLERANCE
    )
