"""Losses whose targets are classes: softmax cross-entropy, the same of logarithms of probabilities, and of two classes.

Labels may be of any integer type, floats that are whole, or a Value: then replays may find other labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import LabelError, OperationError, ShapeError
from tapegrad.functions.indexing import take
from tapegrad.functions.moments import mean
from tapegrad.functions.reductions import log_softmax, sum
from tapegrad.functions.registry import numbers_for_numbers
from tapegrad.ops import BY_NAME
from tapegrad.value import Value, as_value, contiguous, leaf, structured, tape_of


def reduced(losses: Any, reduction: str, weights: Any = None) -> Any:
    """The mean or sum of losses, or the losses themselves. With weights, the mean is divided by their sum.

    Raises OperationError for other reductions.
    """
    if reduction == "none":
        return losses
    if reduction == "sum" or (reduction == "mean" and weights is not None):
        return sum(losses) if reduction == "sum" else sum(losses) / np.sum(weights)
    if reduction != "mean":
        raise OperationError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    return mean(losses)


@numbers_for_numbers
def cross_entropy(
    logits: Any, labels: Any, reduction: str = "mean", *, weight: Any = None, ignore_index: int | None = None,
    label_smoothing: float = 0.0,
) -> Value:  # fmt: skip
    """Softmax cross-entropy: ln(sum_j e^x_ij) - x_i,label_i, one fused operation.

    Args:
        logits: (..., classes).
        labels: (...), whole numbers from 0 to classes - 1.
        reduction: "mean" or "sum" over all of them, or "none" for one loss each.
        weight: (classes,), what a loss is multiplied by, by its label; the mean is divided by the sum of the weights of
            the labels.
        ignore_index: a label, which need not be a class, whose loss is 0 and does not count in the mean.
        label_smoothing: s from 0 to 1: the loss is (1 - s) times that of the label and s times the mean of those of all
            classes, weighted each by its own weight.

    Raises ShapeError; LabelError for a label that is NaN, no whole number or out of range; OperationError for
    another reduction or smoothing.

    >>> cross_entropy(Value([[0.0, 0.0]]), [1]).item()
    0.693147180559945...
    >>> cross_entropy(Value([[0.0, 0.0], [5.0, 0.0]]), [1, -100], ignore_index=-100).item()
    0.693147180559945...
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise OperationError(f"label_smoothing must be from 0 to 1, not {label_smoothing!r}")
    tape = tape_of((logits, labels, weight))
    logits = contiguous(as_value(logits, tape, "cross_entropy"))
    labels, kept = _ready(logits, labels, ignore_index, "cross_entropy", "logits")
    classes = logits.shape[-1]
    onto = labels if isinstance(labels, Value) else leaf(tape, labels)
    losses = structured("cross_entropy", tape, logits.shape[:-1], [logits, contiguous(onto)], [onto.size, classes])
    own = _own_weights(weight, labels, classes, "cross_entropy")
    losses = losses if own is None else losses * own
    if label_smoothing:
        logs = log_softmax(logits)
        smooth = -sum(logs if weight is None else logs * weight, -1) / float(classes)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * smooth
    return _counted(losses, own, kept, reduction)


@numbers_for_numbers
def nll_loss(
    log_probabilities: Any, labels: Any, reduction: str = "mean", *, weight: Any = None,
    ignore_index: int | None = None,
) -> Value:  # fmt: skip
    """-x_i,label_i, the negative logarithm of the probability of each label.

    Args:
        log_probabilities: (..., classes), as `log_softmax` gives them.
        labels, reduction, weight, ignore_index: as for `cross_entropy`.

    Raises ShapeError, OperationError; LabelError for a label that is NaN, no whole number or out of range.

    >>> nll_loss(Value(np.log([[0.25, 0.75]])), [0]).item()
    1.386294361119890...
    """
    tape = tape_of((log_probabilities, labels, weight))
    x = contiguous(as_value(log_probabilities, tape, "nll_loss"))
    labels, kept = _ready(x, labels, ignore_index, "nll_loss", "log_probabilities")
    classes = x.shape[-1]
    onto = labels if isinstance(labels, Value) else leaf(tape, labels)
    losses = -structured("at_labels", tape, x.shape[:-1], [x, contiguous(onto)], [onto.size, classes])
    own = _own_weights(weight, labels, classes, "nll_loss")
    return _counted(losses if own is None else losses * own, own, kept, reduction)


