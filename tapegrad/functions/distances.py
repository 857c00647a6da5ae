"""Losses that say how far an output is from targets of its shape."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import OperationError
from tapegrad.functions.loss import as_numbers, reduced
from tapegrad.functions.reductions import sum
from tapegrad.functions.registry import numbers_for_numbers
from tapegrad.value import Value, as_value, tape_of


def _pair(output: Any, targets: Any, what: str) -> tuple[Value, Any]:
    """Output and targets of one shape. Raises ShapeError."""
    x = as_value(output, tape_of((output, targets)), what)
    return x, as_numbers(targets, x, what)


@numbers_for_numbers
def mse_loss(output: Any, targets: Any, reduction: str = "mean") -> Value:
    """(x - t)^2; with "mean" or "sum" over all elements, with "none" one for each.

    Raises ShapeError unless both have one shape, OperationError for another reduction.

    >>> mse_loss(Value([1.0, 2.0]), [1.0, 4.0]).item()
    2.0
    """
    x, t = _pair(output, targets, "mse_loss")
    return reduced(np.square(x - t), reduction)


@numbers_for_numbers
def l1_loss(output: Any, targets: Any, reduction: str = "mean") -> Value:
    """|x - t|, with derivative 0 at 0. Takes and raises what `mse_loss` does.

    >>> l1_loss(Value([1.0, 2.0]), [1.0, 4.0]).item()
    1.0
    """
    x, t = _pair(output, targets, "l1_loss")
    return reduced(np.abs(x - t), reduction)


@numbers_for_numbers
def huber_loss(output: Any, targets: Any, reduction: str = "mean", *, delta: float = 1.0) -> Value:
    """(x - t)^2 / 2 where |x - t| <= delta, else delta (|x - t| - delta / 2).

    Takes and raises what `mse_loss` does, and OperationError unless delta is positive.

    >>> huber_loss(Value([1.0, 2.0]), [1.5, 4.0], "none").tolist()
    [0.125, 1.5]
    """
    if not delta > 0.0:
        raise OperationError(f"huber_loss: delta must be positive, not {delta!r}")
    x, t = _pair(output, targets, "huber_loss")
    d = x - t
    far = np.abs(d)
    return reduced(np.where(far <= delta, 0.5 * np.square(d), delta * (far - 0.5 * delta)), reduction)


@numbers_for_numbers
def smooth_l1_loss(output: Any, targets: Any, reduction: str = "mean", *, beta: float = 1.0) -> Value:
    """(x - t)^2 / (2 beta) where |x - t| < beta, else |x - t| - beta / 2; for beta = 0 it is `l1_loss`.

    Takes and raises what `mse_loss` does, and OperationError for a negative beta.

    >>> smooth_l1_loss(Value([1.0, 2.0]), [1.5, 4.0], "none").tolist()
    [0.125, 1.5]
    """
    if not beta >= 0.0:
        raise OperationError(f"smooth_l1_loss: beta must not be negative, it is {beta!r}")
    if beta == 0.0:
        return l1_loss(as_value(output, tape_of((output, targets)), "smooth_l1_loss"), targets, reduction)
    x, t = _pair(output, targets, "smooth_l1_loss")
    d = x - t
    far = np.abs(d)
    return reduced(np.where(far < beta, np.square(d) * (0.5 / beta), far - 0.5 * beta), reduction)


@numbers_for_numbers
def kl_div(log_probabilities: Any, targets: Any, reduction: str = "mean", *, log_target: bool = False) -> Value:
    """t (ln t - x), the terms of the divergence of Kullback and Leibler of e^x from t; 0 where t is 0.

    Args:
        log_probabilities: x, as `log_softmax` gives it.
        targets: t, probabilities, of the same shape; with `log_target` their logarithms.
        reduction: "batchmean" for the sum divided by the length of the first axis, which is the divergence's own mean;
            or as for `mse_loss`.

    Raises ShapeError unless both have one shape, OperationError for another reduction.

    >>> kl_div(Value(np.log([[0.5, 0.5]])), [[1.0, 0.0]], "batchmean").item()
    0.693147180559945...
    """
    x, t = _pair(log_probabilities, targets, "kl_div")
    if log_target:
        terms = np.exp(t) * (t - x)
    else:
        # 0 ln 0 is 0: neither the logarithm nor its derivative is taken there.
        some = t > 0.0
        terms = np.where(some, t * np.log(np.where(some, t, 1.0)), 0.0) - t * x
    if reduction == "batchmean":
        return sum(terms) / float(x.shape[0] if x.ndim else 1)
    return reduced(terms, reduction)
