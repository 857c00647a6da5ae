"""JAX as an oracle, in double precision, compiling fast rather than well.

Test files that import this are skipped where JAX is missing.
"""

import functools

import pytest

jax = pytest.importorskip("jax")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)
jnp = jax.numpy


@functools.cache
def _options():
    options = {"xla_cpu_use_fusion_emitters": False}  # half the time to compile, if this version of XLA knows it
    try:
        jax.jit(lambda: 0.0, compiler_options=options)()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def jit(f):
    """jax.jit that compiles in half the time; what it returns cannot be called inside another jit."""
    return jax.jit(f, compiler_options=_options())
