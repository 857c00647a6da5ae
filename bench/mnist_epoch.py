"""An epoch of MNIST's perceptron: 100 batches of 64 in an order that is shuffled anew, plain gradient descent.

tapegrad runs it in compiled code (`nn.Training.epoch`); PyTorch in a loop of Python, as its users do; JAX as a loop of
Python over a compiled step, and as one compiled scan. All take the batches in the same order. Mean loss and weights
after an epoch must agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bench import machine
from bench.compare import Comparison, Ready, phase
from bench.mnist import BATCH, RATE, SIZES, batches, first_weights, jax_step, torch_step

STEPS = 100


def _samples() -> tuple[np.ndarray, np.ndarray]:
    parts = batches(STEPS)
    return np.concatenate([x for x, _ in parts]), np.concatenate([labels for _, labels in parts])


def _order(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(STEPS * BATCH)


def _flat(weights: Any) -> Any:
    return [np.asarray(w) for w in weights]


def _tapegrad(seed: int) -> Ready:
    try:
        from tapegrad import nn, optim
    except ImportError as error:
        raise ImportError("tapegrad.nn", name="tapegrad.nn") from error

    x, labels = _samples()
    model = nn.MLP(list(SIZES), activation="relu", dtype=np.float32)
    model.flat.data = np.concatenate([w.reshape(-1) for w in first_weights()])
    training = nn.Training(
        model, optim.SGD(model, float(RATE)), "cross_entropy", batch_size=BATCH, threads=machine.threads()
    )
    phases: dict[str, float] = {}
    with phase(phases, "record, compile or load, and a pass"):
        training.evaluate(x, labels, batch_size=BATCH)
    return Ready(lambda seed: (training.epoch(x, labels, rng=seed).loss, np.array(model.flat.data)), phases=phases)


def _torch(seed: int) -> Ready:
    import torch

    machine.limit_torch()
    x, labels = (torch.tensor(a) for a in _samples())
    weights = [torch.tensor(w, requires_grad=True) for w in first_weights()]
    step = torch_step(weights)

    def epoch(seed: int) -> Any:
        total = torch.zeros(())
        for rows in torch.from_numpy(_order(seed)).split(BATCH):
            total += step(x[rows], labels[rows])
        return total.item() / STEPS, weights

    return Ready(epoch, read=lambda result: (result[0], [w.detach().numpy() for w in result[1]]))


def _jax(seed: int) -> Ready:
    import jax

    x, labels = _samples()
    labels = labels.astype(np.int32)
    weights = [jax.numpy.asarray(w) for w in first_weights()]
    update = jax.jit(jax_step(), donate_argnums=0)

    def epoch(seed: int) -> Any:
        nonlocal weights
        losses = []
        for rows in _order(seed).reshape(STEPS, BATCH):
            value, weights = update(weights, x[rows], labels[rows])
            losses.append(value)
        jax.block_until_ready(weights)
        return np.mean([float(value) for value in losses]), weights

    return Ready(epoch, read=lambda result: (result[0], _flat(result[1])))


def _jax_scan(seed: int) -> Ready:
    import jax

    jnp = jax.numpy
    x, labels = (jnp.asarray(a) for a in _samples())
    weights = [jnp.asarray(w) for w in first_weights()]
    step = jax_step()

    def whole(weights: Any, x: Any, labels: Any, order: Any) -> Any:
        def one(weights: Any, rows: Any) -> Any:
            value, weights = step(weights, x[rows], labels[rows])
            return weights, value

        weights, losses = jax.lax.scan(one, weights, order.reshape(STEPS, BATCH))
        return losses.mean(), weights

    phases: dict[str, float] = {}
    with phase(phases, "trace"):
        lowered = jax.jit(whole, donate_argnums=0).lower(weights, x, labels, jnp.asarray(_order(seed)))
    with phase(phases, "compile"):
        compiled = lowered.compile()

    def epoch(seed: int) -> Any:
        nonlocal weights
        value, weights = jax.block_until_ready(compiled(weights, x, labels, jnp.asarray(_order(seed))))
        return float(value), weights

    return Ready(epoch, read=lambda result: (result[0], _flat(result[1])), phases=phases)


def epoch() -> Comparison:
    """An epoch of 100 steps, reported per step."""
    contestants = {"tapegrad": _tapegrad, "torch, eager": _torch, "jax.jit": _jax, "jax.jit, scan": _jax_scan}
    name = f"MNIST epoch of {STEPS} steps, batch {BATCH}, float32, threads: {machine.threads()}"
    return Comparison(
        name, range(9), contestants, per=STEPS, unit="step", dtype=np.float32, tolerance=5e-3, round_time=0.1
    )


COMPARISONS = [epoch]
