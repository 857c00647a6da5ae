"""Rules run on registers: every elementwise operation as machine code gives what the interpreter gives."""

import itertools

import numpy as np
import pytest

from tapegrad import sigmoid
from tapegrad.native.rules import can_write
from tapegrad.ops import TABLE, Elementwise, binary, unary

from .both import Both

# Those of the library, before any test declares one of its own.
OPERATIONS = [row for row in TABLE if isinstance(row, Elementwise)]
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
# What is rounded once, or not at all, is the same number; functions of libraries may differ in the last two bits.
EXACT = {
    "less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "logical_and", "logical_or", "logical_xor",
    "maximum", "minimum", "clip", "where", "relu", "leaky_relu", "add", "subtract", "multiply", "divide", "negative",
    "absolute", "sign", "floor", "ceil", "trunc", "rint", "remainder", "floor_divide", "square", "reciprocal", "sqrt",
    "shield", "chain", "copy", "detach",
}  # fmt: skip
ULPS = 4
# These subtract numbers that are nearly the same, so that rounding is relative to them.
CANCELLING = {"gelu", "logaddexp"}
# The interpreter's zeros have not always the sign of NumPy's here.
SIGN_OF_ZERO = {"sign", "remainder", "floor_divide"}


def special(dtype):
    """Numbers at which rules have cases of their own. Subnormals of float32 count as zero, in some functions."""
    of = np.finfo(dtype)
    found = [0.0, 1.0, 0.5, 2.0, 3.0, 7.25, 1e5, np.inf, float(of.tiny) * 4, float(of.max), float(of.max) / 2,
             float(of.eps), 1.0 - float(of.eps)]  # fmt: skip
    if dtype == np.float64:
        found += [float(of.smallest_subnormal), float(of.tiny) / 4]
    return np.array([*found, *(-x for x in found), np.nan], dtype)


def samples(row, dtype, rng):
    """Columns of operands: special numbers in all combinations, and random ones of the operation's domain."""
    numbers = special(dtype) if row.arity < 3 else special(dtype)[::2]
    columns = np.array(list(itertools.product(numbers, repeat=row.arity)), dtype).T
    drawn = np.array([rng.uniform(low, high, 300) for low, high in row.samples], dtype)
    return np.concatenate([columns, drawn], axis=1)


def apart(expected, found, least=0.0, signs=True):
    """How far results are apart, in units in the last place, of numbers that are at least so large. Numbers that are
    none are alike; zeros of two signs are not, unless `signs` is false."""
    same = (expected == found) & ((np.signbit(expected) == np.signbit(found)) | (not signs))
    same |= np.isnan(expected) & np.isnan(found)
    with np.errstate(all="ignore"):
        ulp = np.spacing(np.maximum(np.abs(expected), expected.dtype.type(least))).astype(float)
        ulps = np.abs(expected.astype(float) - found) / ulp
    ulps = np.where(np.isfinite(ulps) & ~((expected == 0.0) & (found == 0.0)), ulps, np.inf)
    return np.where(same, 0.0, ulps)


def assert_alike(row, columns, expected, found):
    """Results are the same, or within a few units in the last place where the operation is of a library."""
    off = apart(expected, found, float(row.name in CANCELLING), row.name not in SIGN_OF_ZERO)
    allowed = 0 if row.name in EXACT else ULPS
    at = int(np.argmax(off))
    operands = columns[:, at].tolist()
    assert off[at] <= allowed, f"{row.name}{tuple(operands)} is {found[at]!r}, expected {expected[at]!r}"


def test_every_operation_of_the_table_can_be_written():
    assert [row.name for row in OPERATIONS if can_write(row) is not None] == []


@dtypes
@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
def test_arrays(row, dtype, rng):
    columns = samples(row, dtype, rng)
    both = Both(row, *columns)
    assert not both.native.reasons
    (expected,), (found,) = both.run(*columns)
    assert_alike(row, columns, expected, found)


@dtypes
@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
def test_a_hundred_elements(row, dtype, rng):
    columns = np.array([rng.uniform(low, high, 100) for low, high in row.samples], dtype)
    (expected,), (found,) = Both(row, *columns).run(*columns)
    assert_alike(row, columns, expected, found)


@dtypes
@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
def test_single_numbers(row, dtype, rng):
    columns = samples(row, dtype, rng)
    columns = columns[:, rng.permutation(columns.shape[1])[:400]]
    # Elements of an array, taken one by one, are single numbers.
    both = Both(lambda xs: row(*[xs[j] for j in range(row.arity)]), columns[:, 0].copy())
    assert not both.native.reasons
    results = [both.run(column.copy()) for column in columns.T]
    expected, found = (np.array([float(result[k][0]) for result in results], dtype) for k in (0, 1))
    assert_alike(row, columns, expected, found)


