"""Columns of whole numbers that number the rows, in whatever order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature, column_slices

UNLIKELY = 10.0  # nats: by chance, so many numbers of that range all differ in less than one of 20,000 tables


def warnings(x: NDArray[np.float32], features: Sequence[Feature]) -> list[str]:
    """What to say of columns of records x (N, C) whose whole numbers all differ, although so few lie between them.

    By chance, n numbers out of a range of r all differ with a probability of about exp(-n^2 / 2r). One that rises from row to
    row has a warning already.
    """
    told = []
    for feature, at in zip(features, column_slices(features), strict=True):
        column = x[:, at.start]
        values = column[~np.isnan(column)]
        if feature.kind != "numeric" or not feature.integer or len(values) < 2:
            continue
        reach = float(values.max()) - float(values.min()) + 1
        if len(values) ** 2 > 2 * UNLIKELY * reach and len(np.unique(values)) == len(values) and (np.diff(values) <= 0).any():
            read = "its whole numbers all differ, although they lie close together, as those of an identifier do"
            told.append(f"column {feature.name}: {read}; if it is one, pass --drop {feature.name}")
    return told
