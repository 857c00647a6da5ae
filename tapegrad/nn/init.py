"""Initial weights, drawn so that activations and gradients neither grow nor shrink from layer to layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Rng = np.random.Generator | int | None


def kaiming(n_in: int, n_out: int, rng: Rng = None, dtype: Any = np.float64) -> np.ndarray:
    """Weights for a layer followed by a rectifier: normal, mean 0, variance 2 / n_in.

    Half of a rectifier's inputs are cut off, which halves the variance of a sum of n_in terms; hence the 2.

    Args:
        n_in: inputs of the layer.
        n_out: outputs of the layer.
        rng: a generator, or a seed for one.
        dtype: float64 or float32.

    Returns:
        An array of shape (n_in, n_out).

    Source: He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015, equation 10.

    >>> kaiming(200, 300, rng=0).std().round(2) == round(math.sqrt(2 / 200), 2)
    np.True_
    """
    std = math.sqrt(2.0 / n_in) if n_in else 0.0
    return (np.random.default_rng(rng).standard_normal((n_in, n_out)) * std).astype(dtype)


def xavier(n_in: int, n_out: int, rng: Rng = None, dtype: Any = np.float64) -> np.ndarray:
    """Weights for a layer followed by a function like tanh: uniform in ±√(6 / (n_in + n_out)).

    The variance is 2 / (n_in + n_out), halfway between what keeps activations (1 / n_in) and gradients (1 / n_out)
    the same. Arguments and result as in `kaiming`.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS
    2010, equation 16.

    >>> abs(xavier(4, 2, rng=0)).max() <= 1.0
    np.True_
    """
    limit = math.sqrt(6.0 / (n_in + n_out)) if n_in + n_out else 0.0
    return np.random.default_rng(rng).uniform(-limit, limit, (n_in, n_out)).astype(dtype)


INITIALIZERS: dict[str, Callable[..., np.ndarray]] = {"kaiming": kaiming, "xavier": xavier}
