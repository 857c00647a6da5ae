"""Gradients of programs in Numba, against central differences, and against recordings of the same runs."""

import numba_programs as programs
import numpy as np
import pytest

import tapegrad as tg


def copied(args):
    return [x.copy() if isinstance(x, np.ndarray) else x for x in args]


def differences(f, args, argnums, h=1e-6):
    """Central differences, and how far those with half the step are from them: large where f jumps in between."""

    def slopes(h):
        found = []
        for n in argnums:
            for i in range(np.size(args[n])):
                ends = []
                for sign in (1.0, -1.0):
                    moved = copied(args)
                    if np.ndim(args[n]):
                        moved[n].flat[i] += sign * h
                    else:
                        moved[n] += sign * h
                    ends.append(f(*moved))
                found.append((ends[0] - ends[1]) / (2.0 * h))
        return np.array(found)

    full, half = slopes(h), slopes(0.5 * h)
    return half, np.abs(full - half)


@pytest.mark.parametrize("name", programs.PROGRAMS)
def test_gradients_are_those_of_differences(name):
    f, draw, argnums = programs.PROGRAMS[name]
    rng, jumps = np.random.default_rng(7), 0
    gradient = tg.value_and_grad(f, argnums=argnums)
    for _ in range(100):
        args = draw(rng)
        value, found = gradient(*args)
        assert value == pytest.approx(f(*copied(args)), rel=1e-12, abs=1e-14)
        expected, apart = differences(f, args, argnums)
        flat = np.concatenate([np.ravel(g) for g in found])
        assert np.isfinite(flat).all() and flat.shape == expected.shape
        scale = 1.0 + np.abs(expected)
        if (apart > 1e-3 * scale).any():
            # A step of the differences has led over a jump.
            jumps += 1
            continue
        np.testing.assert_allclose(flat / scale, expected / scale, atol=2e-6)
    assert jumps <= 3


@pytest.mark.parametrize("name", ["adaptive", "bounces", "tridiagonal"])
def test_recordings_are_right_at_other_inputs(name):
    f, draw, argnums = programs.PROGRAMS[name]
    rng = np.random.default_rng(8)
    args = draw(rng)
    recording, gradient = tg.record(f, *args), tg.grad(f, argnums=argnums)
    for _ in range(5):
        expected = gradient(*args)
        for g, e in zip(recording.grad(*args, argnums=argnums), expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-12)
        args = draw(rng)


def test_second_derivatives():
    f, draw, _ = programs.PROGRAMS["tridiagonal"]
    args = draw(np.random.default_rng(9))
    hessian, gradient, h = tg.hessian(f, argnums=1)(*args), tg.grad(f, argnums=1), 1e-6
    for i in range(6):
        ends = []
        for sign in (1.0, -1.0):
            moved = copied(args)
            moved[1][i] += sign * h
            ends.append(gradient(*moved))
        np.testing.assert_allclose(hessian[i], (ends[0] - ends[1]) / (2.0 * h), rtol=1e-5, atol=1e-7)
    v = np.arange(6.0)
    np.testing.assert_allclose(tg.hvp(f, args, (v,), argnums=1), hessian @ v, rtol=1e-10)


def test_arguments_are_left_as_they_were():
    f, draw, argnums = programs.PROGRAMS["tridiagonal"]
    args = draw(np.random.default_rng(10))
    before = copied(args)
    tg.grad(f, argnums=argnums)(*args)
    for x, y in zip(args, before, strict=True):
        np.testing.assert_array_equal(x, y)
