"""One update of Adam on the nested parameters of the 784-128-64-10 perceptron, as in a loop of one's own, without the
gradient; and where weights have died, so that squares of gradients are subnormal numbers.

The parameters stay where they are from round to round but for the updates, so nothing is compared but times; that the
updates are PyTorch's is a test.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import machine
from bench.compare import Comparison, Ready
from bench.mnist import first_weights

# Far below what a float64 holds when it is squared, as gradients of dead weights are.
DEAD = 1e-160


def _weights(dtype: Any) -> list[np.ndarray]:
    return [w.astype(dtype) for w in first_weights()]


def _tapegrad(dtype: Any, gradient: float) -> Ready:
    from tapegrad import optim

    params = {str(i): w for i, w in enumerate(_weights(dtype))}
    gradients = {name: np.full_like(w, gradient) for name, w in params.items()}
    optimizer = optim.Adam(lr=1e-6)

    def update(_: Any) -> None:
        nonlocal params
        params = optimizer.update(params, gradients)

    return Ready(update)


def _torch(fused: bool, dtype: Any, gradient: float) -> Ready:
    import torch

    machine.limit_torch()
    weights = [torch.tensor(w, requires_grad=True) for w in _weights(dtype)]
    for w in weights:
        w.grad = torch.full_like(w, gradient)
    optimizer = torch.optim.Adam(weights, lr=1e-6, fused=fused)
    return Ready(lambda _: optimizer.step())


def _comparison(dtype: Any, gradient: float) -> Comparison:
    makers = {"tapegrad": _tapegrad, "torch": partial(_torch, False), "torch, fused": partial(_torch, True)}
    contestants = {tool: (lambda _, make=make: make(dtype, gradient)) for tool, make in makers.items()}
    which = f"{np.dtype(dtype).name}{', dead' if gradient == DEAD else ''}"
    name = f"Adam's update of 109,386 nested parameters, {which}"
    return Comparison(name, range(9), contestants, unit="update", dtype=dtype, checked=False)


def live() -> Comparison:
    """Parameters in float32."""
    return _comparison(np.float32, 1e-3)


def live_wide() -> Comparison:
    """Parameters in float64."""
    return _comparison(np.float64, 1e-3)


def dead() -> Comparison:
    """Parameters in float64 whose gradients have subnormal squares."""
    return _comparison(np.float64, DEAD)


COMPARISONS = [live, live_wide, dead]
