"""Some hundred random programs against an oracle that shares nothing with the package, and that oracle against JAX.

`python -m tests.random_programs --count 100000` runs more.
"""

import numpy as np
import pytest
from random_programs.holding import CLOSE, Expected, hold
from random_programs.writing import write


@pytest.mark.parametrize("first", range(0, 300, 30))
def test_random_programs_are_differentiated_rightly(first):
    compared = 0
    for number in range(first, first + 30):
        program = write(0, number)
        held = hold(program, number)
        assert not held.wrong, f"{program.name}\n{program.text}\n" + "\n".join(held.wrong)
        compared += held.compared
    assert compared > 300


def test_a_wrong_gradient_is_found(monkeypatch):
    """What tests must do themselves: fail."""
    import tapegrad as tg

    right = tg.value_and_grad

    def wrong(f, argnums):
        def evaluate(*args):
            value, gradient = right(f, argnums)(*args)
            return value, (gradient[0] * (1.0 + 1e-6), *gradient[1:])

        return evaluate

    monkeypatch.setattr(tg, "value_and_grad", wrong)
    assert sum(bool(hold(write(0, number), number).wrong) for number in range(20)) > 10


def test_the_oracle_agrees_with_jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    from random_programs.jaxed import expected

    compared = 0
    for number in range(24):
        program = write(5, number)
        at = Expected(program, program.points[1], np.random.default_rng(number))
        if at.kinked:
            continue
        try:
            found = expected(at, jax)
        except (TypeError, ValueError):
            continue  # JAX refuses some of NumPy: an axis of a number, triangles of vectors
        scale = 100.0 + np.abs(np.asarray([float(p) for p in at.loss])).max()
        np.testing.assert_allclose(found, [float(p) for p in at.loss], rtol=0, atol=100 * CLOSE[np.float64] * scale)
        compared += 1
    assert compared > 8
