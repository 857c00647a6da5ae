"""An epoch of MNIST's perceptron: 100 batches of 64 in an order that is shuffled anew, plain gradient descent or AdamW.

tapegrad runs it in compiled code (`nn.Training.epoch`); PyTorch in a loop of Python, as its users do; JAX as a loop of
Python over a compiled step, and as one compiled scan. All take the batches in the same order. Mean loss and weights
after an epoch must agree.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import machine
from bench.compare import Comparison, Ready, phase
from bench.mnist import BATCH, RATE, SIZES, batches, first_weights, jax_loss, jax_step, torch_step

STEPS = 100
# Of AdamW: the rate, small so that roundings do not grow to another way, the factors of the two moments, what keeps the
# division from zero, and the decay.
ADAM_RATE, BETAS, EPS, DECAY = 1e-4, (0.9, 0.999), 1e-6, 0.01


def _samples() -> tuple[np.ndarray, np.ndarray]:
    parts = batches(STEPS)
    return np.concatenate([x for x, _ in parts]), np.concatenate([labels for _, labels in parts])


def _order(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(STEPS * BATCH)


def _flat(weights: Any) -> Any:
    return [np.asarray(w) for w in weights]


def _tapegrad(adam: bool, seed: int) -> Ready:
    try:
        from tapegrad import nn, optim
    except ImportError as error:
        raise ImportError("tapegrad.nn", name="tapegrad.nn") from error

    x, labels = _samples()
    model = nn.MLP(list(SIZES), activation="relu", dtype=np.float32)
    model.flat.data = np.concatenate([w.reshape(-1) for w in first_weights()])
    optimizer = optim.SGD(model, float(RATE))
    if adam:
        optimizer = optim.AdamW(model, ADAM_RATE, betas=BETAS, eps=EPS, weight_decay=DECAY)
    training = nn.Training(model, optimizer, "cross_entropy", batch_size=BATCH, threads=machine.threads())
    phases: dict[str, float] = {}
    with phase(phases, "record, compile or load, and a pass"):
        training.evaluate(x, labels, batch_size=BATCH)
    return Ready(lambda seed: (training.epoch(x, labels, rng=seed).loss, np.array(model.flat.data)), phases=phases)


def _torch(adam: bool, seed: int) -> Ready:
    import torch

    machine.limit_torch()
    x, labels = (torch.tensor(a) for a in _samples())
    weights = [torch.tensor(w, requires_grad=True) for w in first_weights()]
    step = torch_step(weights)
    if adam:
        optimizer = torch.optim.AdamW(weights, ADAM_RATE, betas=BETAS, eps=EPS, weight_decay=DECAY)
        step = torch_step(weights, optimizer)

    def epoch(seed: int) -> Any:
        total = torch.zeros(())
        for rows in torch.from_numpy(_order(seed)).split(BATCH):
            total += step(x[rows], labels[rows])
        return total.item() / STEPS, weights

    return Ready(epoch, read=lambda result: (result[0], [w.detach().numpy() for w in result[1]]))


def _jax_state(adam: bool) -> tuple[Any, Any]:
    """What JAX carries from step to step, and a step."""
    import jax

    jnp = jax.numpy
    weights = [jnp.asarray(w) for w in first_weights()]
    if not adam:
        return weights, jax_step()
    gradient = jax.value_and_grad(jax_loss())

    def step(state: Any, x: Any, labels: Any) -> Any:
        weights, first, second, t = state
        value, gradients = gradient(weights, x, labels)
        t = t + 1
        first = [BETAS[0] * m + (1.0 - BETAS[0]) * g for m, g in zip(first, gradients)]
        second = [BETAS[1] * v + (1.0 - BETAS[1]) * g * g for v, g in zip(second, gradients)]
        one, two = 1.0 - BETAS[0] ** t, 1.0 - BETAS[1] ** t
        weights = [
            (1.0 - ADAM_RATE * DECAY) * w - ADAM_RATE / one * m / (jnp.sqrt(v / two) + EPS)
            for w, m, v in zip(weights, first, second)
        ]
        return value, (weights, first, second, t)

    zeros = [jnp.zeros_like(w) for w in weights]
    return (weights, zeros, [jnp.zeros_like(w) for w in weights], jnp.float32(0.0)), step


def _weights(adam: bool, state: Any) -> Any:
    return _flat(state[0] if adam else state)


def _jax(adam: bool, seed: int) -> Ready:
    import jax

    x, labels = _samples()
    labels = labels.astype(np.int32)
    state, step = _jax_state(adam)
    update = jax.jit(step, donate_argnums=0)

    def epoch(seed: int) -> Any:
        nonlocal state
        losses = []
        for rows in _order(seed).reshape(STEPS, BATCH):
            value, state = update(state, x[rows], labels[rows])
            losses.append(value)
        jax.block_until_ready(state)
        return np.mean([float(value) for value in losses]), state

    return Ready(epoch, read=lambda result: (result[0], _weights(adam, result[1])))


def _jax_scan(adam: bool, seed: int) -> Ready:
    import jax

    jnp = jax.numpy
    x, labels = (jnp.asarray(a) for a in _samples())
    state, step = _jax_state(adam)

    def whole(state: Any, x: Any, labels: Any, order: Any) -> Any:
        def one(state: Any, rows: Any) -> Any:
            value, state = step(state, x[rows], labels[rows])
            return state, value

        state, losses = jax.lax.scan(one, state, order.reshape(STEPS, BATCH))
        return losses.mean(), state

    phases: dict[str, float] = {}
    with phase(phases, "trace"):
        lowered = jax.jit(whole, donate_argnums=0).lower(state, x, labels, jnp.asarray(_order(seed)))
    with phase(phases, "compile"):
        compiled = lowered.compile()

    def epoch(seed: int) -> Any:
        nonlocal state
        value, state = jax.block_until_ready(compiled(state, x, labels, jnp.asarray(_order(seed))))
        return float(value), state

    return Ready(epoch, read=lambda result: (result[0], _weights(adam, result[1])), phases=phases)


def _comparison(adam: bool) -> Comparison:
    makers = {"tapegrad": _tapegrad, "torch, eager": _torch, "jax.jit": _jax, "jax.jit, scan": _jax_scan}
    contestants = {tool: partial(make, adam) for tool, make in makers.items()}
    rule = "AdamW" if adam else "gradient descent"
    name = f"MNIST epoch of {STEPS} steps, {rule}, batch {BATCH}, float32, threads: {machine.threads()}"
    return Comparison(
        name, range(9), contestants, per=STEPS, unit="step", dtype=np.float32, tolerance=5e-3, round_time=0.1
    )


def epoch() -> Comparison:
    """An epoch of 100 steps of gradient descent, reported per step."""
    return _comparison(False)


def adam_epoch() -> Comparison:
    """An epoch of 100 steps of AdamW, reported per step."""
    return _comparison(True)


COMPARISONS = [epoch, adam_epoch]
