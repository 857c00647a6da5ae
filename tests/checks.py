"""Oracles that tests share: finite differences of NumPy functions, and both sweeps of a tape at once."""

import numpy as np

import tapegrad as tg
from tapegrad.native.choice import ALWAYS, mode
from tapegrad.ops import RUN
from tapegrad.sweeps import TANGENT, sweeps_for
from tapegrad.tape import EXPECT, LEAF

# A gradient, relative to extrapolated differences, which are good to about 1e-10; 16 roundings of float32 are more.
RTOL = {np.float64: 1e-8, np.float32: 16 * float(np.finfo(np.float32).eps)}


def rounding():
    """How far a result may be from that of other code that computes the same, relatively: not at all where the
    interpreter computes both. Machine code multiplies where the interpreter calls C's power, for one."""
    return 4 * float(np.finfo(float).eps) if mode() == ALWAYS else 0.0


def difference(f, h=1e-3):
    """f'(0) of a smooth function of one number: central differences at three steps, extrapolated."""
    d = [(f(h / s) - f(-h / s)) * (s / (2 * h)) for s in (1, 2, 4)]
    d = [(4 * d[1] - d[0]) / 3, (4 * d[2] - d[1]) / 3]
    return (16 * d[1] - d[0]) / 15


def numbers(x):
    return np.asarray(x.data if isinstance(x, tg.Value) else x)


def check(f, *arrays, reference=None, rng=None, dtype=np.float64, h=1e-3):
    """f on Values gives what `reference` (f itself, if NumPy has it) gives on arrays, and so does its gradient.

    The gradient is checked along one random direction, weighted by a random seed.
    """
    rng = rng or np.random.default_rng(0)
    reference = reference or f
    values = [tg.Value(np.asarray(a, dtype)) for a in arrays]
    arrays = [np.asarray(a, dtype).astype(float) for a in arrays]  # the same numbers
    result = f(*values)
    expected = np.asarray(reference(*arrays))
    assert isinstance(result, tg.Value)
    assert result.shape == expected.shape
    assert result.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(numbers(result), expected, rtol=50 * eps, atol=50 * eps)

    weight = rng.normal(size=expected.shape)
    directions = [rng.normal(size=np.shape(a)) for a in arrays]
    result.backward(weight)

    def along(t):
        return np.sum(weight * reference(*[a + t * d for a, d in zip(arrays, directions)]))

    slope = difference(along, h)
    grads = [v.grad for v in values]
    for value, grad in zip(values, grads):
        assert np.shape(grad) == value.shape
    got = sum(np.sum(np.asarray(g, float) * d) for g, d in zip(grads, directions))
    scale = sum(np.sum(np.abs(np.asarray(g, float) * d)) for g, d in zip(grads, directions))
    assert abs(got - slope) <= RTOL[dtype] * (1.0 + scale), f"gradient {got!r}, differences {slope!r}"
    check_transpose(values, result, rng)
    return values, result


def places(value):
    """Where the elements of a Value stand in the arena of its tape."""
    return value._places().reshape(value.shape)


def tangent_of(inputs, tangents, output):
    """J v, by the tangent sweep."""
    tape = output.tape
    tape.evaluate()
    tape.activate()
    sweeps = sweeps_for(tape.dtype)
    sweeps.require({int(op) % RUN for op in tape.code[: tape.length, 0]} - {LEAF, EXPECT} | {RUN}, TANGENT)
    t = np.zeros_like(tape.values)
    for value, tangent in zip(inputs, tangents):
        if value.size:
            t[places(value)] = tangent
    sweeps.tangent(tape.code[: tape.length], tape.side, tape.flags, tape.values, t, tape.scratch)
    return t[places(output)] if output.size else np.zeros(output.shape)


def check_transpose(inputs, output, rng):
    """<J v, w> = <v, J' w>: the tangent sweep against the reverse sweep."""
    v = [rng.normal(size=x.shape) for x in inputs]
    w = rng.normal(size=output.shape)
    left = np.sum(tangent_of(inputs, v, output).astype(float) * w)
    for x in inputs:
        x.zero_grad()
    output.backward(w)
    terms = [np.asarray(x.grad, float) * d for x, d in zip(inputs, v)]
    right = sum(np.sum(t) for t in terms)
    scale = 1.0 + sum(np.sum(np.abs(t)) for t in terms)
    rtol = 1e-12 if output.dtype == np.float64 else 16 * np.finfo(np.float32).eps
    assert abs(left - right) <= rtol * scale, f"<Jv,w> = {left!r}, <v,J'w> = {right!r}"
