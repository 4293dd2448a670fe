"""Why a record stands out: its terms, largest first, with what the record had and what the model expected."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.batch import Batch
from service.detector import Scores
from service.encoding import decode
from service.errors import printable
from service.manifest import Feature, Manifest, column_slices
from service.structs import ABSENT

NOTHING = b"null"
BLOCK = 512  # records
EXPECTED, CONTRIBUTION = b',"expected":', b',"contribution":'


class Explainer:
    """Writes the contributions of one model's records as JSON."""

    def __init__(self, manifest: Manifest) -> None:
        self._places = list(zip(manifest.features, column_slices(manifest.features), strict=True))
        self._heads = [b'{"feature":%b,"value":' % orjson.dumps(term) for term in manifest.terms]
        self._categories = {f.name: [orjson.dumps(c) for c in f.categories] for f in manifest.features if f.kind == "categorical"}

    def write(self, batch: Batch, scores: Scores) -> list[bytes]:
        """For each of the M explained records, the JSON list of its contributions: a block of records at a time, which stays in
        the cache."""
        told: list[bytes] = []
        for start in range(0, len(scores.explained), BLOCK):
            block = slice(start, start + BLOCK)
            told += self._write(batch, scores.explained[block].tolist(), scores.contributions[block], scores.expected[block])
        return told

    def _write(
        self, batch: Batch, places: list[int], contributions: NDArray[np.float32], normal: NDArray[np.float32]
    ) -> list[bytes]:
        """A feature's objects are made for all these records at once; each record then takes its own, in its own order."""
        m, terms = contributions.shape
        values = [_values(feature, column) for (feature, _), column in zip(self._places, batch.columns(places), strict=True)]
        expected = [self._expected(feature, normal[:, at]) for feature, at in self._places]
        nothing = [[NOTHING] * m] * (terms - len(values))  # the latent term has no value
        told = floats(contributions.ravel())
        objects = [
            list(
                map(b"".join, zip(repeat(head), had, repeat(EXPECTED), usual, repeat(CONTRIBUTION), told[j::terms], repeat(b"}")))
            )
            for j, (head, had, usual) in enumerate(zip(self._heads, values + nothing, expected + nothing, strict=True))
        ]
        order = np.argsort(-contributions, axis=1, kind="stable").tolist()
        return [b"[%b]" % b",".join([own[j] for j in row]) for own, row in zip(zip(*objects, strict=True), order, strict=True)]

    def _expected(self, feature: Feature, columns: NDArray[np.float32]) -> list[bytes]:
        """Columns (M, width) as `decode` tells them, all at once where that is cheap."""
        if feature.kind == "numeric" and not feature.integer:
            return floats(np.ascontiguousarray(columns[:, 0]))
        if feature.kind == "categorical" and not np.isnan(columns).any():
            names = self._categories[feature.name]
            codes = np.rint(columns[:, 0]).astype(np.int64).tolist()
            return [names[code] if 0 <= code < len(names) else NOTHING for code in codes]
        return [orjson.dumps(decode(feature, row)) for row in columns]


def floats(values: NDArray[Any]) -> list[bytes]:
    """Each of the values (N,), one at least, as JSON, in the digits of its own dtype; null for what is not finite."""
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _values(feature: Feature, values: Sequence[Any]) -> list[bytes]:
    """Raw values as JSON."""
    try:
        if feature.kind in ("numeric", "boolean") or feature.integer:
            return orjson.dumps(values)[1:-1].split(b",")
        return [orjson.dumps(value) for value in values]
    except TypeError:  # an integer beyond 64 bits, or a text with half a character: orjson has no way to write them
        return [json.dumps(_writable(value)).encode() for value in values]


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    return None if value is ABSENT else value
