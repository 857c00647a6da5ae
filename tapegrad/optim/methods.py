"""The optimisers that are used most: SGD, Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tapegrad.errors import OperationError
from tapegrad.optim import loops
from tapegrad.optim.groups import Rate
from tapegrad.optim.optimizer import Optimizer, in_range

Groups = Sequence[Mapping[str, Any]]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and weight decay where wanted.

        d = g + weight_decay · p                                    (with maximize: -g + weight_decay · p)
        b ← momentum · b + (1 - dampening) · d                      (b = d at the first step)
        p ← p - lr · b,    or with Nesterov's momentum    p ← p - lr · (d + momentum · b)

    Args:
        params: a module, a Value, or a nesting of these, or groups of them: dicts with "params" and options of their
            own; None to call `update` with arrays.
        lr: the learning rate, or a function of the number of the step.
        momentum: from 0 to below 1.
        nesterov: look ahead along the momentum.
        weight_decay: the factor of the L2 penalty's gradient.
        dampening: how much less a gradient counts in the momentum.
        maximize: go up instead of down.
        groups: parameters with options of their own, by patterns of names; see `Optimizer`.

    Raises OperationError, StructureError.

    Source: Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep learning",
    ICML 2013, with the learning rate outside the momentum as in common use.

    >>> import numpy as np
    >>> SGD(lr=0.5).update(np.array([1.0, 2.0]), np.array([1.0, -1.0]))
    array([0.5, 2.5])
    """

    kernel = loops.sgd_update

    def __init__(
        self, params: Any = None, lr: Rate = 0.01, *, momentum: float = 0.0, nesterov: bool = False,
        weight_decay: float = 0.0, dampening: float = 0.0, maximize: bool = False, groups: Groups = (),
    ) -> None:  # fmt: skip
        options = {
            "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "dampening": dampening,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, lr, options, groups=groups)

    def constants_of(self, options: Mapping[str, Any]) -> dict[str, float]:
        momentum = in_range("momentum", options["momentum"], 0.0, 1.0)
        dampening = in_range("dampening", options["dampening"], 0.0)
        if options["nesterov"] and (not momentum or dampening):
            raise OperationError("nesterov=True needs a momentum above 0, and no dampening")
        return {
            "momentum": momentum,
            "weight_decay": in_range("weight_decay", options["weight_decay"], 0.0),
            "nesterov": float(options["nesterov"]),
            "dampening": dampening,
            "maximize": float(options["maximize"]),
        }

    def rows_for(self, hyper: Mapping[str, float]) -> int:
        return 1 if hyper["momentum"] else 0


class Adam(Optimizer):
    """Adam: steps scaled by running moments of the gradient.

        d = g + weight_decay · p
        m ← β₁ m + (1 - β₁) d          v ← β₂ v + (1 - β₂) d²          (both 0 at first)
        p ← p - lr · m̂ / (√v̂ + eps),   m̂ = m / (1 - β₁ᵗ),   v̂ = v / (1 - β₂ᵗ),   t = 1, 2, ...

    Args:
        params, lr, maximize, groups: as in `SGD`.
        betas: (β₁, β₂), each from 0 to below 1.
        eps: keeps the division away from zero.
        weight_decay: the factor of the L2 penalty's gradient; see `AdamW` for decay apart from it.
        amsgrad: take the largest v so far in place of v.

    Raises OperationError, StructureError.

    Source: Kingma and Ba, "Adam: A method for stochastic optimization", ICLR 2015, algorithm 1; Reddi, Kale and Kumar,
    "On the convergence of Adam and beyond", ICLR 2018, for amsgrad.

    >>> import numpy as np
    >>> Adam(lr=0.1).update(np.array([1.0, 2.0]), np.array([5.0, -0.01])).round(4)
    array([0.9, 2.1])
    """

    kernel = loops.adam_update
    _decoupled = False

    def __init__(
        self, params: Any = None, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, maximize: bool = False, groups: Groups = (),
    ) -> None:  # fmt: skip
        options = {
            "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, lr, options, groups=groups)

    def constants_of(self, options: Mapping[str, Any]) -> dict[str, float]:
        decay = in_range("weight_decay", options["weight_decay"], 0.0)
        return {
            **betas_of(options),
            "eps": in_range("eps", options["eps"], 0.0),
            "l2": 0.0 if self._decoupled else decay,
            "weight_decay": decay if self._decoupled else 0.0,
            "amsgrad": float(options["amsgrad"]),
            "maximize": float(options["maximize"]),
        }

    def rows_for(self, hyper: Mapping[str, float]) -> int:
        return 3 if hyper["amsgrad"] else 2


class AdamW(Adam):
    """Adam with weight decay apart from the gradient.

        p ← (1 - lr · weight_decay) p, then Adam's step with d = g

    Arguments and errors as in `Adam`.

    Source: Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, with the decay
    multiplied by the learning rate as in common use.

    >>> import numpy as np
    >>> AdamW(lr=0.1, weight_decay=0.5).update(np.array([1.0]), np.array([0.0]))
    array([0.95])
    """

    _decoupled = True

    def __init__(
        self, params: Any = None, lr: Rate = 1e-3, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.01, amsgrad: bool = False, maximize: bool = False, groups: Groups = (),
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
            groups=groups,
        )  # fmt: skip


def betas_of(options: Mapping[str, Any]) -> dict[str, float]:
    """The two factors of running means. Raises OperationError unless they are from 0 to below 1."""
    first, second = options["betas"]
    return {"beta1": in_range("beta1", first, 0.0, 1.0), "beta2": in_range("beta2", second, 0.0, 1.0)}
