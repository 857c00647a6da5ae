"""What the inputs and results of a recording are called."""

from __future__ import annotations

import inspect

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input
from tapegrad.inspect.reading import Reader
from tapegrad.inspect.text import number
from tapegrad.layout import Layout
from tapegrad.recording import Recording
from tapegrad.tape import Operand

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def argument_names(recording: Recording) -> dict[int, str]:
    """What a recorded function calls its inputs, by place in the arena: `x`, `params['w']`, `layers[0].bias`."""
    try:
        given = [p.name for p in inspect.signature(recording.f).parameters.values() if p.kind in _POSITIONAL]
    except (TypeError, ValueError):  # some callables do not tell
        given = []
    paths: list[str] = []
    for n, node in enumerate(pytree.children(recording.spec.structure)):
        paths.extend(pytree.paths(node, given[n] if n < len(given) else f"argument{n}"))
    names, place = {}, 0
    for path, leaf in zip(paths, recording.spec.leaves, strict=True):
        if isinstance(leaf, Input):
            size = int(np.prod(leaf.shape, dtype=int))
            if size:
                names[place] = path
            place += size
    return names


def returned(reader: Reader, recording: Recording) -> str:
    """The listing's last line: what a recording returns."""
    names = []
    for output in recording.program.code.outputs:
        if output.places is None:
            constant = isinstance(output.constant, int | float)
            names.append(number(output.constant) if constant else type(output.constant).__name__)
        else:
            places = [int(place) for place in output.places]
            owner = reader.instruction(reader.row_of(places[0]))
            step = places[1] - places[0] if len(places) > 1 else 1
            regular = places == list(range(places[0], places[0] + step * len(places), step)) if step else False
            if regular:
                names.append(reader.operand(Operand(places[0], Layout((len(places),), (step,)))))
            else:
                names.append(f"{len(places)} numbers of {reader.name(owner.out, owner.count)}")
    return f"returns {', '.join(names) or 'nothing'}"
