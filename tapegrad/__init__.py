"""Gradients of the same program, many times over: a flat tape of instructions, replayed at machine speed."""

from tapegrad import errors, ops, player
from tapegrad.batch import vmap
from tapegrad.c_functions import CFunction, cfunc
from tapegrad.calls import (
    ComplexValue,
    checkpoint,
    checkpointed_loop,
    custom_jvp,
    custom_vjp,
    external,
    fixed_point,
    implicit_root,
    njit_op,
    stop_gradient,
)
from tapegrad.checking import check_grads, check_op
from tapegrad.debugging import debug
from tapegrad.flow import cond, fori_loop, scan, where, while_loop
from tapegrad.functions import (
    avg_pool,
    batch_norm,
    conv,
    conv_transpose,
    cross_entropy,
    dropout,
    group_norm,
    layer_norm,
    log_softmax,
    logsumexp,
    max_pool,
    softmax,
    stack,
    supported,
)
from tapegrad.inspect import Drawing, draw, listing
from tapegrad.program import memory_held, set_memory_limit
from tapegrad.recorded import recorded
from tapegrad.recording import Recording, load, record
from tapegrad.tape import Tape, current_tape
from tapegrad.transforms import (
    elementwise_grad,
    grad,
    hessian,
    hvp,
    jacfwd,
    jacobian,
    jacrev,
    jvp,
    linearize,
    make_hvp,
    value_and_grad,
    vjp,
)
from tapegrad.value import Value

# Operations that NumPy does not have. NumPy's own functions work on Values as they are.
sigmoid = ops.BY_NAME["sigmoid"]
softplus = ops.BY_NAME["softplus"]
relu = ops.BY_NAME["relu"]
leaky_relu = ops.BY_NAME["leaky_relu"]
gelu = ops.BY_NAME["gelu"]
erf = ops.BY_NAME["erf"]

__version__ = "0.1.0"

__all__ = [
    "CFunction",
    "ComplexValue",
    "Drawing",
    "Recording",
    "Tape",
    "Value",
    "batch_norm",
    "avg_pool",
    "cfunc",
    "check_grads",
    "check_op",
    "checkpoint",
    "checkpointed_loop",
    "cond",
    "conv",
    "conv_transpose",
    "cross_entropy",
    "current_tape",
    "debug",
    "custom_jvp",
    "custom_vjp",
    "draw",
    "dropout",
    "elementwise_grad",
    "erf",
    "errors",
    "external",
    "fixed_point",
    "gelu",
    "fori_loop",
    "grad",
    "group_norm",
    "hessian",
    "hvp",
    "implicit_root",
    "jacfwd",
    "jacobian",
    "jacrev",
    "jvp",
    "layer_norm",
    "leaky_relu",
    "linearize",
    "listing",
    "load",
    "log_softmax",
    "logsumexp",
    "make_hvp",
    "max_pool",
    "memory_held",
    "njit_op",
    "ops",
    "player",
    "record",
    "recorded",
    "relu",
    "scan",
    "set_memory_limit",
    "sigmoid",
    "softmax",
    "softplus",
    "stack",
    "stop_gradient",
    "supported",
    "value_and_grad",
    "vjp",
    "vmap",
    "where",
    "while_loop",
]
