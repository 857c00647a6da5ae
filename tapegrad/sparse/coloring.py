"""Which columns of a sparse matrix one product can hold at once, and where each entry is read from the products.

Patterns are CSR index arrays: the entries of row i stand at indptr[i] to indptr[i + 1], their columns in `indices`, in
any order, none twice. Seeds are S[j, colors[j]] = 1 and zero elsewhere; a product J @ S has a row for each row of J and
a column for each colour. The colourings are greedy: Gebremedhin, Manne, Pothen, "What color is your Jacobian? Graph
coloring for computing derivatives", SIAM Review 47 (2005) 629-705; and, for `color_symmetric`, Gebremedhin, Tarafdar,
Manne, Pothen, "New acyclic and star coloring algorithms with application to computing Hessians", SIAM J. Sci. Comput.
29 (2007) 1042-1072.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.sparse import loops
from tapegrad.sparse.matrices import csr_array

__all__ = [
    "color_columns", "color_rows", "color_symmetric", "recover_columns", "recover_rows", "recover_symmetric",
    "rows_of_entries", "transpose",
]  # fmt: skip


def color_columns(indptr: Any, indices: Any, n_columns: int) -> tuple[np.ndarray, int]:
    """Colour the columns so that no row has entries in two columns of one colour; few colours, not always fewest.

    Args:
        indptr, indices: the pattern, CSR, of any number of rows.
        n_columns: number of columns.

    Returns (colors, count): int32 (n_columns,), from 0 to count - 1, or -1 for columns without entries; and how many
    colours there are. That is never less than the entries of the longest row. The order of colouring is the natural
    one, or by falling number of entries that share a row with the column, if that takes fewer colours.

    Raises ShapeError for arrays that are no CSR pattern.

    >>> color_columns([0, 2, 4, 6], [0, 1, 1, 2, 2, 3], 4)
    (array([0, 1, 0, 1], dtype=int32), 2)
    """
    indptr, indices = _pattern(indptr, indices, n_columns)
    starts, rows, _ = transpose(indptr, indices, n_columns)
    lengths = np.diff(indptr)
    keys = np.arange(n_columns), -np.diff(np.concatenate([[0], np.cumsum(lengths[rows])])[starts])
    arrays = indptr, indices, starts, rows
    return _best_order(lambda *rest: loops.greedy_columns(*arrays, *rest), keys, lengths.max(initial=0))


def color_rows(indptr: Any, indices: Any, n_columns: int) -> tuple[np.ndarray, int]:
    """Colour the rows so that no column has entries in two rows of one colour: `color_columns` of the transpose.

    Returns (colors, count): int32 (rows,), -1 for rows without entries; and how many colours there are.

    >>> color_rows([0, 2, 4, 6], [0, 1, 1, 2, 2, 3], 4)
    (array([0, 1, 0], dtype=int32), 2)
    """
    starts, rows, _ = transpose(indptr, indices, n_columns)
    return color_columns(starts, rows, len(indptr) - 1)


def color_symmetric(indptr: Any, indices: Any, n: int) -> tuple[np.ndarray, int]:
    """Colour the columns of a symmetric n×n pattern so that every entry can be read from H @ S: a star colouring.

    The columns are vertices of a graph, and each entry (i, j) off the diagonal joins columns i and j. Joined columns
    differ in colour, and every path i-j-k-l has at least three colours. So the columns of any two colours form stars: a
    hub, and spokes that are joined to the hub alone. This often takes far fewer colours than `color_columns`.

    Returns (colors, count): int32 (n,), from 0 to count - 1, or -1 for columns without entries; and how many colours
    there are. The order of colouring is the natural one, by falling or by rising number of entries: the first of these
    that takes fewest colours.

    Raises ShapeError for arrays that are no n×n pattern, OperationError for one that is not symmetric.

    An arrow: the first row, the first column and the diagonal.

    >>> color_symmetric([0, 4, 6, 8, 10], [0, 1, 2, 3, 0, 1, 0, 2, 0, 3], 4)
    (array([0, 1, 1, 1], dtype=int32), 2)
    """
    indptr, indices = _pattern(indptr, indices, n, square=True)
    _mirror(indptr, indices)
    # The fewest colours there can be: one where all entries are on the diagonal, else two.
    bound = 1 if np.array_equal(rows_of_entries(indptr), indices) else 2
    # Which order is best depends on the pattern. By falling number of entries, columns with many entries come first,
    # and get one colour if they are not joined. Then no two columns that are joined to the same two of them can share
    # a colour, so the opposite order may take fewer.
    keys = np.arange(n), -np.diff(indptr), np.diff(indptr)
    return _best_order(lambda *rest: loops.greedy_star(indptr, indices, *rest), keys, bound)


def recover_columns(indptr: Any, indices: Any, colors: Any) -> np.ndarray:
    """For each entry of J, in CSR order, the column of J @ S that holds its value: J[i, j] = (J @ S)[i, colors[j]].

    Returns lanes, intp (entries,): the values are `(J @ S)[rows_of_entries(indptr), lanes]`.

    Raises ShapeError for arrays that do not fit together, OperationError where two entries would be added up.

    >>> import numpy as np
    >>> J = np.array([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]])
    >>> indptr, indices = [0, 2, 4], [0, 1, 1, 2]
    >>> colors, count = color_columns(indptr, indices, 3)
    >>> compressed = J @ (colors[:, None] == np.arange(count))
    >>> compressed[rows_of_entries(indptr), recover_columns(indptr, indices, colors)]
    array([1., 2., 3., 4.])
    """
    colors = _integers(colors, "colors")
    return _lanes(*_pattern(indptr, indices, len(colors)), colors, "row", "column")


def recover_rows(indptr: Any, indices: Any, colors: Any) -> np.ndarray:
    """For each entry of J, in CSR order, the row of S.T @ J that holds its value: J[i, j] = (S.T @ J)[colors[i], j].

    Returns lanes, intp (entries,): the values are `(S.T @ J)[lanes, indices]`.

    Raises ShapeError for arrays that do not fit together, OperationError where two entries would be added up.

    >>> import numpy as np
    >>> J = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    >>> indptr, indices = [0, 2, 3], [0, 1, 2]
    >>> colors, count = color_rows(indptr, indices, 3)
    >>> compressed = (np.arange(count)[:, None] == colors) @ J
    >>> compressed[recover_rows(indptr, indices, colors), indices]
    array([1., 2., 3.])
    """
    colors = _integers(colors, "colors")
    starts, rows, entries = transpose(indptr, indices, int(np.max(indices, initial=-1)) + 1)
    lanes = np.empty_like(entries)
    if len(colors) != len(indptr) - 1:
        raise ShapeError(f"there are {len(colors)} colours for {len(indptr) - 1} rows")
    lanes[entries] = _lanes(starts, rows, colors, "column", "row")
    return lanes


def recover_symmetric(indptr: Any, indices: Any, colors: Any) -> tuple[np.ndarray, np.ndarray]:
    """For each entry of a symmetric H, in CSR order, where in H @ S it is read.

    H[i, j] = (H @ S)[i, colors[j]] where j is the only entry of row i in that colour; otherwise, in a star colouring,
    i is the only entry of row j in its colour, and H[i, j] = H[j, i] = (H @ S)[j, colors[i]].

    Returns (rows, lanes), intp (entries,) each: the values are `(H @ S)[rows, lanes]`.

    Raises ShapeError for arrays that do not fit together, OperationError if the pattern is not symmetric or an entry
    cannot be read from either place.

    >>> import numpy as np
    >>> H = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 0.0], [3.0, 0.0, 5.0]])
    >>> indptr, indices = [0, 3, 5, 7], [0, 1, 2, 0, 1, 0, 2]
    >>> colors, count = color_symmetric(indptr, indices, 3)
    >>> compressed = H @ (colors[:, None] == np.arange(count))
    >>> compressed[recover_symmetric(indptr, indices, colors)]
    array([1., 2., 3., 2., 4., 3., 5.])
    """
    colors = _integers(colors, "colors")
    indptr, indices = _pattern(indptr, indices, len(colors), square=True)
    mirror = _mirror(indptr, indices)
    lanes, alone = _reads(indptr, indices, colors, "column")
    rows = rows_of_entries(indptr)
    if np.any(lost := ~(alone | alone[mirror])):
        e = int(np.argmax(lost))
        raise OperationError(
            f"no star colouring of this pattern: entry ({rows[e]}, {indices[e]}) can be read neither from its row nor "
            "from its column, because other entries there have the same colour"
        )
    return np.where(alone, rows, indices), np.where(alone, lanes, lanes[mirror])


def rows_of_entries(indptr: Any) -> np.ndarray:
    """The row of each entry, in CSR order: intp.

    >>> rows_of_entries([0, 2, 2, 3])
    array([0, 0, 2])
    """
    return np.repeat(np.arange(len(indptr) - 1, dtype=np.intp), np.diff(indptr))


def transpose(indptr: Any, indices: Any, n_columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The transposed pattern, and for each of its entries the number of the same entry in the pattern given.

    Returns (indptr, indices, entries), int64; the indices of each row ascend. The data follow as `data[entries]`.

    Raises ShapeError for arrays that are no CSR pattern.

    >>> transpose([0, 2, 3], [1, 0, 1], 2)
    (array([0, 1, 3]), array([0, 0, 1]), array([1, 0, 2]))
    """
    indptr, indices = _pattern(indptr, indices, n_columns)
    shape = len(indptr) - 1, n_columns
    given = csr_array(np.arange(len(indices)), indices, indptr, shape).tocsc()
    return given.indptr.astype(np.int64), given.indices.astype(np.int64), given.data


