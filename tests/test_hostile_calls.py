"""Every public function, called with things that it does not take: it answers, or raises an exception that says so.

Ours, or Python's and NumPy's for a wrong type or value; never one that says that our code went on with something that
it cannot use, such as AttributeError, and never a crash. What SciPy says of plain arguments is its own affair.
"""

import importlib
import inspect
import itertools
import warnings

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import TapegradError

# Classes that users get and do not make, modules, and what changes a setting.
PASSED_OVER = {"Blame", "CFunction", "ComplexValue", "Drawing", "Parting", "Profile", "Recording", "set_memory_limit"}
SCIPY = [f"tapegrad.scipy.{name}" for name in ("integrate", "interpolate", "linalg", "signal", "special", "stats")]
MODULES = ["tapegrad", "tapegrad.debugging", "tapegrad.inspect", "tapegrad.optimize", "tapegrad.sparse", *SCIPY]


def hostile():
    return {
        "None": None, "text": "text", "object": object(), "complex": np.array([1j]), "strings": np.array(["a"]),
        "nan": float("nan"), "negative": -3, "empty": np.zeros(0), "zero long axis": np.ones((2, 0, 3)),
        "Value": Value(np.ones((2, 3))), "empty Value": Value(np.zeros((0, 3))), "scalar Value": Value(2.0),
        "function": lambda *a: 0.0, "dict": {"a": 1}, "ragged": [1, [2, 3]], "infinity": np.inf,
        "objects": np.array([None, 1.0], dtype=object), "type": int, "vector": np.ones(3),
    }  # fmt: skip


def functions():
    for module in MODULES:
        space = importlib.import_module(module)
        for name in space.__all__:
            f = getattr(space, name)
            if callable(f) and name not in PASSED_OVER:
                yield module, name


def positional(f):
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        return 2
    return max(1, min(3, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)))


SAYS_SO = TapegradError, TypeError, ValueError, ArithmeticError, LookupError, OSError


@pytest.mark.parametrize(("module", "name"), list(functions()))
def test_hostile_arguments_are_answered_or_refused(module, name):
    f = getattr(importlib.import_module(module), name)
    count = positional(f)
    foreign = []
    given = hostile()
    for names in itertools.product(given, repeat=min(count, 2)):
        args = [given[n] for n in names]
        args += args[-1:] * (count - len(args))
        plain = module in SCIPY and not any(isinstance(x, Value) for x in args)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                f(*args)
                tg.current_tape().evaluate()
            except SAYS_SO:
                pass
            except Exception as error:
                if not plain:
                    foreign.append(f"{names}: {type(error).__name__}: {error}"[:160])
    assert not foreign, f"{len(foreign)} of them:\n" + "\n".join(foreign[:12])
    x = Value(np.array([1.0, 2.0]))
    np.sum(x * x).backward()
    assert x.grad.tolist() == [2.0, 4.0]
