"""NumPy's functions on Values, and functions that NumPy lacks.

Elementwise operations need nothing here: their rows name their ufuncs. A function registered with `implements` is what
is called when NumPy's function, or the method of that name, is called with a Value. Importing this package registers
all of them.
"""

from tapegrad.functions import (
    attention,
    calculus,
    choosing,
    convolution,
    distances,
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
from tapegrad.functions.attention import scaled_dot_product_attention
from tapegrad.functions.convolution import conv, conv_transpose
from tapegrad.functions.distances import huber_loss, kl_div, l1_loss, mse_loss, smooth_l1_loss
from tapegrad.functions.joining import stack
from tapegrad.functions.loss import binary_cross_entropy_with_logits, cross_entropy, nll_loss
from tapegrad.functions.normalization import batch_norm, dropout, group_norm, layer_norm
from tapegrad.functions.pooling import avg_pool, max_pool
from tapegrad.functions.reductions import log_softmax, logsumexp, softmax
from tapegrad.functions.table import supported

__all__ = [
    "attention", "avg_pool", "batch_norm", "binary_cross_entropy_with_logits", "calculus", "choosing", "conv",
    "conv_transpose", "convolution", "cross_entropy", "distances", "dropout", "editing", "einsum", "elementwise",
    "group_norm", "huber_loss", "indexing", "joining", "kl_div", "l1_loss", "layer_norm", "log_softmax", "logsumexp",
    "loss", "max_pool", "moments", "mse_loss", "nans", "nll_loss", "normalization", "padding", "parts", "polynomials",
    "pooling", "positions", "products", "quantiles", "reductions", "sampling", "scaled_dot_product_attention", "sets",
    "shapes", "smooth_l1_loss", "softmax", "special", "stack", "supported", "table", "ufunc_methods",
]  # fmt: skip
