"""Why a record stands out: its terms, largest first, with what the record had and what the model expected."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from service.detector import Scores
from service.encoding import decode
from service.errors import printable
from service.manifest import Feature, Manifest, column_slices
from service.structs import ABSENT
from service.what_if import WhatIf

NOTHING = b"null"
BLOCK = 512  # records
EXPECTED, CONTRIBUTION, END = b',"expected":', b',"contribution":', b"}"
IF_MISSING = b',"if_missing":{"score":%b,"p_value":%b,"expected":%b},"if_expected":%b,"normal_at":%b}'
IF_EXPECTED = b'{"score":%b,"p_value":%b}'


class Records(Protocol):
    """Records, wherever they came from."""

    def columns(self, places: list[int]) -> list[list[Any]]:
        """The raw values in these rows, a list for each feature; None or NaN for missing."""


class Explainer:
    """Writes the contributions of one model's records as JSON."""

    def __init__(self, manifest: Manifest) -> None:
        self._features = manifest.features
        self._places = list(zip(manifest.features, column_slices(manifest.features), strict=True))
        self._plain = [j for j, feature in enumerate(manifest.features) if _is_plain(feature)]
        self._numbers = [at.start for feature, at in self._places if _is_number(feature)]
        self._heads = [b'{"feature":%b,"value":' % orjson.dumps(term) for term in manifest.terms]
        self._categories = {f.name: [orjson.dumps(c) for c in f.categories] for f in manifest.features if f.kind == "categorical"}

    def write(self, records: Records, scores: Scores, what_if: WhatIf | None = None) -> list[bytes]:
        """For each of the M explained records, the JSON list of its contributions: a block of records at a time, which stays in
        the cache. what_if: of these records; then ordered by it.
        """
        told: list[bytes] = []
        for start in range(0, len(scores.explained), BLOCK):
            block = slice(start, start + BLOCK)
            without = None if what_if is None else what_if.of(block)
            reasons = scores.contributions[block], scores.expected[block], scores.alpha, without
            told += self._write(records.columns(scores.explained[block].tolist()), *reasons)
        return told

    def _write(
        self,
        columns: list[list[Any]],
        contributions: NDArray[np.float32],
        normal: NDArray[np.float32],
        alpha: float,
        without: WhatIf | None,
    ) -> list[bytes]:
        """All objects of these records are made at once, feature by feature; each record then takes its own, in its own order."""
        (m, terms), n = contributions.shape, contributions.size
        heads = chain.from_iterable(repeat(head, m) for head in self._heads)
        nothing = [NOTHING] * (m * (terms - len(self._places)))  # the latent term has no value
        values, expected = chain(self._values(columns), nothing), chain(self._expected(normal), nothing)
        told = floats(contributions.T.ravel())
        ends = repeat(END, n) if without is None else chain(self._without(without), repeat(END, len(nothing)))
        pieces = zip(heads, values, repeat(EXPECTED, n), expected, repeat(CONTRIBUTION, n), told, ends, strict=True)
        objects = list(map(b"".join, pieces))
        order = np.argsort(-contributions, axis=1, kind="stable") if without is None else order_of(contributions, without, alpha)
        return [b"[%b]" % b",".join([objects[j + i] for j in row]) for i, row in enumerate((order * m).tolist())]

    def _without(self, what_if: WhatIf) -> Iterator[bytes]:
        """How the objects of a feature's contributions end, feature by feature."""
        scores, p_values = floats(what_if.score.T.ravel()), floats(what_if.p_value.T.ravel())
        others = floats(what_if.expected_score.T.ravel()), floats(what_if.expected_p_value.T.ravel())
        as_expected = (NOTHING if pair[0] == NOTHING else IF_EXPECTED % pair for pair in zip(*others, strict=True))
        told = scores, p_values, self._expected(what_if.expected), as_expected, self._expected(what_if.normal_at)
        return map(IF_MISSING.__mod__, zip(*told, strict=True))

    def _values(self, columns: list[list[Any]]) -> Iterator[bytes]:
        """The raw values, feature by feature, as JSON; those of all that are no texts are written at once."""
        try:
            written = iter(orjson.dumps(list(chain.from_iterable(columns[j] for j in self._plain)))[1:-1].split(b","))
        except TypeError:
            return chain.from_iterable(map(_values, self._features, columns))
        return chain.from_iterable(
            islice(written, len(column)) if _is_plain(feature) else _values(feature, column)
            for feature, column in zip(self._features, columns, strict=True)
        )

    def _expected(self, normal: NDArray[np.float32]) -> Iterator[bytes]:
        """What is expected, from columns (M, C), feature by feature as `decode` tells it; all numbers are written at once."""
        written = iter(floats(normal[:, self._numbers].T.ravel()))
        return chain.from_iterable(
            islice(written, len(normal)) if _is_number(feature) else self._others(feature, normal[:, at])
            for feature, at in self._places
        )

    def _others(self, feature: Feature, columns: NDArray[np.float32]) -> list[bytes]:
        """Columns (M, width) of a feature that is no number with a fraction."""
        if feature.kind == "categorical" and not np.isnan(columns).any():
            names = self._categories[feature.name]
            codes = np.rint(columns[:, 0]).astype(np.int64).tolist()
            return [names[code] if 0 <= code < len(names) else NOTHING for code in codes]
        return [orjson.dumps(decode(feature, row)) for row in columns]


def order_of(contributions: NDArray[np.float32], what_if: WhatIf, alpha: float) -> NDArray[np.intp]:
    """(M, T) in which order contributions (M, T) come: first that of the value but for which the record would be the most normal,
    being missing or as expected; of equal ones the largest. The latent term is the last.

    Where no value alone makes it normal, several are wrong, and each looks better where another one is changed: then the places
    in that order and in that of the contributions count alike.
    """
    m, terms = contributions.shape
    last = np.full((m, terms - what_if.score.shape[1]), np.inf)
    least = np.concatenate([np.fmin(what_if.score, what_if.expected_score), last], axis=1)
    order = np.lexsort((-contributions, least))
    alone = (np.fmax(what_if.p_value, what_if.expected_p_value) > alpha).any(axis=1, keepdims=True)
    by_size = np.argsort(-contributions, axis=1, kind="stable")
    places = order.argsort(axis=1) + by_size.argsort(axis=1) + np.where(np.isinf(least), 2 * terms, 0)
    return np.where(alone, order, np.lexsort((least, places)))


def floats(values: NDArray[Any]) -> list[bytes]:
    """Each of the values (N,), one at least, as JSON, in the digits of its own dtype; null for what is not finite."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _is_plain(feature: Feature) -> bool:
    """Whether its values are no texts."""
    return feature.kind in ("numeric", "boolean") or feature.integer


def _is_number(feature: Feature) -> bool:
    """Whether what is expected of it is a number with a fraction."""
    return feature.kind == "numeric" and not feature.integer


def _values(feature: Feature, values: Sequence[Any]) -> list[bytes]:
    """Raw values as JSON."""
    try:
        if _is_plain(feature):
            return orjson.dumps(values)[1:-1].split(b",")
        return [orjson.dumps(value) for value in values]
    except TypeError:  # an integer beyond 64 bits, or a text with half a character: orjson has no way to write them
        return [json.dumps(_writable(value)).encode() for value in values]


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    return None if value is ABSENT else value
