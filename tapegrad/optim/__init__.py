"""Optimisers over one vector of parameters, however nested, learning-rate schedules and gradient clipping.

`loops` has the compiled loops, `methods`, `adaptive` and `lbfgs` the optimisers, `optimizer` what they share: `step()`
on Values, `update(params, gradient)` on any nesting, and a kernel that compiled training (`tapegrad.nn.Training`) calls
between sweeps. `groups` says which parameters have options of their own, `nested` makes a vector of a nesting, `runs`
calls the kernel on it, and `saving` keeps the state.
"""

from tapegrad.optim.adaptive import Adadelta, Adagrad, Lion, RMSprop
from tapegrad.optim.clipping import clip_by_norm, clip_by_value
from tapegrad.optim.lbfgs import LBFGS
from tapegrad.optim.methods import SGD, Adam, AdamW
from tapegrad.optim.optimizer import Optimizer
from tapegrad.optim.schedules import constant, cosine, exponential, step_decay, warmup

__all__ = [
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Lion",
    "Optimizer",
    "RMSprop",
    "clip_by_norm",
    "clip_by_value",
    "constant",
    "cosine",
    "exponential",
    "step_decay",
    "warmup",
]
