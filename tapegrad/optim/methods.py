"""The optimisers: SGD, Adam and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.optim import loops
from tapegrad.optim.optimizer import Optimizer, in_range


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and weight decay where wanted.

        d = g + weight_decay · p
        b ← momentum · b + d                                     (b = 0 at first)
        p ← p - lr · b,    or with Nesterov's momentum    p ← p - lr · (d + momentum · b)

    Args:
        params: a module, a Value or a list of Values; None to call `update` with arrays.
        lr: the learning rate, or a function of the number of the step.
        momentum: from 0 to below 1.
        nesterov: look ahead along the momentum.
        weight_decay: the factor of the L2 penalty's gradient.

    Raises ValueError, StructureError.

    Source: Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep learning",
    ICML 2013, with the learning rate outside the momentum as in common use.

    >>> import numpy as np
    >>> p = np.array([1.0, 2.0])
    >>> SGD(lr=0.5).update(p, np.array([1.0, -1.0]))
    >>> p
    array([0.5, 2.5])
    """

    kernel = loops.sgd_update

    def __init__(
        self,
        params: Any = None,
        lr: float | Callable[[int], float] = 0.01,
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        in_range("momentum", momentum, 0.0, 1.0)
        in_range("weight_decay", weight_decay, 0.0)
        if nesterov and not momentum:
            raise ValueError("nesterov=True needs a momentum above 0")
        hyper = {"momentum": float(momentum), "weight_decay": float(weight_decay), "nesterov": float(nesterov)}
        super().__init__(params, lr, hyper, rows=1 if momentum else 0)


def _adam_hyper(betas: tuple[float, float], eps: float, coupled: float, decoupled: float) -> dict[str, float]:
    return {
        "beta1": in_range("beta1", betas[0], 0.0, 1.0),
        "beta2": in_range("beta2", betas[1], 0.0, 1.0),
        "eps": in_range("eps", eps, 0.0),
        "l2": in_range("weight_decay", coupled, 0.0),
        "weight_decay": in_range("weight_decay", decoupled, 0.0),
    }


class Adam(Optimizer):
    """Adam: steps scaled by running moments of the gradient.

        d = g + weight_decay · p
        m ← β₁ m + (1 - β₁) d          v ← β₂ v + (1 - β₂) d²          (both 0 at first)
        p ← p - lr · m̂ / (√v̂ + eps),   m̂ = m / (1 - β₁ᵗ),   v̂ = v / (1 - β₂ᵗ),   t = 1, 2, ...

    Args:
        params: a module, a Value or a list of Values; None to call `update` with arrays.
        lr: the learning rate, or a function of the number of the step.
        betas: (β₁, β₂), each from 0 to below 1.
        eps: keeps the division away from zero.
        weight_decay: the factor of the L2 penalty's gradient; see `AdamW` for decay apart from it.

    Raises ValueError, StructureError.

    Source: Kingma and Ba, "Adam: A method for stochastic optimization", ICLR 2015, algorithm 1.

    >>> import numpy as np
    >>> p = np.array([1.0, 2.0])
    >>> Adam(lr=0.1).update(p, np.array([5.0, -0.01]))
    >>> p.round(4)
    array([0.9, 2.1])
    """

    kernel = loops.adam_update

    def __init__(
        self,
        params: Any = None,
        lr: float | Callable[[int], float] = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, _adam_hyper(betas, eps, weight_decay, 0.0), rows=2)


class AdamW(Optimizer):
    """Adam with weight decay apart from the gradient.

        p ← (1 - lr · weight_decay) p, then Adam's step with d = g

    Arguments and errors as in `Adam`.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, with the decay
    multiplied by the learning rate as in common use.

    >>> import numpy as np
    >>> p = np.array([1.0])
    >>> AdamW(lr=0.1, weight_decay=0.5).update(p, np.array([0.0]))
    >>> p
    array([0.95])
    """

    kernel = loops.adam_update

    def __init__(
        self,
        params: Any = None,
        lr: float | Callable[[int], float] = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr, _adam_hyper(betas, eps, 0.0, weight_decay), rows=2)
