"""Levels of categories that a record which calibrates must not know of, as a live record's new level is not known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature, column_slices
from training.preprocessing import Preprocessing


def of_training(features: Sequence[Feature], x: NDArray[np.float32], trains: NDArray[np.bool_]) -> tuple[Feature, ...]:
    """The features, whose categories are those alone that records x (N, C) have which train (N,)."""
    told = []
    for feature, at in zip(features, column_slices(features), strict=True):
        if feature.kind == "categorical":
            codes = x[trains, at.start]
            there = np.bincount(codes[~np.isnan(codes)].astype(int), minlength=len(feature.categories) + 1)[:-1] > 0
            kept = tuple(category for category, is_there in zip(feature.categories, there, strict=True) if is_there)
            feature = feature.model_copy(update={"categories": kept}) if kept else feature  # noqa: PLW2901
        told.append(feature)
    return tuple(told)


def recode(x: NDArray[np.float32], before: Sequence[Feature], after: Sequence[Feature]) -> NDArray[np.float32]:
    """x (N, C) by the codes of other features of the same names; a level that these do not have is unknown."""
    x = x.copy()
    for old, new, at in zip(before, after, column_slices(before), strict=True):
        if old.categories != new.categories:
            places = {category: place for place, category in enumerate(new.categories)}
            codes = np.array([places.get(category, len(places)) for category in (*old.categories, None)], np.float32)
            there = ~np.isnan(x[:, at.start])
            x[there, at.start] = codes[x[there, at.start].astype(int)]
    return x


def without_their_own(preprocessing: Preprocessing, x: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Those of training records x (N, C) at `rows` (n,), in which a level that no other record has is unknown."""
    told = x[rows]
    for column, unknown in zip(preprocessing.category.tolist(), preprocessing.unknown.tolist(), strict=True):
        codes = x[:, column]
        counts = np.bincount(codes[~np.isnan(codes)].astype(int), minlength=1)
        there = np.flatnonzero(~np.isnan(told[:, column]))
        told[there[counts[told[there, column].astype(int)] == 1], column] = unknown
    return told
