"""The rules that every training record keeps, as the manifest tells them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from service.manifest import Apart, Bounds, Factor, Feature, Level, Pair, Product, Relation, Rules
from training.preprocessing import FLOAT32_MOST, Preprocessing
from training.rules.products import Products
from training.rules.relations import Relations
from training.rules.rule_set import RuleSet

APART_MOST = 1_000  # levels that never come with some others, told at most


def describe_rules(rules: RuleSet, preprocessing: Preprocessing, features: Sequence[Feature]) -> Rules:
    """What a reader of the bundle must know of them."""
    numbers = [feature.name for feature in features if feature.kind == "numeric"]
    return Rules(
        bounds=_bounds(rules, numbers),
        whole=tuple(numbers[place] for place in torch.nonzero(rules.whole)[:, 0].tolist()),
        pairs=_pairs(rules, numbers),
        relations=tuple(_relations(rules.relations, numbers)),
        products=tuple(product for products in rules.products for product in _products(products, numbers)),
        apart=_apart(rules, preprocessing, features)[:APART_MOST],
    )


def _bounds(rules: RuleSet, numbers: Sequence[str]) -> tuple[Bounds, ...]:
    ends = zip(numbers, rules.low.tolist(), rules.high.tolist(), strict=True)
    most = float(torch.tensor(FLOAT32_MOST))
    return tuple(
        Bounds(feature=name, low=low if low > -most else None, high=high if high < most else None)
        for name, low, high in ends
        if low > -most or high < most
    )


def _pairs(rules: RuleSet, numbers: Sequence[str]) -> tuple[Pair, ...]:
    if rules.pairs is None:
        return ()
    both = zip(rules.pairs.lesser.tolist(), rules.pairs.greater.tolist(), strict=True)
    return tuple(Pair(lesser=numbers[lesser], greater=numbers[greater]) for lesser, greater in both)


def _relations(relations: Relations | None, numbers: Sequence[str]) -> tuple[Relation, ...]:
    """Each in whole coefficients where it has these, else with 1 as its largest; the first is positive."""
    told = (_told(*one, numbers, _unit(one[0])) for one in _each(relations))
    return tuple(Relation(coefficients=coefficients, value=value, within=within) for coefficients, value, within in told)


def _products(products: Products, numbers: Sequence[str]) -> Iterator[Product]:
    """Each with a positive first power."""
    makes = list(zip(products.column.tolist(), products.base.tolist(), products.sign.tolist(), strict=True))
    for powers, bias, rest in _each(products.relations):
        unit = _unit(powers)
        factors = [
            Factor(feature=numbers[column], power=round(power / unit), base=base, sign=1 if sign > 0 else -1)
            for power, (column, base, sign) in zip(powers.tolist(), makes, strict=True)
            if power
        ]
        yield Product(factors=tuple(factors), value=math.exp(-bias / unit), within=rest)


def _each(relations: Relations | None) -> Iterator[tuple[Tensor, float, float]]:
    """Coefficients (W,), bias and rest of each."""
    if relations is not None:
        yield from zip(relations.weight.T, relations.bias.tolist(), relations.rest.tolist(), strict=True)


def _unit(weight: Tensor) -> float:
    """What coefficients (W,) are told in units of."""
    sign = float(weight[weight != 0][0].sign())
    return sign if bool((weight == weight.round()).all()) else sign * float(weight.abs().max())


def _told(weight: Tensor, bias: float, rest: float, numbers: Sequence[str], unit: float) -> tuple[dict[str, float], float, float]:
    """Coefficients by name, the value of their sum and how far it may be off, in units of one of them."""
    coefficients = {numbers[j]: float(weight[j]) / unit for j in torch.nonzero(weight)[:, 0].tolist()}
    return coefficients, -bias / unit, rest / abs(unit)


def _apart(rules: RuleSet, preprocessing: Preprocessing, features: Sequence[Feature]) -> tuple[Apart, ...]:
    """One for each level and each other feature some of whose levels it never comes with."""
    every = _levels(rules, preprocessing, features)
    levels = [every[place] for place in rules.apart.levels.tolist()]
    never = defaultdict[tuple[str, Level, str], list[Level]](list)
    for i, j in torch.nonzero(rules.apart.never.triu()).tolist():
        other, level = levels[j]
        never[*levels[i], other].append(level)
    return tuple(
        Apart(feature=feature, level=level, other=other, never=tuple(them)) for (feature, level, other), them in never.items()
    )


def _levels(rules: RuleSet, preprocessing: Preprocessing, features: Sequence[Feature]) -> list[tuple[str, Level]]:
    """Feature and values of what RuleSet counts as levels, in its order."""
    names = defaultdict[str, list[str]](list)
    for feature in features:
        names[feature.kind].append(feature.name)
    told: list[tuple[str, Level]] = [(name, (truth, truth)) for truth in (1.0, 0.0) for name in names["boolean"]]
    few = zip(rules.apart.few.tolist(), rules.apart.few_value.tolist(), strict=True)
    told += [(names["numeric"][place], (value, value)) for place, value in few]
    owners = [names["categorical"][group] for group in preprocessing.slot_group.tolist()]
    return told + list(zip(owners, _codes(preprocessing), strict=True))


def _codes(preprocessing: Preprocessing) -> list[Level]:
    """From which to which code each one-hot slot stands for: one for its own, more for all rare ones, the last for new ones."""
    level, group = preprocessing.slot_level, preprocessing.slot_group
    shared, new = preprocessing.shared[group], preprocessing.unknown[group]
    low = torch.where(level > shared, new, level)
    high = torch.where(level == shared, new - preprocessing.beyond[group], low)
    return list(zip(low.tolist(), high.tolist(), strict=True))
