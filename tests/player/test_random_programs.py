"""Random programs in the player: nothing is refused that can be recorded, and adjoints end as the gradient."""

import json
import warnings

import numpy as np
import pytest
from random_programs.holding import FLOW, whole
from random_programs.writing import write

import tapegrad as tg
from tapegrad import pytree
from tapegrad.player.page import html_of


def adjoints(page):
    """The final adjoints of the inputs, in the order of the arguments."""
    found = {n: [0.0] * e["count"] for n, e in enumerate(page["entries"]) if e["kind"] == "input"}
    for seed in page["seeds"]:
        found[seed["to"]] = seed["after"]
    for step in page["reverse"]:
        found |= {part["to"]: part["after"] for part in step["parts"] if "to" in part}
    inputs = [n for n, e in enumerate(page["entries"]) if e["kind"] == "input"]
    return [np.array([float(x) for x in np.atleast_1d(found[n])]) for n in inputs]


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_adjoints_end_as_the_gradient(first):
    compared = 0
    for number in range(first, first + 20):
        program = write(3, number)
        loss = program.functions(**FLOW)["loss"]
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                recording = tg.record(loss, *program.points[0])
                point = program.points[1]
                wanted = recording.grad(*point, argnums=tuple(i for i, x in enumerate(point) if not whole(x)))
            except tg.errors.TapegradError:
                continue  # Something that cannot be recorded.
            text = html_of(recording, point, limit=30, numbers=10_000, source=number % 5 == 0)
        page = json.loads(text.split('id="data">')[1].split("</script>")[0])
        found = adjoints(page)
        own = [np.asarray(x, float).reshape(-1) for x in pytree.flatten(wanted)[0]]
        whole_numbers = [whole(x) for x in pytree.flatten(point)[0]]
        floats = [x for x, skip in zip(found, whole_numbers, strict=True) if not skip]
        tolerance = 1e-3 if program.dtype == np.float32 else 1e-9
        for a, b in zip(floats, own, strict=True):
            scale = 1.0 + np.nan_to_num(np.abs(b), posinf=0.0).max(initial=0.0)
            same = np.isclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
            assert same.all(), f"{program.name}\n{program.text}\n{a}\n{b}"
            compared += 1
    assert compared > 20
