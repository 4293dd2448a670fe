"""What the training records looked like, feature by feature: the counts that the service compares live records with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature, Reference, column_slices

CELLS = 10  # of a number: each has about a tenth of the records, unless one value alone has more


def with_reference(features: Sequence[Feature], x: NDArray[np.float32]) -> tuple[Feature, ...]:
    """The features, each with the reference of all normal records x (N, C) of the table, held out or not."""
    return tuple(
        feature.model_copy(update={"reference": reference(feature, x[:, at.start])})
        for feature, at in zip(features, column_slices(features), strict=True)
    )


def reference(feature: Feature, column: NDArray[np.float32]) -> Reference:
    """The counts of a feature's column (N,), the first where it has several, NaN for missing.

    Of a datetime only what is missing: the clock moves on, so that no hour or month of live records is that of training ones.
    """
    there = column[~np.isnan(column)]
    records, missing = len(column), len(column) - len(there)
    if feature.kind == "datetime":
        return Reference(records=records, missing=missing)
    if feature.kind == "numeric":
        bounds = deciles(there)
        counts = np.bincount(np.searchsorted(bounds, there), minlength=len(bounds) + 1)
        return Reference(records=records, missing=missing, bounds=tuple(bounds.tolist()), counts=tuple(counts.tolist()))
    cells = len(feature.categories) if feature.kind == "categorical" else 2
    counts = np.bincount(there.astype(np.int64), minlength=cells + 1)
    return Reference(records=records, missing=missing, unknown=int(counts[cells]), counts=tuple(counts[:cells].tolist()))


def deciles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The distinct values (b,), 9 at most, below or at which each next tenth of values (N,) ends; the largest is none of them."""
    shares = np.arange(1, CELLS) / CELLS
    bounds = np.unique(np.quantile(values, shares, method="inverted_cdf")) if len(values) else values
    return bounds[bounds < values.max()] if len(values) else bounds
