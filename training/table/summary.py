"""How a table was understood, in lines for a terminal: told before the training, which takes its time."""

from __future__ import annotations

import math
from collections.abc import Iterator

from service.manifest import Feature
from training.data import Dataset
from training.options import KINDS

TOLD = 0.005  # the least share of missing values that is worth a word


def lines(dataset: Dataset) -> Iterator[str]:
    """A line a kind with its columns, one a column that was left out, one a warning; values only of what did not fit."""
    for kind in KINDS:
        columns = [_column(feature) for feature in dataset.features if feature.kind == kind]
        if columns:
            yield f"{kind}: {', '.join(columns)}"
    for dropped in dataset.dropped:
        yield f"left out: column '{dropped.column}': {dropped.reason}"
    for warning in dataset.warnings:
        yield f"warning: {warning}"
    for column, values in dataset.strays.items():
        yield f"what did not fit in column {column}: {values}"


def _column(feature: Feature) -> str:
    if feature.missing_rate < TOLD:
        return feature.name
    percent = 100 * feature.missing_rate
    share = f"{percent:.0f}" if percent < 99.5 else f"{math.floor(10 * percent) / 10}"  # some are there
    return f"{feature.name} ({share} % missing)"
