"""Checking derivatives: of functions, and of operations declared by a row.

`gradients` and `operations` are what is called; `differences` is what derivatives are compared with.
"""

from tapegrad.checking.gradients import check_grads
from tapegrad.checking.operations import check_op
from tapegrad.checking.report import Report

__all__ = ["Report", "check_grads", "check_op"]
