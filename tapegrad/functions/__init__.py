"""NumPy's functions on Values, and functions that NumPy lacks.

Elementwise operations need nothing here: their rows name their ufuncs. A function registered with `implements` is what
is called when NumPy's function, or the method of that name, is called with a Value. Importing this package registers
all of them.
"""

from tapegrad.functions import choosing, einsum, indexing, joining, loss, products, reductions, shapes, special
from tapegrad.functions.joining import stack
from tapegrad.functions.loss import cross_entropy
from tapegrad.functions.reductions import log_softmax, logsumexp, softmax

__all__ = [
    "choosing", "cross_entropy", "einsum", "indexing", "joining", "log_softmax", "logsumexp", "loss", "products",
    "reductions", "shapes", "softmax", "special", "stack",
]  # fmt: skip
