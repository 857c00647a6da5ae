"""Families of distributions: what `stats` makes its distributions of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.adjoint.evaluation import holds_values
from tapegrad.calls import stop_gradient
from tapegrad.errors import UnsupportedError
from tapegrad.flow import where
from tapegrad.functions import stack
from tapegrad.functions.registry import holds_value
from tapegrad.value import Value

__all__ = ["Continuous", "Discrete", "Frozen"]

_Rule = Callable[..., Any]


def _given(*xs: Any) -> list[Any]:
    """Arguments as Values, numbers and arrays; whole numbers become floats, of the dtype of the Values."""
    dtypes = [x.dtype for x in xs if isinstance(x, Value)]

    def one(x: Any) -> Any:
        if isinstance(x, Value | float):
            return x
        if holds_value(x):
            return x if isinstance(x, np.ndarray) else stack(x)
        array = np.asarray(x)
        return np.asarray(array, array.dtype if array.dtype.kind == "f" else dtypes[0] if dtypes else float)[()]

    return [one(x) for x in xs]


def of_plain_numbers(what: str, family: Any, name: str) -> Any:
    """A method of a family of SciPy's, such as `rvs`, which refuses Values. Raises AttributeError for others."""
    method = getattr(family, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        if holds_values((*args, *kwargs.values())):
            raise UnsupportedError(f"{what}.{name} is not supported on a Value: it has no derivative here")
        return method(*args, **kwargs)

    return call


class Frozen:
    """A family with its parameters: `norm(0.0, 2.0).logpdf(x)` is `norm.logpdf(x, 0.0, 2.0)`."""

    def __init__(self, family: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.family, self._args, self._kwargs = family, args, kwargs

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.family, name)
        if not hasattr(_Family, name) and not hasattr(type(self.family), name):
            # One of SciPy's own.
            return getattr(self.family.scipy(*self._args, **self._kwargs), name)
        if name in ("mean", "var", "std"):
            return lambda: method(*self._args, **self._kwargs)
        return lambda x: method(x, *self._args, **self._kwargs)


class _Family:
    """What continuous and discrete families share: parameters by position or by name, as SciPy takes them."""

    def __init__(self, name: str, shapes: str, rest: tuple[str, ...], valid: _Rule | None = None) -> None:
        self.name, self.shapes = name, tuple(shapes.split())
        self._names, self._valid = (*self.shapes, *rest), valid

    @property
    def scipy(self) -> Any:
        """The family as SciPy has it."""
        from scipy import stats

        return getattr(stats, self.name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return of_plain_numbers(f"stats.{self.name}", self.scipy, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Frozen:
        self._parameters("", args, kwargs)
        return Frozen(self, args, kwargs)

    def _parameters(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any], *first: Any) -> list[Any]:
        """What comes first, then the parameters in order."""
        what = f"{self.name}.{method}" if method else self.name
        if len(args) > len(self._names):
            raise TypeError(f"{what} takes the parameters {', '.join(self._names)}: {len(args)} were given")
        given = dict(zip(self._names, args, strict=False))
        for name, x in kwargs.items():
            if name not in self._names:
                raise TypeError(f"{what} takes the parameters {', '.join(self._names)}, not {name!r}")
            if name in given:
                raise TypeError(f"{what}: {name!r} was given twice")
            given[name] = x
        missing = [name for name in self.shapes if name not in given]
        if missing:
            raise TypeError(f"{what} needs the parameter {', '.join(missing)}")
        return _given(*first, *[given.get(name, 1.0 if name == "scale" else 0.0) for name in self._names])

    def _checked(self, result: Any, shapes: list[Any], *conditions: Any) -> Any:
        """The result, and NaN where parameters are none of the family's."""
        good = [*conditions] if self._valid is None else [self._valid(*shapes), *conditions]
        for condition in good:
            if holds_values((condition,)) or not np.all(condition):
                result = where(condition, result, np.nan)
        return result


def _zero(y: Any) -> Any:
    # 0, and NaN where there is NaN, of the same dtype.
    return where(y != y, y, 0.0)


def _log(p: Any, rest: Any) -> Any:
    # ln p, where p + rest = 1: of the smaller of both, which has all its digits.
    small = p < 0.5
    return where(small, np.log(where(small, p, 0.5)), np.log1p(-where(small, 0.5, rest)))


class Continuous(_Family):
    """A family of distributions with location and scale, given by its standard member.

    Args:
        name: the family's.
        shapes: the names of its other parameters.
        logpdf: the rule for the logarithm of the standard density, of x and the shapes.
        cdf, sf, logcdf, logsf, ppf, isf: the rules for the distribution function, 1 minus it, their logarithms, and
            their inverses. Those that are not given follow from the others.
        support: from where to where the density is not 0.
        inside: a number between.
        moments: the rule for mean and variance, of the shapes.
        valid: the rule that says whether shapes are the family's.
    """

    def __init__(
        self, name: str, shapes: str, logpdf: _Rule, *, cdf: _Rule, sf: _Rule, ppf: _Rule | None = None,
        logcdf: _Rule | None = None, logsf: _Rule | None = None, isf: _Rule | None = None, moments: _Rule,
        support: tuple[float, float] = (-math.inf, math.inf), inside: float = 0.5, valid: _Rule | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, shapes, ("loc", "scale"), valid)
        self.support, self._inside, self._moments = support, inside, moments
        self._rules: dict[str, _Rule | None] = {
            "logpdf": logpdf, "cdf": cdf, "sf": sf, "ppf": ppf, "isf": isf,
            "logcdf": logcdf or (lambda *xs: _log(cdf(*xs), sf(*xs))),
            "logsf": logsf or (lambda *xs: _log(sf(*xs), cdf(*xs))),
        }  # fmt: skip

    def _standard(self, method: str, x: Any, args: Any, kwargs: Any) -> tuple[Any, list[Any], Any]:
        x, *shapes, loc, scale = self._parameters(method, args, kwargs, x)
        return (x - loc) / scale, shapes, scale

    def logpdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the density, -infinity outside of the support; parameters are the shapes, loc and scale."""
        y, shapes, scale = self._standard("logpdf", x, args, kwargs)
        (low, high), rule = self.support, self._rules["logpdf"]
        assert rule is not None
        if (low, high) == (-math.inf, math.inf):
            result = rule(y, *shapes)
        else:
            # Outside, nothing is computed of the number itself, so that no NaN comes back from there.
            at = (y >= low) * (y <= high)
            result = where(at, rule(where(at, y, self._inside), *shapes), _zero(y) - np.inf)
        return self._checked(result - np.log(where(scale > 0.0, scale, 1.0)), shapes, scale > 0.0)

    def pdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The density, 0 outside of the support."""
        return np.exp(self.logpdf(x, *args, **kwargs))

    def _function(self, method: str, below: float, above: float, x: Any, args: Any, kwargs: Any) -> Any:
        y, shapes, scale = self._standard(method, x, args, kwargs)
        (low, high), rule = self.support, self._rules[method]
        assert rule is not None
        at = (y > low) * (y < high)
        out = where(y <= low, _zero(y) + below, _zero(y) + above)
        return self._checked(where(at, rule(where(at, y, self._inside), *shapes), out), shapes, scale > 0.0)

    def cdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The distribution function: the probability of at most x."""
        return self._function("cdf", 0.0, 1.0, x, args, kwargs)

    def sf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of more than x."""
        return self._function("sf", 1.0, 0.0, x, args, kwargs)

    def logcdf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the distribution function."""
        return self._function("logcdf", -math.inf, 0.0, x, args, kwargs)

    def logsf(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of more than x."""
        return self._function("logsf", 0.0, -math.inf, x, args, kwargs)

    def ppf(self, q: Any, *args: Any, **kwargs: Any) -> Any:
        """The inverse of the distribution function."""
        q, *shapes, loc, scale = self._parameters("ppf", args, kwargs, q)
        rule = self._rules["ppf"]
        assert rule is not None
        return self._inverse(q, shapes, loc, scale, rule)

    def isf(self, q: Any, *args: Any, **kwargs: Any) -> Any:
        """The inverse of `sf`."""
        q, *shapes, loc, scale = self._parameters("isf", args, kwargs, q)
        inverse, rule = self._rules["isf"], self._rules["ppf"]
        assert rule is not None
        return self._inverse(q, shapes, loc, scale, inverse or (lambda q, *shapes: rule(1.0 - q, *shapes)))

    def _inverse(self, q: Any, shapes: list[Any], loc: Any, scale: Any, rule: _Rule) -> Any:
        # NaN for what is no probability, with no gradient from there.
        at = (q >= 0.0) * (q <= 1.0)
        if holds_values((at,)) or not np.all(at):
            y = where(at, rule(where(at, q, 0.5), *shapes), np.nan)
        else:
            y = rule(q, *shapes)
        return self._checked(y * scale + loc, shapes, scale > 0.0)

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """The mean."""
        *shapes, loc, scale = self._parameters("mean", args, kwargs)
        return self._checked(loc + scale * self._moments(*shapes)[0], shapes, scale > 0.0)

    def var(self, *args: Any, **kwargs: Any) -> Any:
        """The variance."""
        *shapes, _, scale = self._parameters("var", args, kwargs)
        return self._checked(scale * scale * self._moments(*shapes)[1], shapes, scale > 0.0)

    def std(self, *args: Any, **kwargs: Any) -> Any:
        """The standard deviation."""
        return np.sqrt(self.var(*args, **kwargs))


class Discrete(_Family):
    """A family of distributions on whole numbers from 0 on. No gradient flows to the numbers, at which it jumps.

    Args:
        name, shapes, valid: as of `Continuous`.
        logpmf, cdf, sf: the rules, of k and the shapes.
        high: the rule for the largest number, of the shapes.
        moments: the rule for mean and variance, of the shapes.
    """

    def __init__(
        self, name: str, shapes: str, logpmf: _Rule, *, cdf: _Rule, sf: _Rule, high: _Rule, moments: _Rule, valid: _Rule
    ) -> None:
        super().__init__(name, shapes, ("loc",), valid)
        self._logpmf, self._cdf, self._sf, self._high, self._moments = logpmf, cdf, sf, high, moments

    def _number(self, method: str, k: Any, args: Any, kwargs: Any) -> tuple[Any, list[Any]]:
        k, *shapes, loc = self._parameters(method, args, kwargs, k)
        return stop_gradient(k - loc), shapes

    def logpmf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of k, -infinity where that is 0; parameters are the shapes and loc."""
        k, shapes = self._number("logpmf", k, args, kwargs)
        at = (k >= 0.0) * (k <= self._high(*shapes)) * (k == np.floor(k))
        result = where(at, self._logpmf(where(at, k, 0.0), *shapes), _zero(k) - np.inf)
        return self._checked(result, shapes)

    def pmf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of k."""
        return np.exp(self.logpmf(k, *args, **kwargs))

    def _function(self, method: str, rule: _Rule, below: float, above: float, k: Any, args: Any, kwargs: Any) -> Any:
        k, shapes = self._number(method, k, args, kwargs)
        k, high = np.floor(k), self._high(*shapes)
        at = (k >= 0.0) * (k < high)
        out = where(k < 0.0, _zero(k) + below, _zero(k) + above)
        return self._checked(where(at, rule(where(at, k, 0.0), *shapes), out), shapes)

    def cdf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of at most k."""
        return self._function("cdf", self._cdf, 0.0, 1.0, k, args, kwargs)

    def sf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The probability of more than k."""
        return self._function("sf", self._sf, 1.0, 0.0, k, args, kwargs)

    def logcdf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of at most k."""
        with np.errstate(divide="ignore"):
            return np.log(self.cdf(k, *args, **kwargs))

    def logsf(self, k: Any, *args: Any, **kwargs: Any) -> Any:
        """The logarithm of the probability of more than k."""
        with np.errstate(divide="ignore"):
            return np.log(self.sf(k, *args, **kwargs))

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """The mean."""
        *shapes, loc = self._parameters("mean", args, kwargs)
        return self._checked(loc + self._moments(*shapes)[0], shapes)

    def var(self, *args: Any, **kwargs: Any) -> Any:
        """The variance."""
        *shapes, _ = self._parameters("var", args, kwargs)
        return self._checked(self._moments(*shapes)[1], shapes)

    def std(self, *args: Any, **kwargs: Any) -> Any:
        """The standard deviation."""
        return np.sqrt(self.var(*args, **kwargs))
