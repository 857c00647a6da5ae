"""Softmax cross-entropy with integer labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import LabelError, OperationError, ShapeError
from tapegrad.functions.moments import mean
from tapegrad.functions.reductions import sum
from tapegrad.functions.registry import numbers_for_numbers
from tapegrad.value import Value, as_value, contiguous, leaf, structured, tape_of


@numbers_for_numbers
def cross_entropy(logits: Any, labels: Any, reduction: str = "mean") -> Value:
    """Softmax cross-entropy: ln(sum_j e^x_ij) - x_i,label_i, one fused operation.

    Args:
        logits: (..., classes).
        labels: (...), whole numbers from 0 to classes - 1.
        reduction: "mean" or "sum" over all of them, or "none" for one loss each.

    Raises ShapeError; LabelError for a label that is NaN, no whole number or out of range.

    >>> cross_entropy(Value([[0.0, 0.0]]), [1]).item()
    0.693147180559945...
    """
    if reduction not in ("mean", "sum", "none"):
        raise OperationError(f"reduction must be 'mean', 'sum' or 'none', not {reduction!r}")
    tape = tape_of((logits, labels))
    logits = contiguous(as_value(logits, tape, "cross_entropy"))
    if logits.ndim == 0 or np.shape(labels) != logits.shape[:-1] or logits.shape[-1] == 0:
        raise ShapeError(
            f"cross_entropy: logits of shape {logits.shape} need labels of shape {logits.shape[:-1]}, "
            f"not {np.shape(labels)}"
        )
    classes = logits.shape[-1]
    if not isinstance(labels, Value):
        labels = leaf(tape, _checked_labels(np.asarray(labels), classes))
    losses = structured(
        "cross_entropy", tape, logits.shape[:-1], [logits, contiguous(labels)], [labels.size, classes]
    )
    if reduction == "none":
        return losses
    return mean(losses) if reduction == "mean" else sum(losses)


def _checked_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    if labels.dtype.kind not in "iuf":
        raise LabelError(f"cross_entropy: labels must be whole numbers, not {labels.dtype}")
    bad = ~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        where = index[0] if len(index) == 1 else index
        raise LabelError(
            f"cross_entropy: label {labels[index]:g} at position {where}; labels must be whole numbers from 0 to "
            f"{classes - 1}"
        )
    return labels