@dtypes
@pytest.mark.parametrize("exponent", [-9.0, -8.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 7.0, 8.0, 9.0, 2.5])
@pytest.mark.parametrize("shape", [(), (100,)], ids=["scalar", "array"])
def test_powers_of_a_constant(exponent, shape, dtype, rng):
    points = np.concatenate([special(dtype), rng.uniform(-3.0, 3.0, 69).astype(dtype)])
    points = points[:100]
    both = Both(lambda x: x**exponent, points if shape else float(points[0]))
    runs = [both.run(points)] if shape else [both.run(float(x)) for x in points]
    expected, found = (np.concatenate([np.ravel(run[k][0]) for run in runs]) for k in (0, 1))
    off = apart(expected, found)
    at = int(np.argmax(off))
    assert off[at] <= ULPS, f"{points[at]!r} ** {exponent} is {found[at]!r}, expected {expected[at]!r}"


# Operations that a user declares.


@pytest.fixture(scope="module")
def declared():
    """Rules with everything that can be written: statements, branches, other operations, NumPy's functions."""
    scale = 1.5

    def value(x):
        """A rule of several statements."""
        size = np.abs(x)
        capped = size if size < 2.0 else 2.0
        return scale * capped * sigmoid(x) if x > -1.0 and not x > 2.5 else -(capped**2) / 3

    def pair(x, y):
        return np.hypot(x, y) if x < y <= 2.0 else (0.0 if x == y else np.copysign(x, y))

    return (
        unary("native_statements", "z = statements(x)", value=value, partials=lambda x, z: 1.0),
        binary("native_pair", "z = pair(x, y)", value=pair, partials=lambda x, y, z: (1.0, 1.0)),
    )


@dtypes
@pytest.mark.parametrize("which", [0, 1])
def test_declared_operations(which, declared, dtype, rng):
    row = declared[which]
    assert can_write(row) is None
    columns = np.array([rng.uniform(-3.0, 3.0, 200) for _ in range(row.arity)], dtype)
    columns[:, ::7] = columns[:1, ::7]
    both = Both(row, *columns)
    assert not both.native.reasons
    (expected,), (found,) = both.run(*columns)
    assert apart(expected, found).max() <= ULPS
    one = Both(lambda xs: row(*[xs[j] for j in range(row.arity)]), columns[:, 0].copy())
    assert not one.native.reasons
    results = [one.run(column.copy()) for column in columns.T]
    for k, whole in enumerate((expected, found)):
        assert apart(whole, np.array([result[k][0] for result in results])).max() <= ULPS


@pytest.fixture(scope="module")
def looping():
    """A rule that the sweeps compile, but that is not written: it has a loop."""

    def value(x):
        total = 0.0
        for _ in range(3):
            total += x * x
        return total

    return unary("native_looping", "z = 3 x^2", value=value, partials=lambda x, z: 6.0 * x)


@pytest.mark.parametrize("shape", [(), (100,)], ids=["scalar", "array"])
def test_rules_that_cannot_be_written_are_interpreted(looping, shape, rng):
    why = can_write(looping)
    assert why is not None and "statement" in why
    x = rng.normal(size=shape)
    both = Both(lambda x: np.sin(looping(x * 2.0) + x), x if shape else float(x))
    assert both.native.reasons["native_looping"] == why
    (expected,), (found,) = both.run(x if shape else float(x))
    np.testing.assert_array_max_ulp(expected, found, ULPS)
    np.testing.assert_allclose(found, np.sin(12.0 * x * x + x), rtol=1e-12, atol=1e-13)


@dtypes
@pytest.mark.parametrize("row", [row for row in OPERATIONS if 1 < row.arity < 4], ids=lambda row: row.name)
def test_constants_among_the_operands(row, dtype, rng):
    """What a rule asks of a constant is answered when code is made."""
    columns = samples(row, dtype, rng)[:, -150:]
    # What is no constant goes through special numbers, too.
    columns[:, :100] = np.resize(special(dtype), (row.arity, 100))
    for j in range(row.arity):
        if j in row.held:
            continue
        points, known = [x.copy() for i, x in enumerate(columns) if i != j], special(dtype)

        def f(*xs, j=j, known=known):
            return [row(*xs[:j], float(c), *xs[j:]) for c in known]

        both = Both(f, *points)
        assert not both.native.reasons
        for c, expected, found in zip(known, *both.run(*points), strict=True):
            operands = np.insert(np.array(points), j, c, axis=0)
            assert_alike(row, operands, expected, found)
