"""Sums of normalisation over so many rows that float32 cannot count them one by one; and what zeros pass on."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.ops import BY_NAME
from tapegrad.ops.groups import kept, with_lost

# From here on, adding 1 to a float32 changes nothing.
COUNTABLE = 1 << 24


def test_moments_of_more_rows_than_float32_counts():
    rows = COUNTABLE + (1 << 22)
    x = np.tile(np.array([1.0, 3.0], np.float32), rows // 2).reshape(rows, 1, 1, 1)
    mean, var = tg.record(lambda x: BY_NAME["moments"](x, params=[rows, 1, 1, 1, 1]), x)(x).reshape(-1)
    assert mean == 2.0 and var == 1.0


def test_sums_of_columns_lose_nothing():
    # The sums of a stretch, of all before, and what was lost; of two columns, one of them small.
    sums = np.array([0.0, 0.0, COUNTABLE, 0.5, 0.0, 0.0], np.float32)
    for _ in range(1000):
        sums[:2] += 1.0
        kept(sums, 2)
    assert with_lost(sums, 0, 2) == COUNTABLE + 1000 and with_lost(sums, 1, 2) == 1000.5
    with np.errstate(invalid="ignore"):
        for parts in ((np.inf, np.nan), (1.0, 1.0)):
            sums[:2] = parts
            kept(sums, 2)
    assert with_lost(sums, 0, 2) == np.inf and np.isnan(with_lost(sums, 1, 2))


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7)], ids=["vectors", "images"])
def test_a_sample_that_is_not_chosen_passes_nothing_on(shape, compile):
    # Its mean, variance and normalised numbers are NaN; so would be the gradients by weights, eps and other samples.
    rng = np.random.default_rng(0)
    x, (w, b), eps = rng.normal(size=shape), rng.normal(size=(2, 6)), 0.1
    x[2, 3] = np.inf
    chosen = np.ones((5, *(1 for _ in shape[1:])), bool)
    chosen[2] = False
    rest = np.delete(x, 2, 0)
    norm = (lambda x, w, b, eps: tg.layer_norm(x, 6, w, b, eps)) if len(shape) == 2 else (
        lambda x, w, b, eps: tg.group_norm(x, 2, w, b, eps))
    f = lambda x, *rest: np.sum(np.where(chosen, norm(x, *rest), 0.0) ** 3)
    plain = lambda x, *rest: np.sum(norm(x, *rest) ** 3)
    found = tg.grad(f, (0, 1, 2, 3), compile=compile)(x, w, b, eps)
    wanted = tg.grad(plain, (0, 1, 2, 3), compile=compile)(rest, w, b, eps)
    assert not found[0][2].any()
    for ours, other in zip((np.delete(found[0], 2, 0), *found[1:]), wanted, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-12, atol=1e-12)
    # And along a direction, twice: the gradient's derivative has no NaN either.
    along = tuple(np.ones(np.shape(a)) for a in (x, w, b, eps))
    second = tg.hvp(f, (x, w, b, eps), along)
    expected = tg.hvp(plain, (rest, w, b, eps), (np.ones(rest.shape), *along[1:]))
    for ours, other in zip((np.delete(second[0], 2, 0), *second[1:]), expected, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-10, atol=1e-10)
