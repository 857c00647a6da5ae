"""Layers of `tapegrad.nn` beside those of PyTorch: value and gradient of the mean square of what a layer gives, in all
its parameters, float32, one thread. Results are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench import tools
from bench.compare import Comparison, Ready, phase

STEPS, BATCH, WIDTH, HEADS = 64, 32, 128, 4
SENTENCES = 8
INPUTS = 4


def _data(batch: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(STEPS, batch, WIDTH)).astype(np.float32)


def _tapegrad(make: Callable[[Any], Any], call: Callable[[Any, Any], Any], batch: int, flat: Any) -> Ready:
    import tapegrad as tg
    from tapegrad import nn

    model, x = make(nn), _data(batch)
    phases: dict[str, float] = {}

    def loss(flat: Any) -> Any:
        with model.bound(flat):
            return np.mean(np.square(call(model, x)))

    with phase(phases, "record"):
        recording = tg.record(loss, flat)
    with phase(phases, "compile or load"):
        recording.value_and_grad(flat)
    return Ready(recording.value_and_grad, phases=phases)


def _torch(make: Callable[[Any], Any], call: Callable[[Any, Any], Any], batch: int, flat: Any) -> Ready:
    import torch

    from bench import machine

    machine.limit_torch()
    model, x = make(torch.nn), torch.from_numpy(_data(batch))
    parameters = list(model.parameters())

    def prepare(flat: Any) -> list[Any]:
        parts, at = [], 0
        for p in parameters:
            parts.append(torch.from_numpy(flat[at : at + p.numel()].copy()).reshape(p.shape))
            at += p.numel()
        return parts

    def run(numbers: list[Any]) -> Any:
        for p, now in zip(parameters, numbers):
            p.data = now
        value = call(model, x).square().mean()
        return value.detach(), torch.autograd.grad(value, parameters)

    return Ready(run, prepare=prepare)


def _comparison(name: str, make: Callable[[Any], Any], call: Callable[[Any, Any], Any], batch: int) -> Comparison:
    from tapegrad import nn

    rng, size = np.random.default_rng(1), make(nn).flat.size
    contestants = {"tapegrad": _tapegrad, "torch": _torch}
    return Comparison(
        name=f"{name}, {STEPS} steps, batch {batch}, {WIDTH} wide, float32",
        tools={tool: tools.settling(partial(set_up, make, call, batch)) for tool, set_up in contestants.items()},
        inputs=[(rng.normal(size=size) / WIDTH**0.5).astype(np.float32) for _ in range(INPUTS)],
        unit="gradient",
        tolerance=1e-3,
    )


def _single(torch_or_ours: Any) -> dict[str, Any]:
    return {"dtype": np.float32} if torch_or_ours.__name__.startswith("tapegrad") else {}


def _layer(kind: str) -> Comparison:
    make = lambda nn: getattr(nn, kind)(WIDTH, WIDTH, **_single(nn))
    return _comparison(kind, make, lambda model, x: model(x)[0], BATCH)


def _attention() -> Comparison:
    make = lambda nn: nn.MultiheadAttention(WIDTH, HEADS, **_single(nn))
    call = lambda model, x: model(x, x, x, need_weights=False)[0]
    return _comparison(f"MultiheadAttention of {HEADS} heads", make, call, SENTENCES)


COMPARISONS = [partial(_layer, "LSTM"), partial(_layer, "GRU"), partial(_layer, "RNN"), _attention]
