"""More optimisers whose steps adapt to each parameter: RMSprop, Adagrad, Adadelta; and Lion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tapegrad.optim import loops
from tapegrad.optim.groups import Rate
from tapegrad.optim.methods import Groups, betas_of
from tapegrad.optim.optimizer import Optimizer, in_range


class RMSprop(Optimizer):
    """Steps scaled by a running mean of the gradient's squares.

        d = g + weight_decay · p
        v ← alpha · v + (1 - alpha) · d²                            (0 at first)
        p ← p - lr · d / (√v + eps)

    With momentum, b ← momentum · b + d / (√v + eps) and p ← p - lr · b. Centered, v - m² takes the place of v, where m
    is the running mean of d: an estimate of the gradient's variance.

    Args:
        params, lr, maximize, groups: as in `SGD`.
        alpha: the factor of the running means, from 0 to below 1.
        eps: keeps the division away from zero.
        weight_decay: the factor of the L2 penalty's gradient.
        momentum: from 0 to below 1.
        centered: scale by the variance.

    Raises ValueError, StructureError.

    Source: Tieleman and Hinton, "Lecture 6.5: rmsprop", Neural Networks for Machine Learning, 2012; Graves, "Generating
    sequences with recurrent neural networks", 2013, for the centered one.

    >>> import numpy as np
    >>> RMSprop(lr=0.1, alpha=0.75).update(np.array([1.0]), np.array([4.0])).round(6)
    array([0.8])
    """

    kernel = loops.rmsprop_update

    def __init__(
        self, params: Any = None, lr: Rate = 1e-2, *, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
        momentum: float = 0.0, centered: bool = False, maximize: bool = False, groups: Groups = (),
    ) -> None:  # fmt: skip
        options = {
            "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "centered": centered,
            "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, lr, options, groups=groups)

    def constants_of(self, options: Mapping[str, Any]) -> dict[str, float]:
        return {
            "alpha": in_range("alpha", options["alpha"], 0.0, 1.0),
            "eps": in_range("eps", options["eps"], 0.0),
            "weight_decay": in_range("weight_decay", options["weight_decay"], 0.0),
            "momentum": in_range("momentum", options["momentum"], 0.0, 1.0),
            "centered": float(options["centered"]),
            "maximize": float(options["maximize"]),
        }

    def rows_for(self, hyper: Mapping[str, float]) -> int:
        return 3 if hyper["centered"] else 2 if hyper["momentum"] else 1


class Adagrad(Optimizer):
    """Steps scaled by the sum of the gradient's squares so far.

        d = g + weight_decay · p
        v ← v + d²                                                  (initial_accumulator_value at first)
        p ← p - lr / (1 + (t - 1) · lr_decay) · d / (√v + eps),     t = 1, 2, ...

    Args:
        params, lr, maximize, groups: as in `SGD`.
        lr_decay: how fast the rate falls.
        weight_decay: the factor of the L2 penalty's gradient.
        initial_accumulator_value: where v starts.
        eps: keeps the division away from zero.

    Raises ValueError, StructureError.

    Source: Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic optimization",
    JMLR 12, 2011.

    >>> import numpy as np
    >>> Adagrad(lr=0.1).update(np.array([1.0, 1.0]), np.array([4.0, -0.01])).round(6)
    array([0.9, 1.1])
    """

    kernel = loops.adagrad_update

    def __init__(
        self, params: Any = None, lr: Rate = 1e-2, *, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10, maximize: bool = False, groups: Groups = (),
    ) -> None:  # fmt: skip
        options = {
            "lr_decay": lr_decay, "weight_decay": weight_decay, "initial_accumulator_value": initial_accumulator_value,
            "eps": eps, "maximize": maximize,
        }  # fmt: skip
        super().__init__(params, lr, options, rows=1, groups=groups)

    def constants_of(self, options: Mapping[str, Any]) -> dict[str, float]:
        names = ("lr_decay", "eps", "weight_decay", "initial_accumulator_value")
        return {name: in_range(name, options[name], 0.0) for name in names} | {"maximize": float(options["maximize"])}


class Adadelta(Optimizer):
    """Steps in the units of the parameters: scaled by how far they have moved, and by the gradient.

        d = g + weight_decay · p
        v ← rho · v + (1 - rho) · d²                                (0 at first)
        s = √(u + eps) / √(v + eps) · d
        u ← rho · u + (1 - rho) · s²                                (0 at first)
        p ← p - lr · s

    Args:
        params, lr, maximize, groups: as in `SGD`.
        rho: the factor of the running means, from 0 to below 1.
        eps: keeps the division away from zero, and starts the steps.
        weight_decay: the factor of the L2 penalty's gradient.

    Raises ValueError, StructureError.

    Source: Zeiler, "ADADELTA: An adaptive learning rate method", 2012.

    >>> import numpy as np
    >>> Adadelta(eps=1e-4).update(np.array([1.0]), np.array([4.0])).round(4)
    array([0.9684])
    """

    kernel = loops.adadelta_update

    def __init__(
        self, params: Any = None, lr: Rate = 1.0, *, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0,
        maximize: bool = False, groups: Groups = (),
    ) -> None:  # fmt: skip
        options = {"rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, lr, options, rows=2, groups=groups)

    def constants_of(self, options: Mapping[str, Any]) -> dict[str, float]:
        return {
            "rho": in_range("rho", options["rho"], 0.0, 1.0),
            "eps": in_range("eps", options["eps"], 0.0),
            "weight_decay": in_range("weight_decay", options["weight_decay"], 0.0),
            "maximize": float(options["maximize"]),
        }


class Lion(Optimizer):
    """Steps of one length, in the direction of the sign of a running mean.

        p ← (1 - lr · weight_decay) p - lr · sign(β₁ m + (1 - β₁) g)
        m ← β₂ m + (1 - β₂) g                                       (0 at first)

    Args:
        params, lr, maximize, groups: as in `SGD`. The rate should be some three to ten times smaller than Adam's.
        betas: (β₁, β₂), each from 0 to below 1.
        weight_decay: decay apart from the gradient, some three to ten times larger than AdamW's.

    Raises ValueError, StructureError.

    Source: Chen et al., "Symbolic discovery of optimization algorithms", NeurIPS 2023, program 1.

    >>> import numpy as np
    >>> Lion(lr=0.1).update(np.array([1.0, 1.0, 1.0]), np.array([4.0, -0.01, 0.0]))
    array([0.9, 1.1, 1. ])
    """

    kernel = loops.lion_update

    def __init__(
        self, params: Any = None, lr: Rate = 1e-4, *, betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0, maximize: bool = False, groups: Groups = (),
    ) -> None:  # fmt: skip
        options = {"betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, lr, options, rows=1, groups=groups)

    def constants_of(self, options: Mapping[str, Any]) -> dict[str, float]:
        decay = in_range("weight_decay", options["weight_decay"], 0.0)
        return {**betas_of(options), "weight_decay": decay, "maximize": float(options["maximize"])}
