"""NumPy's functions on Values, and functions that NumPy lacks.

Elementwise operations need nothing here: their rows name their ufuncs. A function registered with `implements` is what
is called when NumPy's function, or the method of that name, is called with a Value. Importing this package registers
all of them.
"""

from tapegrad.functions import (
    calculus,
    choosing,
    convolution,
    editing,
    einsum,
    elementwise,
    indexing,
    joining,
    loss,
    moments,
    nans,
    normalization,
    padding,
    parts,
    polynomials,
    pooling,
    positions,
    products,
    quantiles,
    reductions,
    sampling,
    sets,
    shapes,
    special,
    table,
    ufunc_methods,
)
from tapegrad.functions.convolution import conv, conv_transpose
from tapegrad.functions.joining import stack
from tapegrad.functions.loss import cross_entropy
from tapegrad.functions.normalization import batch_norm, dropout, group_norm, layer_norm
from tapegrad.functions.pooling import avg_pool, max_pool
from tapegrad.functions.reductions import log_softmax, logsumexp, softmax
from tapegrad.functions.table import supported

__all__ = [
    "avg_pool", "batch_norm", "calculus", "choosing", "conv", "conv_transpose", "convolution", "cross_entropy",
    "dropout", "editing", "einsum", "elementwise", "group_norm", "indexing", "joining", "layer_norm", "log_softmax",
    "logsumexp", "loss", "max_pool", "moments", "nans", "normalization", "padding", "parts", "polynomials",
    "pooling", "positions", "products", "quantiles", "reductions", "sampling", "sets", "shapes", "softmax",
    "special", "stack", "supported", "table", "ufunc_methods",
]  # fmt: skip
