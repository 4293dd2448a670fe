"""From scores to the bytes of a 200, piece by piece: float32 numbers keep their own digits, and no dict is built on the way."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
import orjson
from numpy.typing import NDArray

from service.batch import Batch, Change
from service.calibration import SEVERITIES
from service.contributions import NOTHING, Explainer, floats
from service.detector import Scores
from service.encoding import Limits
from service.errors import not_scorable
from service.manifest import Manifest
from service.rules import Judge
from service.what_if import WhatIf

NO_WARNINGS = b"[]"
VERDICTS = (b"false", b"true")
RESULT = (
    b'{"score":%b,"p_value":%b,"is_anomaly":%b,"severity":"%b","elbo":%b,"reconstruction_error":%b,'
    b'"contributions":%b,"warnings":%b}'
)
BROKEN = b'%b,"broken_rules":%b}'
SEVERITY_NAMES = tuple(name.encode() for name in SEVERITIES)


class Writer:
    """Writes the answers of one model."""

    def __init__(self, manifest: Manifest, version: str) -> None:
        self._explainer = Explainer(manifest)
        self._limits = Limits(manifest.features)
        self._judge = Judge(manifest.rules, manifest.features)
        begin = b'{"model":%b,"version":%b,"score_kind":%b,"alpha":' % tuple(
            orjson.dumps(text) for text in (manifest.name, version, manifest.score_kind)
        )
        self._head_at = lru_cache(8)(
            lambda alpha, threshold: b'%b%b,"threshold":%b,"results":' % (begin, orjson.dumps(alpha), _float(threshold))
        )

    def write(self, batch: Batch, scores: Scores) -> tuple[bytes, dict[str, int]]:
        """The answer, and how many warnings of each code it holds. Raises the 422 where a score is not finite."""
        if batch.columnar:
            return self.head(scores) + self._columns(batch, scores), {}
        results, warnings = self.records(batch, scores)
        return b"%b[%b]}" % (self.head(scores), b",".join(results)), warnings

    def lines(self, batch: Batch, scores: Scores) -> tuple[bytes, dict[str, int]]:
        """As `write`, but of records alone, a result a line."""
        results, warnings = self.records(batch, scores)
        return b"\n".join(results) + b"\n", warnings

    def head(self, scores: Scores) -> bytes:
        """The answer up to its results. The threshold has the digits of float32, as the scores do: so that whoever compares
        the two as they are written agrees with is_anomaly."""
        return self._head_at(scores.alpha, scores.threshold)

    def records(self, batch: Batch, scores: Scores, what_if: WhatIf | None = None) -> tuple[list[bytes], dict[str, int]]:
        """The result of each record, and how many warnings of each code they hold. Raises the 422. what_if: of explained records,
        which are also told the rules that they break."""
        if len(scores.score) == 1 and batch.normal and not len(scores.explained):
            return [_plain(batch, scores)], {}
        score, p_value = _finite(batch, scores), floats(scores.p_value)
        reasons = dict(zip(scores.explained.tolist(), self._explainer.write(batch, scores, what_if), strict=True))
        warnings, counts = ({}, {}) if batch.normal else write_warnings(self._limits, batch.x, batch.changed)
        flags, levels = scores.is_anomaly.tolist(), scores.severity.tolist()
        elbos, errors = floats(scores.elbo), floats(scores.reconstruction_error)
        results = [
            RESULT
            % (s, p, VERDICTS[flag], SEVERITY_NAMES[level], elbo, error, reasons.get(i, NOTHING), warnings.get(i, NO_WARNINGS))
            for i, (s, p, flag, level, elbo, error) in enumerate(zip(score, p_value, flags, levels, elbos, errors, strict=True))
        ]
        if what_if is not None:
            broken = self._judge.broken(batch.x)
            results = [BROKEN % (result[:-1], orjson.dumps(rules)) for result, rules in zip(results, broken, strict=True)]
        return results, counts

    def _columns(self, batch: Batch, scores: Scores) -> bytes:
        """Lists instead of objects; contributions only where there are any, null for the records without."""
        _finite(batch, scores)
        score, p_value, is_anomaly = (
            orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
            for values in (scores.score, scores.p_value, scores.is_anomaly)
        )
        contributions = b""
        if len(scores.explained):
            reasons = dict(zip(scores.explained.tolist(), self._explainer.write(batch, scores), strict=True))
            contributions = b',"contributions":[%b]' % b",".join([reasons.get(row, NOTHING) for row in range(len(batch.x))])
        return b'{"score":%b,"p_value":%b,"is_anomaly":%b%b}}' % (score, p_value, is_anomaly, contributions)


def write_warnings(limits: Limits, x: NDArray[np.float32], changed: Iterable[Change]) -> tuple[dict[int, bytes], dict[str, int]]:
    """The JSON of the warnings by row of x (N, C), for the rows that have any; and their number by code."""
    told, counts, oddities = {}, dict[str, int](), limits.oddities(x)
    for row, column, code in changed:
        oddities[row].append((column, code))
    for row, odd in enumerate(oddities):
        if odd:
            told[row] = orjson.dumps([{"feature": feature, "code": code} for feature, code in odd])
            for _, code in odd:
                counts[code] = counts.get(code, 0) + 1
    return told, counts


def _plain(batch: Batch, scores: Scores) -> bytes:
    """The result of a single record without reasons or warnings, as most requests are answered: in as few steps as it can be."""
    score, elbo, error = map(_float, (scores.score[0], scores.elbo[0], scores.reconstruction_error[0]))
    if score == NOTHING:
        _finite(batch, scores)
    verdict, severity = VERDICTS[int(scores.is_anomaly[0])], SEVERITY_NAMES[scores.severity[0]]
    return RESULT % (score, orjson.dumps(float(scores.p_value[0])), verdict, severity, elbo, error, NOTHING, NO_WARNINGS)


def _float(value: float) -> bytes:
    """A number as JSON, in the digits of float32."""
    return orjson.dumps(np.float32(value), option=orjson.OPT_SERIALIZE_NUMPY)


def _finite(batch: Batch, scores: Scores) -> list[bytes]:
    """The scores as JSON; raises the 422 that names the records without a finite one."""
    score = floats(scores.score)
    if NOTHING in score:
        loc = "columns[{}]" if batch.columnar else "records[{}]"
        raise not_scorable([loc.format(batch.first + row) for row, text in enumerate(score) if text == NOTHING])
    return score
