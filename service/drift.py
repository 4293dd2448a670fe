"""How far live records are from those of the training, feature by feature: counts by cell, and the population stability index.

A feature's cells are those of its reference in the manifest: a tenth of the training records each of a number, the values of a
boolean, the most frequent categories and one cell for the rest, one for unknown categories and one for missing values. Three
questions are asked: are more values missing, are more categories unknown, are values that are there and known spread otherwise?

PSI = sum over cells of (live - reference) * log(live / reference), of shares. Where nothing has changed it is about
(1 / N + 1 / n) times a chi-square variable of one degree less than there are cells, N live and n training records: its limit is
MARGIN and what that variable stays below, in all questions and looks together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature, column_slices

MARGIN = 0.2  # a PSI from which a shift is called a large one, by custom
FALSE_WARNINGS = 0.01  # by chance alone, in LOOKS looks that have nothing in common, over all features
LOOKS = 100_000  # hours, more than eleven years
LEVELS = 20  # the most frequent categories have a cell each
Kind = Literal["values", "missing", "unknown_categories"]
KINDS: tuple[Kind, ...] = ("values", "missing", "unknown_categories")
Counts = NDArray[np.float64]


class Measures(NamedTuple):
    """The answers to one question, of every feature; NaN and infinity where it cannot be asked."""

    psi: Counts  # (F,)
    limit: Counts  # (F,)

    @property
    def warned(self) -> NDArray[np.bool_]:
        """(F,) where the PSI is above its limit."""
        return self.psi > self.limit


class Cells:
    """The cells of all features, W counts each: values, from the least up; unknown categories after them; missing values last."""

    def __init__(self, features: Sequence[Feature]) -> None:
        """Of features that have references."""
        self.columns = np.array([at.start for at in column_slices(features)])  # (F,) of x
        ends = [_ends(feature) for feature in features]
        self._ends = np.full((max(map(len, ends)), len(ends)), np.inf, np.float32)  # (W - 2, F), ends of cells, then infinity
        for place, own in enumerate(ends):
            self._ends[: len(own), place] = own
        self.width = len(self._ends) + 2
        known = [len(own) if feature.categories else len(own) + 1 for feature, own in zip(features, ends, strict=True)]
        self._is_known = np.arange(self.width - 1) < np.array(known)[:, None]  # (F, W - 1)
        # (F,) the cell of unknown categories; -1 where there is none.
        self._unknown = np.array([n if feature.categories else -1 for n, feature in zip(known, features, strict=True)])
        self.reference = np.array([_counts(feature, self.width) for feature in features])  # (F, W)
        self.asked = {kind: (~np.isnan(self._of(kind, self.reference))).sum(1) > 1 for kind in KINDS}  # (F,) each
        questions = sum(int(asked.sum()) for asked in self.asked.values())
        self._doubt = math.log(questions * LOOKS / FALSE_WARNINGS)

    def count(self, x: NDArray[np.float32]) -> Counts:
        """(F, W) how many of the records x (N, C) lie in each cell."""
        values = x[:, self.columns]
        cell = np.zeros(values.shape, np.intp)
        for ends in self._ends:
            cell += values > ends
        cell[np.isnan(values)] = self.width - 1
        cell += np.arange(values.shape[1]) * self.width
        return np.bincount(cell.ravel(), minlength=self.reference.size).reshape(self.reference.shape).astype(np.float64)

    def measures(self, live: Counts, weight: float) -> dict[Kind, Measures]:
        """What the live counts (F, W), in which a record weighs so many, say of each kind of drift."""
        return {kind: self._measure(self._of(kind, live), self._of(kind, self.reference), weight) for kind in KINDS}

    def _of(self, kind: Kind, counts: Counts) -> Counts:
        """(F, cells) what a question compares; NaN where there is no cell."""
        if kind == "values":
            return np.where(self._is_known, counts[:, :-1], np.nan)
        if kind == "missing":
            return np.stack([counts[:, -1], counts[:, :-1].sum(1)], axis=1)
        unknown = np.take_along_axis(counts, self._unknown[:, None], 1)[:, 0]
        known = np.where(self._is_known, counts[:, :-1], 0.0).sum(1)
        return np.where(self._unknown[:, None] >= 0, np.stack([unknown, known], axis=1), np.nan)

    def _measure(self, live: Counts, reference: Counts, weight: float) -> Measures:
        """PSI and limit of counts (F, cells)."""
        freedom, n = (~np.isnan(live)).sum(1) - 1, np.nansum(live, 1)
        asked = (freedom > 0) & (n > 0)
        share, expected = (_shares(counts) for counts in (live, reference))
        psi = np.nansum((share - expected) * np.log(share / expected), axis=1)
        with np.errstate(divide="ignore"):
            noise = 1 / (n * weight) + 1 / np.nansum(reference, 1)
        # Laurent & Massart 2000, lemma 1: a chi-square variable is above this with probability exp(-doubt) at most.
        limit = MARGIN + noise * (freedom + 2 * np.sqrt(np.maximum(freedom, 0) * self._doubt) + 2 * self._doubt)
        return Measures(np.where(asked, psi, np.nan), np.where(asked, limit, np.inf))


def _shares(counts: Counts) -> Counts:
    """Shares of counts (F, cells), each cell with half a record more: an empty one has a share, too."""
    cells = np.maximum((~np.isnan(counts)).sum(1, keepdims=True), 1)
    total: Counts = np.nansum(counts, 1, keepdims=True) + cells / 2
    return (counts + 0.5) / total


def _ends(feature: Feature) -> list[float]:
    """The ends of all cells of a feature but the last of those that its values can lie in."""
    if feature.kind == "numeric":
        return list(feature.reference.bounds) if feature.reference else []
    if feature.kind == "boolean":
        return [0.5]
    if not feature.categories:
        return []
    levels = [code + 0.5 for code in range(min(LEVELS, len(feature.categories) - 1))]
    return [*levels, len(feature.categories) - 0.5]


def _counts(feature: Feature, width: int) -> Counts:
    """The reference in cells (W,)."""
    counts = np.zeros(width)
    told = feature.reference
    if told is None:
        raise ValueError(f"feature {feature.name} has no reference")
    counts[-1] = told.missing
    own = list(told.counts)
    if feature.kind == "datetime":
        own = [told.records - told.missing]
    elif feature.categories and len(own) > LEVELS:
        own = [*own[:LEVELS], sum(own[LEVELS:])]
    counts[: len(own)] = own
    if feature.categories:
        counts[len(own)] = told.unknown
    return counts
