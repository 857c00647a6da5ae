"""What stands for a `numpy.random.Generator` among the arguments of a function that is recorded."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.carried.carrier import Call, Carrier, carrier_here
from tapegrad.errors import UnsupportedAttributeError, UnsupportedError
from tapegrad.value import Value

# The methods whose numbers follow from the state of the generator and plain arguments.
_METHODS = frozenset([
    "beta", "binomial", "chisquare", "choice", "dirichlet", "exponential", "f", "gamma", "geometric", "gumbel",
    "hypergeometric", "integers", "laplace", "logistic", "lognormal", "logseries", "multinomial",
    "multivariate_hypergeometric", "multivariate_normal", "negative_binomial", "noncentral_chisquare", "noncentral_f",
    "normal", "pareto", "permutation", "permuted", "poisson", "power", "random", "rayleigh", "standard_cauchy",
    "standard_exponential", "standard_gamma", "standard_normal", "standard_t", "triangular", "uniform", "vonmises",
    "wald", "weibull", "zipf",
])  # fmt: skip


def is_generator(x: Any) -> bool:
    """Whether something is a generator of NumPy's. (Its module may not be imported yet: nobody has one then.)"""
    kind = type(x)
    return kind.__name__ == "Generator" and kind.__module__.startswith("numpy.random")


def generators_in(leaves: Iterable[Any]) -> list[Any]:
    """The generators among leaves, each once, in the order in which they are met."""
    found: list[Any] = []
    for leaf in leaves:
        if is_generator(leaf) and all(g is not leaf for g in found):
            found.append(leaf)
    return found


def with_stand_ins(x: Any, carrier: Carrier) -> Any:
    """Something nested, with what draws by way of a carrier in place of each generator."""
    leaves, structure = pytree.flatten(x)
    found = generators_in(leaves)
    if not found:
        return x
    carrier.draw_from(found)
    for i, leaf in enumerate(leaves):
        if is_generator(leaf):
            leaves[i] = RecordedGenerator(carrier, next(n for n, g in enumerate(found) if g is leaf))
    return pytree.unflatten(structure, leaves)


class RecordedGenerator:
    """Draws as a generator does, of which each replay draws anew.

    Args:
        carrier: what has the numbers.
        number: which generator of the arguments it stands for.
    """

    def __init__(self, carrier: Carrier, number: int) -> None:
        self._carrier, self._number = carrier, number

    # `isinstance(rng, np.random.Generator)` holds, as it does for what this stands for.
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return np.random.Generator

    def __repr__(self) -> str:
        return "Generator(of a recording)"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in _METHODS:
            raise UnsupportedAttributeError(
                f"rng.{name} of a generator in a recorded function cannot be carried out at every replay; "
                f"there are {', '.join(sorted(_METHODS))}"
            )

        def draw(*args: Any, **kwargs: Any) -> Any:
            return self._draw(name, args, kwargs)

        return draw

    def _draw(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("out") is not None:
            raise UnsupportedError(f"rng.{method} in a recorded function gives new numbers: leave out= away")
        for x in (*args, *kwargs.values()):
            if isinstance(x, Value) and not x._is_integer:
                raise UnsupportedError(
                    f"rng.{method} takes plain numbers in a recorded function; of rng.normal, rng.uniform and "
                    "rng.exponential the parameters may be Values, of others not"
                )
        if carrier_here(f"rng.{method} is called") is not self._carrier:
            raise UnsupportedError(
                f"rng.{method} is called by a function that each replay calls again: pass what it draws as an argument"
            )
        return self._carrier.draw(Call(self._number, method, _plain(args), _plain(kwargs)))

    # Where parameters are Values, a gradient flows to them: the numbers are those that NumPy draws.

    def normal(self, loc: Any = 0.0, scale: Any = 1.0, size: Any = None) -> Any:
        """Normal numbers; loc and scale may be Values."""
        if not _on_tape(loc, scale):
            return self._draw("normal", (loc, scale, size), {})
        return loc + scale * self._draw("standard_normal", (_shape(size, loc, scale),), {})

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Uniform numbers; low and high may be Values."""
        if not _on_tape(low, high):
            return self._draw("uniform", (low, high, size), {})
        return low + (high - low) * self._draw("random", (_shape(size, low, high),), {})

    def exponential(self, scale: Any = 1.0, size: Any = None) -> Any:
        """Exponentially distributed numbers; scale may be a Value."""
        if not _on_tape(scale):
            return self._draw("exponential", (scale, size), {})
        return scale * self._draw("standard_exponential", (_shape(size, scale),), {})


def _on_tape(*parameters: Any) -> bool:
    return any(isinstance(x, Value) for x in parameters)


def _shape(size: Any, *parameters: Any) -> Any:
    if size is not None:
        return _plain(size)
    return np.broadcast_shapes(*map(np.shape, parameters)) or None


def _plain(x: Any) -> Any:
    """Arguments in which whole numbers are Python's: one that is an argument of the recording is held to its number."""
    if isinstance(x, dict):
        return {name: _plain(y) for name, y in x.items()}
    if isinstance(x, list | tuple):
        return type(x)([_plain(y) for y in x])
    if isinstance(x, np.ndarray):
        return x.copy()
    return operator.index(x) if isinstance(x, int) and not isinstance(x, bool) else x

