"""A training step of the 784-128-64-10 perceptron, as MNIST is learned: batch 64, float32, ReLU, softmax cross-entropy.

A step is value, gradient and the update of plain gradient descent, for every contestant. Weights are updated by each
contestant in its own way, so that steps go on from one another; after three steps all must have the same loss and
weights. How many threads there are is a matter of the process: see `machine.thread_environment`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from bench import machine
from bench.compare import Comparison, Ready, phase

SIZES = (784, 128, 64, 10)
BATCH, RATE = 64, np.float32(0.1)
_SHAPES = [shape for a, b in pairwise(SIZES) for shape in ((a, b), (b,))]


def first_weights() -> list[np.ndarray]:
    """Weights and biases, weights (inputs, outputs), by Kaiming's rule."""
    rng = np.random.default_rng(4)
    return [
        (rng.normal(size=s) * np.sqrt(2.0 / s[0])).astype(np.float32) if len(s) == 2 else np.zeros(s, np.float32)
        for s in _SHAPES
    ]


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images like MNIST's in range and in how much of them is black, and labels; random, as time depends on neither."""
    rng = np.random.default_rng(5)
    images = rng.random((count, BATCH, SIZES[0]), np.float32) * (rng.random((count, BATCH, SIZES[0])) < 0.2)
    return list(zip(images.astype(np.float32), rng.integers(0, SIZES[-1], (count, BATCH))))


def split(flat: Any) -> list[Any]:
    """Weights and biases as views of one vector."""
    parts, at = [], 0
    for shape in _SHAPES:
        size = int(np.prod(shape))
        parts.append(flat[at : at + size].reshape(shape))
        at += size
    return parts


def logits(weights: list[Any], x: Any, relu: Any) -> Any:
    w1, b1, w2, b2, w3, b3 = weights
    return relu(relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3


def _tapegrad(batch: Any) -> Ready:
    # One vector of weights, so the update is one NumPy expression in place.
    import tapegrad as tg

    def loss(flat: Any, x: Any, labels: Any) -> Any:
        return tg.cross_entropy(logits(split(flat), x, tg.relu), labels)

    flat = np.concatenate([w.reshape(-1) for w in first_weights()])
    phases: dict[str, float] = {}
    value_and_grad = tg.value_and_grad(loss)
    with phase(phases, "record, compile or load"):
        value_and_grad(flat, *batch)

    def step(batch: Any) -> Any:
        value, gradient = value_and_grad(flat, *batch)
        gradient *= RATE
        np.subtract(flat, gradient, flat)
        return value, flat

    return Ready(step, phases=phases)


def torch_step(weights: list[Any], optimizer: Any = None) -> Any:
    """A function of images and labels that takes a step in PyTorch, in place, and returns its loss; plain gradient
    descent without an optimiser."""
    import torch

    w1, b1, w2, b2, w3, b3 = weights

    def step(x: Any, labels: Any) -> Any:
        hidden = torch.relu(torch.addmm(b2, torch.relu(torch.addmm(b1, x, w1)), w2))
        value = torch.nn.functional.cross_entropy(torch.addmm(b3, hidden, w3), labels)
        gradients = torch.autograd.grad(value, weights)
        if optimizer is not None:
            for w, g in zip(weights, gradients):
                w.grad = g
            optimizer.step()
            return value.detach()
        with torch.no_grad():
            torch._foreach_add_(weights, gradients, alpha=-float(RATE))
        return value.detach()

    return step


def _torch(batch: Any) -> Ready:
    import torch

    machine.limit_torch()
    weights = [torch.tensor(w, requires_grad=True) for w in first_weights()]
    step = torch_step(weights)
    return Ready(
        lambda batch: (step(*batch), weights),
        prepare=lambda batch: tuple(torch.tensor(a) for a in batch),
        read=lambda result: (result[0], [w.detach() for w in result[1]]),
    )


def jax_loss() -> Any:
    """The loss in JAX, a function of weights, images and labels."""
    import jax

    jnp = jax.numpy

    def loss(weights: Any, x: Any, labels: Any) -> Any:
        z = logits(weights, x, jax.nn.relu)
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, labels[:, None], axis=1)[:, 0])

    return loss


def jax_step() -> Any:
    """A function of weights, images and labels that gives the loss and the weights after a step in JAX."""
    import jax

    loss = jax_loss()

    def update(weights: Any, x: Any, labels: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(weights, x, labels)
        return value, [w - RATE * g for w, g in zip(weights, gradients)]

    return update


def _jax(batch: Any) -> Ready:
    import jax

    jnp = jax.numpy

    def prepare(batch: Any) -> Any:
        return jnp.asarray(batch[0]), jnp.asarray(batch[1].astype(np.int32))

    weights = [jnp.asarray(w) for w in first_weights()]
    phases: dict[str, float] = {}
    with phase(phases, "trace"):
        lowered = jax.jit(jax_step(), donate_argnums=0).lower(weights, *prepare(batch))
    with phase(phases, "compile"):
        compiled = lowered.compile()

    def step(batch: Any) -> Any:
        nonlocal weights
        value, weights = compiled(weights, *batch)
        jax.block_until_ready(weights)
        return value, weights

    return Ready(step, prepare=prepare, phases=phases)


def _numpy(batch: Any) -> Ready:
    weights = first_weights()
    w1, b1, w2, b2, w3, b3 = weights
    rows = np.arange(BATCH)

    def step(batch: Any) -> Any:
        x, labels = batch
        h1 = np.maximum(x @ w1 + b1, 0)
        h2 = np.maximum(h1 @ w2 + b2, 0)
        z = h2 @ w3 + b3
        z -= z.max(axis=1, keepdims=True)
        e = np.exp(z)
        total = e.sum(axis=1, keepdims=True)
        value = np.mean(np.log(total[:, 0]) - z[rows, labels])
        d3 = e / total
        d3[rows, labels] -= 1
        d3 /= np.float32(BATCH)
        d2 = d3 @ w3.T
        d2 *= h2 > 0
        d1 = d2 @ w2.T
        d1 *= h1 > 0
        gradients = (x.T @ d1, d1.sum(0), h1.T @ d2, d2.sum(0), h2.T @ d3, d3.sum(0))
        for w, g in zip(weights, gradients):
            g *= RATE
            np.subtract(w, g, w)
        return value, weights

    return Ready(step)


def step() -> Comparison:
    """A step: value, gradient, update."""
    contestants = {"tapegrad": _tapegrad, "torch, eager": _torch, "jax.jit": _jax, "NumPy by hand": _numpy}
    name = f"MNIST step, batch {BATCH}, float32, threads: {machine.threads()}"
    return Comparison(name, batches(9), contestants, unit="step", dtype=np.float32, round_time=0.1)


COMPARISONS = [step]
