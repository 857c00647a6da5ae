"""Random programs in lanes: values and gradients are those of the same derivative, recorded for one lane alone."""

import warnings

import numpy as np
import pytest
from random_programs.holding import FLOW, whole
from random_programs.writing import write

import tapegrad as tg
from tapegrad import pytree


@pytest.mark.parametrize("first", range(0, 60, 20))
@pytest.mark.parametrize("on_tape", [False, True])
def test_lanes_are_as_alone(first, on_tape):
    compared = 0
    for number in range(first, first + 20):
        program = write(7, number)
        loss = program.functions(**FLOW)["loss"]
        wanted = tuple(i for i, x in enumerate(program.points[0]) if not whole(x))
        both = tg.value_and_grad(loss, argnums=wanted)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                alone = [pytree.flatten(tg.record(both, *point)(*point))[0] for point in program.points]
            except (tg.errors.UnsupportedError, IndexError):
                continue
            flat = [pytree.flatten(tuple(point)) for point in program.points]
            lanes = [np.stack([np.asarray(leaves[i]) for leaves, _ in flat]) for i in range(len(flat[0][0]))]
            args = pytree.unflatten(flat[0][1], lanes)
            batch = tg.vmap(both)
            if on_tape:
                batch = tg.record(lambda *args, batch=batch: batch(*args), *args)
            found = pytree.flatten(batch(*args))[0]
        close = 1e-10 if program.dtype == np.float64 else 2e-4
        for lane, wanted_ in enumerate(alone):
            for x, y in zip(found, wanted_, strict=True):
                size = np.abs(np.asarray(y)[np.isfinite(y)]).max(initial=1.0)
                np.testing.assert_allclose(x[lane], y, rtol=close, atol=close * size, err_msg=program.text)
                compared += 1
    assert compared > 60
