"""The rules that every training record keeps, in words, for the report and whoever asks for a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from service.encoding import as_written
from service.manifest import Feature
from training.preprocessing import FLOAT32_MOST, Preprocessing
from training.rules import Rules, RuleSet


def words_of(rules: Rules | None, preprocessing: Preprocessing, features: Sequence[Feature]) -> list[str]:
    """A line for each rule: bounds, whole numbers, relations, and levels that never come together."""
    if rules is None:
        return []
    numbers = [feature.name for feature in features if feature.kind == "numeric"]
    every = rules.every
    whole = [f"{numbers[place]}: whole numbers" for place in torch.nonzero(every.whole)[:, 0].tolist()]
    return [*_bounds(every, numbers), *whole, *_relations(every, numbers), *_pairs(every, preprocessing, features)]


def _bounds(rules: RuleSet, numbers: Sequence[str]) -> list[str]:
    told = []
    ends = (rules.low > -FLOAT32_MOST).tolist(), (rules.high < FLOAT32_MOST).tolist()
    for name, low, high, ends_low, ends_high in zip(numbers, rules.low.tolist(), rules.high.tolist(), *ends, strict=True):
        if ends_low and ends_high:
            told.append(f"{name}: from {as_written(low):g} to {as_written(high):g}")
        elif ends_low or ends_high:
            told.append(f"{name}: {as_written(low):g} or more" if ends_low else f"{name}: {as_written(high):g} or less")
    return told


def _relations(rules: RuleSet, numbers: Sequence[str]) -> list[str]:
    """Each with 1 as its largest coefficient: 1 net + 1 tax - 1 gross is 0, within 0.02."""
    if rules.relations is None:
        return []
    told = []
    for weight, bias, rest in zip(rules.relations.weight.T, rules.relations.bias, rules.relations.rest, strict=True):
        unit = float(weight[weight.abs().argmax()])
        used = [(float(weight[j]) / unit, numbers[j]) for j in torch.nonzero(weight)[:, 0].tolist()]
        (first, name), *others = used
        total = f"{first:.4g} {name}" + "".join(f" {'-' if by < 0 else '+'} {abs(by):.4g} {other}" for by, other in others)
        value, within = -float(bias) / unit, 2 * float(rest) / abs(unit)
        told.append(f"{total} is {value if abs(value) > within else 0:.4g}, within {within:.2g}")
    return told


def _pairs(rules: RuleSet, preprocessing: Preprocessing, features: Sequence[Feature]) -> list[str]:
    """A line for each level and each other feature some of whose levels it never comes with."""
    every = _levels(rules, preprocessing, features)
    levels = [every[place] for place in rules.apart.tolist()]
    never = defaultdict[tuple[str, str], list[str]](list)
    for i, j in torch.nonzero(rules.never.triu()).tolist():
        other, value = levels[j]
        never[" ".join(levels[i]), other].append(value)
    return [f"{level}: never with {other} {', '.join(values)}" for (level, other), values in never.items()]


def _levels(rules: RuleSet, preprocessing: Preprocessing, features: Sequence[Feature]) -> list[tuple[str, str]]:
    """Feature and value of what RuleSet counts as levels, in its order."""
    by_kind = {kind: [feature for feature in features if feature.kind == kind] for kind in ("boolean", "numeric", "categorical")}
    told = [(feature.name, truth) for truth in ("true", "false") for feature in by_kind["boolean"]]
    few = zip(rules.few.tolist(), rules.few_value.tolist(), strict=True)
    told += [(by_kind["numeric"][place].name, f"{as_written(value):g}") for place, value in few]
    group, level, shared = preprocessing.slot_group, preprocessing.slot_level, preprocessing.shared
    for g, slot in zip(group.tolist(), level.tolist(), strict=True):
        feature = by_kind["categorical"][g]
        known = slot < shared[g] and slot < len(feature.categories)
        told.append((feature.name, str(feature.categories[int(slot)]) if known else "of the rarer or new ones"))
    return told
