"""Losses by name, for `Training`: each maps the output of a model and the targets to one number, a mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.errors import LabelError, ShapeError
from tapegrad.functions import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)


def mean_squared_error(output: Any, target: Any) -> Any:
    """The mean of (output - target)² over all elements. Raises ShapeError unless the shapes are equal.

    >>> mean_squared_error(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    np.float64(2.0)
    """
    if np.shape(output) != np.shape(target):
        raise ShapeError(f"mean_squared_error: the output has shape {np.shape(output)}, the target {np.shape(target)}")
    return np.mean(np.square(output - target))


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "binary_cross_entropy_with_logits": binary_cross_entropy_with_logits,
    "cross_entropy": cross_entropy,
    "huber_loss": huber_loss,
    "kl_div": kl_div,
    "l1_loss": l1_loss,
    "mean_squared_error": mean_squared_error,
    "mse_loss": mse_loss,
    "nll_loss": nll_loss,
    "smooth_l1_loss": smooth_l1_loss,
}


def check_labels(labels: np.ndarray, classes: int) -> None:
    """Raise LabelError unless all labels are whole numbers from 0 to classes - 1."""
    with np.errstate(invalid="ignore"):
        bad = ~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise LabelError(
            f"cross_entropy: label {labels[i]:g} at position {i}; labels must be whole numbers from 0 to {classes - 1}"
        )
