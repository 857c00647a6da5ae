"""NumPy's whole namespace on Values: every name is accounted for, and every one that is supported is tried."""

import functools
from pathlib import Path

import numpy as np
import pytest
from checks import difference
from numpy_calls import CALLS
from numpy_parts import parts

import tapegrad as tg
from tapegrad import Value
from tapegrad.functions import table
from tapegrad.ops import BY_UFUNC

ENTRIES = {entry.name: entry for entry in table.supported()}
NAMES = [f"{call[0]}{i}" for i, call in enumerate(CALLS)]


def moved(arrays, by=0.02):
    """The same points a little aside, in order and sign as they are."""
    rng = np.random.default_rng(3)
    return [a * (1.0 + by * rng.uniform(0.5, 1.0)) + 0.1 * by * rng.normal(size=a.shape) for a in arrays]


def same(found, expected, rtol):
    found, expected = parts(found), parts(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.shape == other.shape
        if other.dtype.kind in "fiub":
            np.testing.assert_allclose(one.astype(float), other.astype(float), rtol=rtol, atol=rtol)
        else:
            assert (one == other).all()


def weighted(f):
    """One number from all floats that a call returns, and None where it returns none."""

    def total(*args):
        result = f(*args)
        rng, found = np.random.default_rng(5), None
        for part in result if isinstance(result, list | tuple) else [result]:
            weight = rng.normal(size=np.shape(part))
            if isinstance(part, Value) or np.asarray(part).dtype.kind == "f":
                one = np.sum(part * weight.astype(part.dtype))
                found = one if found is None else found + one
        return found

    return total


@functools.cache
def results(i):
    """Whether a call returns floats that vary with its arguments, so that there are derivatives to be asked for."""
    _, f, *arrays = CALLS[i]
    result = f(*map(Value, arrays))
    given = result if isinstance(result, list | tuple) else [result]
    return any(isinstance(part, Value) and part.size and not part.tape.kind(part._slot) for part in given)


@pytest.mark.parametrize("i", range(len(CALLS)), ids=NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_a_call_gives_what_numpy_gives(i):
    _, f, *arrays = CALLS[i]
    others = moved(arrays)
    same(f(*map(Value, arrays)), f(*arrays), 1e-12)
    recording = tg.record(lambda *args: _leaves(f(*args)), *arrays)
    same(recording(*arrays), f(*arrays), 1e-12)
    same(recording(*others), f(*others), 1e-12)
    small = [a.astype(np.float32) for a in arrays]
    with np.errstate(over="ignore"):
        found = f(*map(Value, small))
    for part in found if isinstance(found, list | tuple) else [found]:
        assert not isinstance(part, Value) or part.dtype == np.float32
    if np.isfinite(small[0]).all():
        same(found, [x.astype(float) if x.dtype.kind == "f" else x for x in parts(f(*small))], 2e-5)


def _leaves(result):
    """Results of a recorded function are numbers and arrays."""
    if isinstance(result, list | tuple):
        return tuple(map(_leaves, result))
    return result if isinstance(result, Value) else np.asarray(result, float)


@pytest.mark.parametrize("i", range(len(CALLS)), ids=NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_derivatives_of_a_call(i):
    if not results(i):
        pytest.skip("it returns no floats that vary")
    _, f, *arrays = CALLS[i]
    loss, rng = weighted(f), np.random.default_rng(11)
    argnums = tuple(range(len(arrays)))
    gradient = tg.value_and_grad(loss, argnums=argnums)
    gradient(*arrays)
    arrays = moved(arrays)
    directions = [rng.normal(size=a.shape) for a in arrays]

    def along(t):
        return [a + t * d for a, d in zip(arrays, directions)]

    value, gradients = gradient(*arrays)
    assert all(np.isfinite(g).all() for g in gradients)
    slope = sum(np.sum(g * d) for g, d in zip(gradients, directions))
    scale = 1.0 + sum(np.sum(np.abs(g * d)) for g, d in zip(gradients, directions))
    step = 1e-4
    assert abs(slope - difference(lambda t: loss(*along(t)), step)) <= 1e-8 * scale + 1e-9 * abs(value)
    primal, tangent = tg.jvp(loss, tuple(arrays), tuple(directions))
    assert abs(primal - value) <= 1e-12 * (1.0 + abs(value)) and abs(tangent - slope) <= 1e-11 * scale

    # The second derivative, against differences of the first.
    products = [*map(np.asarray, tg.hvp(loss, tuple(arrays), tuple(directions), argnums=argnums))]
    sizes = [1.0 + np.abs(p).max(initial=0.0) + np.abs(g).max(initial=0.0) for p, g in zip(products, gradients)]
    for k, product in enumerate(products):
        weight = rng.normal(size=product.shape)
        expected = difference(lambda t, k=k, w=weight: np.sum(gradient(*along(t))[1][k] * w), step)
        assert abs(np.sum(product * weight) - expected) <= 1e-7 * sizes[k] * (1.0 + product.size**0.5)


@pytest.mark.parametrize("i", range(0, len(CALLS)), ids=NAMES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_the_gradient_of_a_call_in_single_precision(i):
    if not results(i):
        pytest.skip("it returns no floats that vary")
    _, f, *arrays = CALLS[i]
    small = [a.astype(np.float32) for a in arrays]
    exact = tg.grad(weighted(f), argnums=tuple(range(len(arrays))))(*(a.astype(float) for a in small))
    found = tg.grad(weighted(f), argnums=tuple(range(len(arrays))))(*small)
    for one, other in zip(found, exact):
        assert np.asarray(one).dtype == np.float32 or np.ndim(one) == 0
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4 * (1.0 + np.abs(other).max(initial=0.0)))


# The table


def test_every_name_of_numpy_is_accounted_for():
    assert not [entry.name for entry in ENTRIES.values() if not entry.status]
    known = {*table.UNASKED, *table._KIND_OF, *table.PASSING}
    assert not [name for name in known if name not in ENTRIES and "." not in name and hasattr(np, name)]
    assert all(entry.note for entry in ENTRIES.values() if entry.status != table.SUPPORTED)


def test_every_name_that_is_supported_is_tried():
    tried = {call[0] for call in CALLS}
    objects = {id(table._of(name)) for name in tried if name in ENTRIES and not name.startswith(("ndarray.", "ufunc."))}
    missing = []
    for name, entry in ENTRIES.items():
        if entry.status != table.SUPPORTED or name in tried:
            continue
        if name.startswith(("ndarray.", "ufunc.")) or (
            # Rows of the table of operations have tests of their own, with derivatives: tests/ops.
            id(table._of(name)) not in objects and table._of(name) not in BY_UFUNC
        ):
            missing.append(name)
    assert not missing


@pytest.mark.parametrize("ufunc", sorted({f.__name__ for f in BY_UFUNC}))
def test_a_ufunc_that_is_a_row(ufunc):
    ufunc = getattr(np, ufunc)
    row = BY_UFUNC[ufunc]
    args = [np.linspace(low, high, 9)[1:-1][:: -1 if k else 1] for k, (low, high) in enumerate(row.samples)]
    same(ufunc(*map(Value, args)), ufunc(*args), 1e-14)
    same(tg.record(ufunc, *args)(*(0.9 * a for a in args)), ufunc(*(0.9 * a for a in args)), 1e-14)


def test_the_table_in_the_documentation_is_up_to_date():
    page = (Path(__file__).parents[2] / "docs" / "numpy.md").read_text(encoding="utf-8")
    version = ".".join(np.__version__.split(".")[:2])
    if f"for NumPy {version}." not in page:
        pytest.skip(f"the table was written for another NumPy than {version}")
    assert page == table.as_markdown(), "run: python -m tapegrad.functions > docs/numpy.md"