@numbers_for_numbers
def binary_cross_entropy_with_logits(
    logits: Any, targets: Any, reduction: str = "mean", *, weight: Any = None, pos_weight: Any = None
) -> Value:
    """-(p t ln s(x) + (1 - t) ln(1 - s(x))), s(x) = 1 / (1 + e^-x); computed so that no logarithm overflows.

    Args:
        logits: x, of any shape.
        targets: t, of the same shape, from 0 to 1: truth values or probabilities.
        reduction: "mean", "sum" or "none".
        weight: what each loss is multiplied by, of a shape that goes with that of the logits.
        pos_weight: p, what the loss of the positive class is multiplied by.

    Raises ShapeError unless logits and targets have one shape; OperationError.

    >>> binary_cross_entropy_with_logits(Value([0.0, 800.0]), [1.0, 1.0], "none").tolist()
    [0.693147180559945..., 0.0]
    """
    x = as_value(logits, tape_of((logits, targets, weight, pos_weight)), "binary_cross_entropy_with_logits")
    t = as_numbers(targets, x, "binary_cross_entropy_with_logits")
    # ln(1 + e^-x), and the same of -x is larger by x.
    beyond = BY_NAME["softplus"](-x)
    losses = (1.0 - t) * x + (beyond if pos_weight is None else (1.0 + (pos_weight - 1.0) * t) * beyond)
    return reduced(losses if weight is None else losses * weight, reduction)


def as_numbers(targets: Any, x: Value, what: str) -> Any:
    """Targets that must have the shape of x: a Value, or an array of floats. Raises ShapeError."""
    if np.shape(targets) != x.shape:
        raise ShapeError(f"{what}: the output has shape {x.shape}, the targets {np.shape(targets)}")
    if isinstance(targets, Value):
        return targets
    targets = np.asarray(targets)
    return targets if targets.dtype.kind == "f" else targets.astype(x.dtype)


def _ready(x: Value, labels: Any, ignore_index: int | None, what: str, called: str) -> tuple[Any, Any]:
    """Labels of the right shape, checked where they are plain numbers, with class 0 in place of those to be ignored;
    and which are not, or None where all count."""
    if x.ndim == 0 or np.shape(labels) != x.shape[:-1] or x.shape[-1] == 0:
        raise ShapeError(
            f"{what}: {called} of shape {x.shape} need labels of shape {x.shape[:-1]}, not {np.shape(labels)}"
        )
    labels = labels if isinstance(labels, Value) else np.asarray(labels)
    kept = None
    if ignore_index is not None:
        kept = labels != ignore_index
        labels = np.where(kept, labels, 0)
    return labels if isinstance(labels, Value) else _checked_labels(labels, x.shape[-1], what), kept


def _own_weights(weight: Any, labels: Any, classes: int, what: str) -> Any:
    """The weight of each label, None where there are none."""
    if weight is None:
        return None
    if np.shape(weight) != (classes,):
        raise ShapeError(f"{what}: {classes} classes need weights of shape ({classes},), not {np.shape(weight)}")
    if isinstance(labels, Value) or isinstance(weight, Value):
        return take(weight, labels if isinstance(labels, Value) else labels.astype(np.int64), 0)
    return np.asarray(weight)[labels.astype(np.int64)]


def _counted(losses: Any, own: Any, kept: Any, reduction: str) -> Any:
    """The losses, where some do not count and others have weights, reduced."""
    if kept is None:
        return reduced(losses, reduction, own)
    return reduced(np.where(kept, losses, 0.0), reduction, np.where(kept, 1.0 if own is None else own, 0.0))


def _checked_labels(labels: np.ndarray, classes: int, what: str) -> np.ndarray:
    if labels.dtype.kind not in "iuf":
        raise LabelError(f"{what}: labels must be whole numbers, not {labels.dtype}")
    bad = ~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        where = index[0] if len(index) == 1 else index
        raise LabelError(
            f"{what}: label {labels[index]:g} at position {where}; labels must be whole numbers from 0 to "
            f"{classes - 1}"
        )
    return labels