def _pattern(indptr: Any, indices: Any, n_columns: int, square: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Index arrays as int64, and checked, because the compiled loops do not check bounds."""
    indptr, indices = _integers(indptr, "indptr"), _integers(indices, "indices")
    if not len(indptr) or indptr[0] != 0 or indptr[-1] != len(indices) or np.any(np.diff(indptr) < 0):
        raise ShapeError(f"indptr must ascend from 0 to the number of indices, {len(indices)}")
    if len(indices) and not 0 <= indices.min() <= indices.max() < n_columns:
        raise ShapeError(f"indices must be from 0 to {n_columns - 1}: there are {n_columns} columns")
    if square and len(indptr) - 1 != n_columns:
        raise ShapeError(f"a symmetric pattern of {n_columns} columns has as many rows, this one has {len(indptr) - 1}")
    return indptr, indices


def _integers(array: Any, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise ShapeError(f"{name} must be a vector of integers, not {array.ndim}-dimensional of {array.dtype}")
    # The compiled loops take contiguous arrays of int64.
    return np.ascontiguousarray(array, np.int64)


def _lanes(indptr: np.ndarray, indices: np.ndarray, colors: np.ndarray, row: str, column: str) -> np.ndarray:
    """The colour of each entry's column. Raises OperationError if a row has two entries in one colour."""
    lanes, alone = _reads(indptr, indices, colors, column)
    if not alone.all():
        i, c = (of[np.argmin(alone)] for of in (rows_of_entries(indptr), lanes))
        raise OperationError(f"no colouring of this pattern: {row} {i} has entries in several {column}s of colour {c}")
    return lanes


def _reads(indptr: np.ndarray, indices: np.ndarray, colors: np.ndarray, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The colour of each entry's column, and whether no other entry of the row has it."""
    lanes = colors[indices]
    if len(lanes) and lanes.min() < 0:
        raise OperationError(f"{column} {indices[np.argmin(lanes)]} has entries and no colour")
    return lanes, _alone(indptr, lanes)


def _mirror(indptr: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """For each entry (i, j) the number of the entry (j, i). Raises OperationError if it is missing or there twice."""
    starts, columns, first = transpose(indptr, indices, len(indptr) - 1)
    starts_again, columns_again, second = transpose(starts, columns, len(indptr) - 1)
    rows = rows_of_entries(indptr)
    twice = (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])
    if not (np.array_equal(starts, starts_again) and np.array_equal(columns, columns_again)) or twice.any():
        raise OperationError("the pattern is not symmetric, or has an entry twice")
    mirror = np.empty_like(first)
    mirror[first] = first[second]
    return mirror


def _best_order(greedy: Any, keys: Any, bound: int) -> tuple[np.ndarray, int]:
    """The colouring in the order of the key with which it takes fewest colours; `bound` is the fewest there can be."""
    n = len(keys[0])
    best, count = np.full(n, -1, np.int32), n + 1
    # An order that takes very many colours may also take very long. So each order is first given up at 256 colours.
    for limit in (256, n + 1) if bound < 256 else (n + 1,):
        for key in keys:
            colors = np.full(n, -1, np.int32)
            fewer = greedy(np.argsort(key, kind="stable"), min(limit, count), colors)
            if fewer < min(limit, count):
                best, count = colors, fewer
            if count <= bound:
                return best, count
        if count < limit:
            break
    return best, count


def _alone(indptr: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    """Whether each entry is the only one of its row in its lane."""
    lanes = np.ascontiguousarray(lanes, np.int64)
    alone = np.ones(len(lanes), np.uint8)
    loops.find_alone(indptr, lanes, np.full(lanes.max(initial=-1) + 1, -1), alone)
    return alone != 0
