"""Optimisers over one vector of parameters, learning-rate schedules and gradient clipping.

`loops` has the compiled loops, `methods` the optimisers, `optimizer` what they share: `step()` on Values,
`update(p, g)` on arrays, and a kernel that compiled training (`tapegrad.nn.Training`) calls between sweeps.
"""

from tapegrad.optim.clipping import clip_by_norm, clip_by_value
from tapegrad.optim.methods import SGD, Adam, AdamW
from tapegrad.optim.optimizer import Optimizer
from tapegrad.optim.schedules import constant, cosine, exponential, step_decay, warmup

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "clip_by_norm",
    "clip_by_value",
    "constant",
    "cosine",
    "exponential",
    "step_decay",
    "warmup",
]
