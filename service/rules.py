"""Rules that every training record keeps: in words, and which of them a record breaks.

That a broken rule makes a record odd, and how odd, the graph says; here it is told which rule that is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import log

import numpy as np
from numpy.typing import NDArray

from service.encoding import as_written
from service.manifest import Apart, Bounds, Factor, Feature, Level, Pair, Product, Relation, Rules, column_slices

WHOLE = "whole numbers"
LAST_BITS = 1e-6  # of the numbers that a relation adds up: more than float32 leaves
NOTHING = 1e-20  # a bound that is less says that 0 is not reached
WHOLE_MOST = 2.0**24  # beyond, all numbers of float32 are whole
Rows = NDArray[np.bool_]  # (N,)
Breach = tuple[Rows, str]  # which records break a rule, and the rule in words


def in_words(rules: Rules | None, features: Sequence[Feature]) -> list[str]:
    """A line for each rule: bounds and whole numbers, of all features that have the same; pairs, sums, products, and levels that
    never come together.
    """
    if rules is None:
        return []
    by_name = {feature.name: feature for feature in features}
    return [
        *_together((bounds.feature, _ends(bounds)) for bounds in rules.bounds),
        *_together((name, WHOLE) for name in rules.whole),
        *map(_pair, rules.pairs),
        *map(_relation, rules.relations),
        *map(_product, rules.products),
        *(_apart(rule, rule.never, by_name) for rule in rules.apart),
    ]


class Judge:
    """Says which rules of a model records break."""

    def __init__(self, rules: Rules | None, features: Sequence[Feature]) -> None:
        self._rules, self._features = rules, {feature.name: feature for feature in features}
        starts = (at.start for at in column_slices(features))
        self._column = dict(zip(self._features, starts, strict=True))

    def broken(self, x: NDArray[np.float32]) -> list[list[str]]:
        """For each of the records x (N, C), the rules that it breaks, in words: of levels that never meet those it has."""
        told: list[list[str]] = [[] for _ in x]
        if self._rules is not None:
            for rows, words in self._breaches(self._rules, lambda name: x[:, self._column[name]].astype(np.float64)):
                for row in np.flatnonzero(rows).tolist():
                    told[row].append(words)
        return told

    def _breaches(self, rules: Rules, values: Callable[[str], NDArray[np.float64]]) -> Iterator[Breach]:
        """A missing value, which is NaN, breaks no rule: no comparison with it holds."""
        for bounds in rules.bounds:
            yield _beyond(bounds, values(bounds.feature)), f"{bounds.feature}: {_ends(bounds)}"
        for name in rules.whole:
            number = values(name)
            yield (np.abs(number) < WHOLE_MOST) & (number != np.floor(number)), f"{name}: {WHOLE}"
        for pair in rules.pairs:
            yield values(pair.lesser) > values(pair.greater), _pair(pair)
        for relation in rules.relations:
            parts = [by * values(name) for name, by in relation.coefficients.items()]
            yield _differ(parts, relation.value, relation.within), _relation(relation)
        for product in rules.products:
            parts = [one.power * _logarithm(one.base + one.sign * values(one.feature)) for one in product.factors]
            yield _differ(parts, log(product.value), product.within), _product(product)
        for rule in rules.apart:
            rows = _has(values(rule.feature), rule.level)
            if rows.any():
                other = values(rule.other)
                for level in rule.never:
                    yield rows & _has(other, level), _apart(rule, (level,), self._features)


def _beyond(bounds: Bounds, number: NDArray[np.float64]) -> Rows:
    low, high = (-np.inf if bounds.low is None else bounds.low), (np.inf if bounds.high is None else bounds.high)
    return np.asarray((number < low) | (number > high))


def _differ(parts: Sequence[NDArray[np.float64]], value: float, within: float) -> Rows:
    """Whether the sums of parts (N,) are not the value that they should be."""
    bearable = within + LAST_BITS * np.sum(np.abs(parts), axis=0)
    return np.asarray(np.abs(np.sum(parts, axis=0) - value) > bearable)


def _logarithm(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where there is none."""
    return np.log(np.where(numbers > 0, numbers, np.nan))


def _has(values: NDArray[np.float64], level: Level) -> Rows:
    return np.asarray((values >= level[0]) & (values <= level[1]))


def _together(each: Iterable[tuple[str, str]]) -> Iterator[str]:
    """The names of all that have the same rule, and that."""
    names = defaultdict[str, list[str]](list)
    for name, rule in each:
        names[rule].append(name)
    return (f"{', '.join(them)}: {rule}" for rule, them in names.items())


def _ends(bounds: Bounds) -> str:
    low, high = bounds.low, bounds.high
    at_least = None if low is None else "more than 0" if 0 < low < NOTHING else f"{_written(low)} or more"
    at_most = None if high is None else "less than 0" if -NOTHING < high < 0 else f"{_written(high)} or less"
    ends = [end for end in (at_least, at_most) if end is not None]
    plain = all(end.endswith(("more", "less")) for end in ends)
    if low is not None and high is not None and plain:
        return f"from {_written(low)} to {_written(high)}"
    return ", ".join(ends)


def _written(value: float) -> str:
    """In the digits of float32."""
    return f"{as_written(value):.9g}"


def _pair(pair: Pair) -> str:
    return f"{pair.lesser} never above {pair.greater}"


def _relation(relation: Relation) -> str:
    """net + tax - gross is 0, within 0.02."""
    parts = [("-" if by < 0 else "+", f"{abs(by):.5g} {name}".removeprefix("1 ")) for name, by in relation.coefficients.items()]
    total = " ".join(word for part in parts for word in part).removeprefix("+ ")
    value = relation.value if abs(relation.value) > 2 * relation.within else 0  # less is nothing but rounding
    return f"{total} is {value:.6g}, within {relation.within:.2g}"


def _product(product: Product) -> str:
    """quantity × price / total is 1, within 0.02 %."""
    above = " × ".join(_factor(factor) for factor in product.factors if factor.power > 0)
    total = " / ".join([above or "1", *(_factor(factor) for factor in product.factors if factor.power < 0)])
    return f"{total} is {product.value:.6g}, within {100 * product.within:.2g} %"


def _factor(factor: Factor) -> str:
    plain = factor.feature if not factor.base else f"({factor.base:g} {'+' if factor.sign > 0 else '-'} {factor.feature})"
    return plain if abs(factor.power) == 1 else f"{plain}^{abs(factor.power)}"


def _apart(rule: Apart, never: Sequence[Level], features: dict[str, Feature]) -> str:
    own, other = features[rule.feature], features[rule.other]
    return f"{rule.feature} {_level(own, rule.level)}: never with {rule.other} {', '.join(_level(other, one) for one in never)}"


def _level(feature: Feature, level: Level) -> str:
    low, high = level
    if feature.kind == "boolean":
        return "true" if low else "false"
    if feature.kind == "numeric":
        return _written(low)
    known = len(feature.categories)
    if low == high:
        return str(feature.categories[int(low)]) if low < known else "a new one"
    return "a rare or new one" if high == known else "a rare one"
