"""Blame is held against a search in plain NumPy that knows nothing of tapes: on random programs, at random inputs."""

import numpy as np
import pytest

import tapegrad as tg

UNARY = [np.log, np.sqrt, np.exp, np.square, np.negative, np.arcsin, np.reciprocal, np.tanh]
BINARY = [np.add, np.subtract, np.multiply, np.divide, np.maximum]


def program(rng, length):
    """Steps (function, positions of operands): `where` chooses between two numbers by the sign of a third."""
    steps = []
    for n in range(2, 2 + length):
        kind = rng.integers(10)
        i, j, k = (int(x) for x in rng.integers(max(0, n - 6), n, 3))
        if kind < 5:
            steps.append((UNARY[rng.integers(len(UNARY))], (i,)))
        elif kind < 8:
            steps.append((BINARY[rng.integers(len(BINARY))], (i, j)))
        else:
            steps.append((None, (i, j, k)))
    return steps


def run(steps, x, y):
    """All numbers of a program; what it records has a label each."""
    found = [x, y] if isinstance(x, tg.Value) else [np.asarray(x, float)[()], np.asarray(y, float)[()]]
    for n, (function, at) in enumerate(steps, 2):
        given = [found[i] for i in at]
        made = function(*given) if function else np.where(given[0] > 0.0, given[1], given[2])
        if isinstance(made, tg.Value):
            made.label = f"n{n}"
        found.append(made)
    return found


def origins(steps, numbers, result, element):
    """The steps that made one element of a result wrong: those whose own operands are finite."""
    found, waiting, seen = set(), [result], set()
    while waiting:
        n = waiting.pop()
        if n in seen:
            continue
        seen.add(n)
        if n < 2:
            found.add(n)
            continue
        function, at = steps[n - 2]
        read = list(at)
        if function is None:
            read = [at[1] if numbers[at[0]][element] > 0.0 else at[2]]
        elif function is np.maximum and not np.isnan(numbers[n][element]):
            read = [i for i in at if numbers[i][element] == numbers[n][element]]
        wrong = [i for i in read if not np.isfinite(numbers[i][element])]
        if wrong:
            waiting += wrong
        else:
            found.add(n)
    return found


@pytest.mark.parametrize("size", [1, 4, 40])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_random_programs(rng, size):
    blamed = 0
    for _ in range(60):
        steps = program(rng, 25)
        recording = tg.record(lambda x, y, steps=steps: run(steps, x, y)[-1], np.ones(size), np.ones(size))
        for _ in range(4):
            x, y = rng.normal(size=(2, size)) * 3.0
            if rng.random() < 0.2:
                x[rng.integers(size)] = np.nan
            numbers = run(steps, x, y)
            found = recording.blame(x, y, argnums=None, lines=False)
            bad = np.flatnonzero(~np.isfinite(numbers[-1]))
            if not len(bad):
                assert found is None
                continue
            blamed += 1
            by_element = {int(e): min(origins(steps, numbers, len(numbers) - 1, e)) for e in bad}
            first = min(by_element.values())
            assert found.given == (first < 2)
            name = found.name.removeprefix("argument ") if found.given else found.result.name
            assert name.split("[")[0] == (("x", "y")[first] if first < 2 else f"n{first}")
            where = found.index[0] if found.index else 0
            assert by_element[where] == first
    assert blamed > 60


# ---- the way back ------------------------------------------------------------------------------------------

PARTIALS = {
    np.log: lambda z, x: (1.0 / x,),
    np.sqrt: lambda z, x: (0.5 / z,),
    np.exp: lambda z, x: (z,),
    np.square: lambda z, x: (2.0 * x,),
    np.negative: lambda z, x: (-1.0,),
    np.arcsin: lambda z, x: (1.0 / np.sqrt((1.0 - x) * (1.0 + x)),),
    np.reciprocal: lambda z, x: (-z * z,),
    np.tanh: lambda z, x: ((1.0 - z) * (1.0 + z),),
    np.add: lambda z, x, y: (1.0, 1.0),
    np.subtract: lambda z, x, y: (1.0, -1.0),
    np.multiply: lambda z, x, y: (y, x),
    np.divide: lambda z, x, y: (1.0 / y, -z / y),
    np.maximum: lambda z, x, y: ((x > y) + 0.5 * (x == y), (y > x) + 0.5 * (x == y)),
}


def contributions(steps, numbers, n, adjoint):
    """What a step adds to the adjoints of its operands: pairs (operand, number)."""
    function, at = steps[n - 2]
    if adjoint == 0.0:
        return []
    if function is None:
        return [(at[1] if numbers[at[0]] > 0.0 else at[2], adjoint)]
    partials = PARTIALS[function](numbers[n], *[numbers[i] for i in at])
    chosen = function is not np.maximum
    return [(i, adjoint * p) for i, p in zip(at, partials) if chosen or p != 0.0]


def origin_back(steps, numbers):
    """The last step that has made the adjoint of an input wrong, itself having a finite one; None if none is wrong."""
    adjoints = [0.0] * len(numbers)
    adjoints[-1] = 1.0
    for n in range(len(numbers) - 1, 1, -1):
        for i, more in contributions(steps, numbers, n, adjoints[n]):
            adjoints[i] += more
    leads = {i for i in (0, 1) if not np.isfinite(adjoints[i])}
    first = None
    for n in range(2, len(numbers)):
        wrong = [i for i, more in contributions(steps, numbers, n, adjoints[n]) if not np.isfinite(more) and i in leads]
        if wrong and np.isfinite(adjoints[n]):
            first = n
        elif wrong:
            leads.add(n)
    return first


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_random_gradients(rng):
    blamed = 0
    for _ in range(500):
        steps = program(rng, 8)
        recording = tg.record(lambda x, y, steps=steps: run(steps, x, y)[-1], 1.0, 1.0)
        for x, y in [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (0.0, 0.0)]:
            numbers = run(steps, x, y)
            if not np.isfinite(numbers[-1]):
                continue
            found = recording.blame(x, y, argnums=(0, 1), lines=False)
            expected = origin_back(steps, numbers)
            assert (found is None) == (expected is None)
            if found is not None:
                blamed += 1
                assert (found.sweep, found.result.name) == ("reverse", f"n{expected}")
    assert blamed > 40
