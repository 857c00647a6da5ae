"""Steps whose results and derivatives are views (parts, broadcasts, transposes): as written out step by step."""

import numpy as np
import pytest

import tapegrad as tg

RNG = np.random.default_rng(5)
A, B = RNG.uniform(0.2, 0.9, (3, 4)), RNG.uniform(0.2, 0.9, 4)
NUMBERS = {
    "a sum": lambda c, a, b: c + np.sum(a),
    "a sum of a part": lambda c, a, b: c + np.sum(a[1:, ::2]),
    "a mean along an axis": lambda c, a, b: 0.5 * c + np.mean(a, 0) @ b,
    "an element": lambda c, a, b: 0.5 * c + a[1, 2],
    "a transposed product": lambda c, a, b: 0.1 * c * np.sum((a.T @ a) @ b),
    "a broadcast": lambda c, a, b: c * np.sum(a * b[None, :]) * 0.1,
    "only the carry": lambda c, a, b: c * 0.5 + 1.0,
    "not the carry": lambda c, a, b: np.sum(a) + b[0],
}
ARRAYS = {
    "a sum that is broadcast": lambda c, a, b: c + np.sum(b),
    "its own sum": lambda c, a, b: 0.1 * np.sum(c) + 0.0 * c,
    "a row that is broadcast": lambda c, a, b: c + b,
    "a transpose": lambda c, a, b: (0.3 * c.T).reshape(3, 4) + a,
    "a flip": lambda c, a, b: c[::-1, ::-1] * 0.5 + a,
    "a part put back": lambda c, a, b: np.concatenate([c[:1] * 0.5, a[1:]]),
    "a broadcast column": lambda c, a, b: np.broadcast_to(c[:, :1], (3, 4)) * a,
    "the argument itself": lambda c, a, b: a,
    "the carry itself": lambda c, a, b: c,
    "an outer product": lambda c, a, b: np.outer(c[:, 0], b) * 0.5 + c,
}
CASES = [(NUMBERS[name], 0.4) for name in NUMBERS] + [(ARRAYS[name], 0.5 * A + 0.1) for name in ARRAYS]


@pytest.mark.parametrize(("step", "start"), CASES, ids=[*NUMBERS, *ARRAYS])
@pytest.mark.parametrize("mode", [False, True], ids=["interpreted", "compiled"])
def test_derivatives_are_those_of_the_steps_written_out(step, start, mode):
    def looped(c, a, b):
        return np.sum(np.sin(tg.fori_loop(0, 5, lambda i, c: step(c, a, b), c, memory_limit=10_000)))

    def written(c, a, b):
        for _ in range(5):
            c = step(c, a, b)
        return np.sum(np.sin(c))

    point, along = (start, A, B), (np.ones_like(start) * 0.3, A[::-1].copy(), B[::-1].copy())
    assert len(tg.record(looped, *point)) < 25
    both = [tg.value_and_grad(f, (0, 1, 2), compile=mode)(*point) for f in (looped, written)]
    assert both[0][0] == pytest.approx(both[1][0], rel=1e-13)
    for found, expected in zip(both[0][1], both[1][1], strict=True):
        assert np.allclose(found, expected, rtol=1e-11, atol=1e-13)
    pushed = [tg.jvp(f, point, along, compile=mode)[1] for f in (looped, written)]
    assert pushed[0] == pytest.approx(pushed[1], rel=1e-11, abs=1e-13)
    second = [tg.hvp(f, point, along, (0, 1, 2), compile=mode) for f in (looped, written)]
    for found, expected in zip(*second, strict=True):
        assert np.allclose(found, expected, rtol=1e-10, atol=1e-12)
