"""NumPy's functions on Values, and functions that NumPy lacks.

Elementwise operations need nothing here: their rows name their ufuncs. What is registered with `implements` is what
NumPy's dispatch, and the method of the same name, end in. Importing this package registers it all.
"""

from tapegrad.functions import choosing, einsum, indexing, joining, loss, products, reductions, shapes
from tapegrad.functions.joining import stack
from tapegrad.functions.loss import cross_entropy
from tapegrad.functions.reductions import log_softmax, logsumexp, softmax

__all__ = [
    "choosing", "cross_entropy", "einsum", "indexing", "joining", "log_softmax", "logsumexp", "loss", "products",
    "reductions", "shapes", "softmax", "stack",
]  # fmt: skip
