"""`np.einsum` of Values: any number of operands, ellipses, lists of axes, and what it refuses."""

import itertools

import numpy as np
import pytest
from checks import check

from tapegrad import Value
from tapegrad.errors import ShapeError, UnsupportedError

X = Value(np.ones((2, 3)))
SIZES = {"i": 3, "j": 4, "k": 2, "l": 5, "b": 2}


@pytest.mark.parametrize(
    "subscripts",
    ["ij,jk,kl->il", "ij,jk,kl,li->", "i,i,i", "i,j,k->kij", "bij,bjk,bkl,l->bi", "iij,jk,kk->i", "ij,ij,ij->j",
     ",i,->i", "i,j,jk,ik,ij->k", "ij,kj,k,l->il"],
)  # fmt: skip
def test_many_operands(subscripts, rng):
    arrays = [rng.normal(size=[SIZES[c] for c in term]) for term in subscripts.split("->")[0].split(",")]
    check(lambda *xs: np.einsum(subscripts, *xs), *arrays, rng=rng)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("...i->...", [(2, 3)]), ("...->", [()]), ("i...->...i", [(2, 3, 4)]), ("...ii->...i", [(2, 3, 3)]),
        ("...i,...i->...", [(2, 3), (3,)]), ("...i,...i->...", [(1, 3), (4, 3)]),
        ("...ij,...jk", [(2, 1, 3, 4), (5, 4, 2)]), ("ij,jk,ki->", [(2, 1), (3, 1), (1, 2)]),
        ("ij...,jk...->ik...", [(2, 3, 4), (3, 2, 1)]), ("...,...,i...->i...", [(3,), (2, 1), (2, 2, 3)]),
        ("i,i->i", [(1,), (4,)]), ("ij,j->", [(2, 1), (5,)]), ("ii,i->i", [(1, 1), (4,)]),
        ("ij,jk->ik", [(2, 0), (0, 3)]), ("ij,jk->ik", [(0, 2), (2, 3)]), ("i,i->", [(1,), (0,)]),
    ],
    ids=str,
)  # fmt: skip
def test_broadcasts(subscripts, shapes, rng):
    check(lambda *xs: np.einsum(subscripts, *xs), *[rng.normal(size=s) for s in shapes], rng=rng)


def test_of_lists(rng):
    a, b, c = rng.normal(size=(2, 3)), rng.normal(size=(3, 4)), rng.normal(size=(4,))
    check(lambda a, b, c: np.einsum(a, [0, 1], b, [1, 2], c, [2], [0]), a, b, c, rng=rng)
    check(lambda a, b: np.einsum(a, [5, 1], b, [1, 3]), a, b, rng=rng)
    check(lambda a, b: np.einsum(b, [..., 7], a, [2, ...], [..., 7, 2]), a, b, rng=rng)
    check(lambda a: np.einsum(a @ a.T, [3, 3], []), a, rng=rng)
    axes = list(range(60))
    wide = np.einsum(Value(np.ones(4)), [axes[-1]], np.ones((4, 3)), [axes[-1], axes[-2]])
    assert wide.data.tolist() == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(
    "optimize",
    [True, False, "greedy", "optimal"]
    + [["einsum_path", *path] for path in ([(1, 2), (0, 1)], [(0, 1, 2)], [(0, 2), (0, 1)])],
    ids=str,
)
def test_takes_any_path(optimize, rng):
    arrays = [rng.normal(size=s) for s in ((2, 3, 3), (3, 4), (4, 2))]
    check(lambda *xs: np.einsum("bii,ij,jb->i", *xs, optimize=optimize), *arrays, rng=rng)


def test_contracts_in_pairs():
    """Twelve matrices of 6 x 6: a loop over all letters at once would take 6^13 products."""
    arrays = [np.eye(6) + 0.1 for _ in range(12)]
    letters = "abcdefghijklm"
    subscripts = ",".join(map("".join, itertools.pairwise(letters))) + "->am"
    found = np.einsum(subscripts, *map(Value, arrays))
    np.testing.assert_allclose(found.data, np.linalg.multi_dot(arrays), rtol=1e-12)


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ab,bc->ad", [(3, 4), (4, 5)], "'ab,bc->ad' .*shapes .*(3, 4), (4, 5).*'d'"),
        ("ab,bc->ac", [(3, 4), (3, 5)], "'b' is 4 long in one operand and 3 in another"),
        ("ab,b,b->a", [(3, 1), (4,), (5,)], "'b' is 4 long in one operand and 5 in another"),
        ("ab,b->a", [(3, 4)], "2, must be equal to the number of operands, 1"),
        ("abc,b->a", [(3, 4), (4,)], "'abc' names 3 axes, operand 0 has shape (3, 4)"),
        ("ab->aa", [(3, 3)], "more than once"),
        ("a.b->a", [(3, 3)], "Invalid Ellipses"),
        ("aa->a", [(3, 4)], "'a' is 3 and 4 long in operand 0"),
        ("aa->a", [(1, 4)], "'a' is 1 and 4 long in operand 0"),
        ("...a->a", [(2, 3)], "the result needs an ellipsis too"),
        ("...a,...a->...", [(2, 3), (4, 3)], "2 long in one operand and 4 in another"),
        ("...abc->a", [(2, 3)], "Ellipses lengths"),
        ("a->a->a", [(2,)], "one '->'"),
        ("", [(2,)], "'' names 0 axes, operand 0 has shape (2,)"),
    ],
)
def test_refuses(subscripts, shapes, message):
    with pytest.raises(ValueError, match=r"einstein|[Oo]perand|subscript|dimension|ellips|[Ee]insum|arrow|->"):
        np.einsum(subscripts, *map(np.ones, shapes))
    with pytest.raises(ShapeError, match=message.replace("(", r"\(").replace(")", r"\)")):
        np.einsum(subscripts, *(Value(np.ones(s)) for s in shapes))


@pytest.mark.parametrize(
    ("operands", "options", "error", "message"),
    [
        ([X], {}, ShapeError, "lists of axes in turns"),
        ([X, 3], {}, ShapeError, "lists of axes in turns"),
        ([X, [0, 1], [0, 5]], {}, ShapeError, "does not fit the others.*5"),
        ([X, [0, "a"]], {}, ShapeError, "holds no axes"),
        (["ij,ij,ij", X, X, X], {"optimize": [(0, 1)]}, ShapeError, "is no path that contracts 3 operands to one"),
        (["ij,ij,ij", X, X, X], {"optimize": [(0, 3), (0, 1)]}, ShapeError, "is no path"),
        (["ij->i", X], {"out": np.zeros(2)}, UnsupportedError, "np.einsum with out="),
        (["ij->i", X], {"dtype": float}, UnsupportedError, "np.einsum with dtype="),
    ],
)
def test_refuses_other_arguments(operands, options, error, message):
    with pytest.raises(error, match=message):
        np.einsum(*operands, **options)


def test_tensordot_does_not_broadcast():
    with pytest.raises(ShapeError, match=r"axes \[1\] of shape \(2, 1\) and \[0\] of shape \(3, 4\)"):
        np.tensordot(Value(np.ones((2, 1))), np.ones((3, 4)), 1)
