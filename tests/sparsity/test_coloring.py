"""Colourings of sparse patterns, against brute force, and matrices recovered from their compressed products."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from tapegrad.errors import OperationError, ShapeError
from tapegrad.sparse.coloring import (
    color_columns,
    color_rows,
    color_symmetric,
    recover_columns,
    recover_rows,
    recover_symmetric,
    rows_of_entries,
    transpose,
)


def csr(pattern):
    """indptr and indices of a dense pattern."""
    matrix = sp.csr_array(np.atleast_2d(pattern).astype(bool))
    return matrix.indptr, matrix.indices


def shuffled(rng, indptr, indices):
    """The same pattern with the entries of each row in another order."""
    indices = indices.copy()
    for start, stop in itertools.pairwise(indptr):
        rng.shuffle(indices[start:stop])
    return indptr, indices


def seeds(colors, count):
    return (colors[:, None] == np.arange(count)).astype(float)


def random_pattern(rng, m, n, density):
    """With empty rows and columns, as a rule."""
    pattern = rng.random((m, n)) < density
    pattern[rng.random(m) < 0.1] = False
    pattern[:, rng.random(n) < 0.1] = False
    return pattern


def random_symmetric(rng, n, density, diagonal):
    pattern = random_pattern(rng, n, n, density)
    pattern |= pattern.T
    if diagonal is not None:
        np.fill_diagonal(pattern, diagonal)
    return pattern


def check_colors(colors, count, used):
    """That colours are those from 0 to count - 1, for the columns that are used and no other."""
    assert colors.dtype == np.int32 and colors.shape == used.shape
    assert type(count) is int
    assert set(colors[used].tolist()) == set(range(count))
    assert np.all(colors[~used] == -1)


def check_columns(pattern, rng):
    colors, count = color_columns(*csr(pattern), pattern.shape[1])
    check_colors(colors, count, pattern.any(0))
    assert count >= pattern.sum(1).max(initial=0)
    for row in pattern:
        assert np.bincount(colors[row], minlength=1).max() <= 1
    indptr, indices = shuffled(rng, *csr(pattern))
    rows = rows_of_entries(indptr)
    jacobian = rng.normal(size=pattern.shape) * pattern
    lanes = recover_columns(indptr, indices, colors)
    assert lanes.dtype == np.intp
    assert np.array_equal((jacobian @ seeds(colors, count))[rows, lanes], jacobian[rows, indices])
    return count


def check_rows(pattern, rng):
    indptr, indices = shuffled(rng, *csr(pattern))
    colors, count = color_rows(indptr, indices, pattern.shape[1])
    check_colors(colors, count, pattern.any(1))
    rows = rows_of_entries(indptr)
    jacobian = rng.normal(size=pattern.shape) * pattern
    lanes = recover_rows(indptr, indices, colors)
    assert np.array_equal((seeds(colors, count).T @ jacobian)[lanes, indices], jacobian[rows, indices])
    other, fewer = color_columns(*csr(pattern.T), len(pattern))
    assert count == fewer and np.array_equal(colors, other)


def is_star_coloring(pattern, colors):
    """Whether neighbours differ in colour and no path on four vertices has two colours, each path looked at."""
    n = len(pattern)
    neighbours = [[j for j in range(n) if pattern[i, j] and i != j] for i in range(n)]
    for i in range(n):
        for j in neighbours[i]:
            if colors[i] == colors[j]:
                return False
            for k in neighbours[j]:
                for l in neighbours[k]:
                    path = {i, j, k, l}
                    if len(path) == 4 and len({colors[v] for v in path}) < 3:
                        return False
    return True


def check_symmetric(pattern, rng):
    n = len(pattern)
    indptr, indices = shuffled(rng, *csr(pattern))
    colors, count = color_symmetric(indptr, indices, n)
    check_colors(colors, count, pattern.any(0))
    assert is_star_coloring(pattern, colors)
    hessian = rng.normal(size=(n, n))
    hessian = (hessian + hessian.T) * pattern
    places = recover_symmetric(indptr, indices, colors)
    assert places[0].dtype == places[1].dtype == np.intp
    values = (hessian @ seeds(colors, count))[places]
    assert np.array_equal(values, hessian[rows_of_entries(indptr), indices])
    return count


def band(n, width):
    return abs(np.subtract.outer(np.arange(n), np.arange(n))) <= width


def arrow(n, hub=0):
    pattern = np.eye(n, dtype=bool)
    pattern[hub] = pattern[:, hub] = True
    return pattern


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.05, 0.15, 0.3, 0.6]), st.integers(0, 10**6))
def test_columns_and_rows_of_small_patterns(m, n, density, seed):
    rng = np.random.default_rng(seed)
    pattern = random_pattern(rng, m, n, density)
    check_columns(pattern, rng)
    check_rows(pattern, rng)


@pytest.mark.parametrize("density", [0.005, 0.03, 0.3, 0.9])
def test_columns_where_rows_are_long_and_colors_are_more_than_a_word(density, rng):
    pattern = random_pattern(rng, 90, 200, density)
    pattern[3] |= rng.random(200) < 0.7
    pattern[70, 20:150] = True
    assert check_columns(pattern, rng) >= 128
    check_rows(pattern, rng)


def test_columns_where_natural_order_takes_more_than_256_colors(rng):
    pattern = random_pattern(rng, 30, 700, 0.02)
    pattern[5, 100:] = True
    assert check_columns(pattern, rng) >= 600


@given(
    st.integers(1, 10), st.sampled_from([0.05, 0.1, 0.2, 0.4]), st.sampled_from([None, True, False]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_symmetric_small_patterns(n, density, diagonal, seed):
    rng = np.random.default_rng(seed)
    check_symmetric(random_symmetric(rng, n, density, diagonal), rng)


@pytest.mark.parametrize("density", [0.01, 0.03, 0.06])
@pytest.mark.parametrize("diagonal", [None, True, False])
def test_symmetric_larger_patterns(density, diagonal, rng):
    check_symmetric(random_symmetric(rng, 60, density, diagonal), rng)


@pytest.mark.parametrize("diagonal", [True, False])
def test_every_symmetric_pattern_of_four_columns(diagonal, rng):
    pairs = list(itertools.combinations(range(4), 2))
    for chosen in itertools.product([False, True], repeat=len(pairs)):
        pattern = diagonal * np.eye(4, dtype=bool)
        for (i, j), there in zip(pairs, chosen, strict=True):
            pattern[i, j] = pattern[j, i] = there
        check_symmetric(pattern, rng)


def test_no_star_coloring_of_small_graphs_takes_fewer_by_much(rng):
    """Greedy against the best there is, over all colourings of five vertices: within one colour."""
    for _ in range(30):
        pattern = random_symmetric(rng, 5, 0.3, True)
        _, count = color_symmetric(*csr(pattern), 5)
        best = next(
            k for k in range(1, 6)
            if any(is_star_coloring(pattern, colors) for colors in itertools.product(range(k), repeat=5))
        )  # fmt: skip
        assert best <= count <= best + 1


@pytest.mark.parametrize("hub", [0, 17, 39])
def test_arrow(hub, rng):
    pattern = arrow(40, hub)
    assert check_symmetric(pattern, rng) == 2
    assert check_columns(pattern, rng) == 40


def test_large_arrow():
    colors, count = color_symmetric(*csr(arrow(1000)), 1000)
    assert count == 2
    assert colors[0] == 0 and np.all(colors[1:] == 1)


def test_columns_that_cross_all_but_each_other_cost_one_color_each(rng):
    # In natural and in falling order the first two get one colour, and then all others differ.
    pattern = np.eye(40, dtype=bool)
    pattern[:2, 2:] = pattern[2:, :2] = True
    assert check_symmetric(pattern, rng) == 3
    large = np.eye(500, dtype=bool)
    large[:2, 2:] = large[2:, :2] = True
    assert color_symmetric(*csr(large), 500)[1] == 3


def test_falling_order_is_taken_where_it_is_better(rng):
    # A path of columns that meet in pairs, the middle one last: natural order gives its neighbours different colours.
    pattern = np.array([[1, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 0]], bool)
    assert check_columns(pattern, rng) == 2


@pytest.mark.parametrize("n", [1, 2, 3, 4, 30])
def test_bands(n, rng):
    assert check_columns(band(n, 1), rng) == min(n, 3)
    assert check_symmetric(band(n, 1), rng) == min(n, 2 if n <= 3 else 3)
    assert check_columns(band(n, 2), rng) == min(n, 5)
    check_symmetric(band(n, 2), rng)


@pytest.mark.parametrize("n", [1, 5, 30])
def test_diagonal_and_dense(n, rng):
    assert check_columns(np.eye(n, dtype=bool), rng) == 1
    assert check_symmetric(np.eye(n, dtype=bool), rng) == 1
    for diagonal in (True, False):
        dense = np.ones((n, n), bool)
        np.fill_diagonal(dense, diagonal)
        columns, symmetric = color_columns(*csr(dense), n), color_symmetric(*csr(dense), n)
        assert symmetric[1] == (n if diagonal or n > 1 else 0)
        assert columns[1] == symmetric[1]


def test_nothing():
    for m, n in itertools.product([0, 3], repeat=2):
        indptr = np.zeros(m + 1, int)
        for colors, count in (color_columns(indptr, [], n), color_rows(indptr, [], n)):
            assert count == 0 and np.all(colors == -1)
        assert len(color_columns(indptr, [], n)[0]) == n and len(color_rows(indptr, [], n)[0]) == m
        assert recover_columns(indptr, [], np.full(n, -1)).shape == (0,)
        assert recover_rows(indptr, [], np.full(m, -1)).shape == (0,)
    colors, count = color_symmetric([0, 0, 0], [], 2)
    assert count == 0 and colors.tolist() == [-1, -1]
    assert [a.shape for a in recover_symmetric([0, 0, 0], [], colors)] == [(0,), (0,)]


def test_a_column_with_nothing_but_its_diagonal_has_a_color_and_an_empty_one_has_none(rng):
    pattern = np.zeros((4, 4), bool)
    pattern[0, 0] = pattern[1, 2] = pattern[2, 1] = True
    assert color_symmetric(*csr(pattern), 4)[0].tolist() == [0, 0, 1, -1]
    assert check_symmetric(pattern, rng) == 2


def test_large_tridiagonal():
    n = 100_000
    matrix = sp.diags_array([np.ones(n - 1), np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1]).tocsr()
    colors, count = color_columns(matrix.indptr, matrix.indices, n)
    assert count == 3 and np.array_equal(colors, np.arange(n) % 3)
    assert np.array_equal(recover_columns(matrix.indptr, matrix.indices, colors), matrix.indices % 3)
    colors, count = color_symmetric(matrix.indptr, matrix.indices, n)
    assert count == 3
    recover_symmetric(matrix.indptr, matrix.indices, colors)


def test_transpose(rng):
    pattern = random_pattern(rng, 7, 9, 0.3)
    matrix = sp.csr_array(rng.normal(size=(7, 9)) * pattern)
    indptr, indices, entries = transpose(matrix.indptr, matrix.indices, 9)
    back = sp.csr_array((matrix.data[entries], indices, indptr), shape=(9, 7))
    assert np.array_equal(back.toarray(), matrix.toarray().T)
    assert back.has_sorted_indices


def test_kinds_of_arrays_that_are_accepted():
    expected = color_columns([0, 2, 4], [0, 1, 1, 2], 3)[0]
    for dtype in (np.int32, np.int64, np.uint16, np.uint64):
        indptr, indices = np.array([0, 2, 4], dtype), np.array([0, 9, 1, 9, 1, 9, 2, 9], dtype)[::2]
        indptr.flags.writeable = indices.flags.writeable = False
        assert np.array_equal(color_columns(indptr, indices, 3)[0], expected)
        assert recover_columns(indptr, indices, expected.astype(dtype)).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([], [], "ascend from 0"),
        ([0, 1], [0, 1], "ascend from 0 to the number of indices, 2"),
        ([1, 2], [0, 1], "ascend from 0"),
        ([0, 2, 1, 3], [0, 1, 2], "ascend from 0"),
        ([0, 1], [3], "from 0 to 2"),
        ([0, 1], [-1], "from 0 to 2"),
        ([0, 1], [0.0], "indices must be a vector of integers, not 1-dimensional of float64"),
        ([[0, 1]], [0], "indptr must be a vector of integers"),
    ],
)
def test_what_is_no_pattern(indptr, indices, message):
    for function in (color_columns, transpose, color_symmetric):
        with pytest.raises(ShapeError, match=message):
            function(indptr, indices, 3)


def test_what_is_no_symmetric_pattern():
    with pytest.raises(ShapeError, match="3 columns has as many rows, this one has 2"):
        color_symmetric([0, 1, 2], [0, 1], 3)
    for indptr, indices in (([0, 1, 1], [1]), ([0, 1, 2, 3], [1, 2, 0]), ([0, 2, 2], [0, 0])):
        n = len(indptr) - 1
        with pytest.raises(OperationError, match="not symmetric, or has an entry twice"):
            color_symmetric(indptr, indices, n)
        with pytest.raises(OperationError, match="not symmetric, or has an entry twice"):
            recover_symmetric(indptr, indices, np.arange(n))


def test_what_is_no_coloring():
    pattern = csr(band(4, 1))
    with pytest.raises(OperationError, match="row 1 has entries in several columns of colour 0"):
        recover_columns(*pattern, [0, 1, 0, 1])
    with pytest.raises(OperationError, match="column 1 has entries in several rows of colour 0"):
        recover_rows(*pattern, [0, 1, 0, 1])
    # The path 0-1-2-3 in two colours: both rows of the middle entry have another one of the colour to read.
    with pytest.raises(OperationError, match=r"entry \(1, 2\) can be read neither from its row nor"):
        recover_symmetric(*pattern, [0, 1, 0, 1])
    with pytest.raises(OperationError, match=r"entry \(1, 1\) can be read neither from its row nor"):
        recover_symmetric(*pattern, [0, 1, 1, 0])
    with pytest.raises(OperationError, match="column 3 has entries and no colour"):
        recover_symmetric(*pattern, [0, 1, 2, -1])
    with pytest.raises(OperationError, match="row 0 has entries and no colour"):
        recover_rows(*pattern, [-1, 1, 2, 0])
    with pytest.raises(ShapeError, match="3 colours for 4 rows"):
        recover_rows(*pattern, [0, 1, 2])
    with pytest.raises(ShapeError, match="from 0 to 2: there are 3 columns"):
        recover_columns(*pattern, [0, 1, 2])
    with pytest.raises(ShapeError, match="colors must be a vector of integers"):
        recover_columns(*pattern, [0.0, 1.0, 2.0, 0.0])


@given(st.integers(2, 7), st.integers(0, 10**6))
def test_symmetric_recovery_accepts_star_colorings_and_otherwise_raises_or_is_right(n, seed):
    """Any colouring of a full diagonal that recovers everything is accepted, and no other is."""
    rng = np.random.default_rng(seed)
    pattern = random_symmetric(rng, n, 0.3, True)
    colors = rng.integers(0, 3, n)
    hessian = rng.normal(size=(n, n))
    hessian = (hessian + hessian.T) * pattern
    indptr, indices = csr(pattern)
    try:
        places = recover_symmetric(indptr, indices, colors)
    except OperationError:
        assert not is_star_coloring(pattern, colors)
    else:
        assert is_star_coloring(pattern, colors)
        assert np.array_equal((hessian @ seeds(colors, 3))[places], hessian[rows_of_entries(indptr), indices])
