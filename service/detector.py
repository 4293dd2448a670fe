"""A bundle that scores: the graph's answers, compared with the calibration. The whole of the service's judgement is here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service import calibration
from service.batch import Explain
from service.bundle import Bundle, check_name, current_version, read_bundle
from service.encoding import nameable
from service.manifest import BundleError, Manifest, column_slices
from service.nearest_normal import nearest_normal
from service.placement import Placement
from service.session import Answers, Provider, Session
from service.what_if import WhatIf, with_each, without_each

GOLDEN_RTOL = {"CPUExecutionProvider": 5e-5}  # another build of onnxruntime may add in another order
OTHER_RTOL = 1e-4
EXPECTED_RTOL = 1e-2  # of a value, or of the third largest of its column: a number is off by 8 times what its bend is
EXPECTED_ATOL = 1e-2  # of an hour, a weekday or a month: angles have no such bend
MAY_DIFFER = 1  # golden record a column: the likeliest category, or the hour, may be a matter of last bits
FIELDS = ("score", "elbo", "reconstruction_error", "contributions")
FALSE, LOW, NONE = np.array([False]), np.array([0], np.int8), np.arange(0)  # what most records are told; made once


class Scores(NamedTuple):
    """Answers for N records; M of them, whose places are `explained`, with contributions (M, T) and expected (M, C)."""

    alpha: float
    threshold: float
    score: NDArray[np.float32]  # (N,) high is anomalous
    p_value: NDArray[np.float64]  # (N,)
    is_anomaly: NDArray[np.bool_]  # (N,)
    severity: NDArray[np.int8]  # (N,) places in calibration.SEVERITIES
    elbo: NDArray[np.float32]  # (N,) nats
    reconstruction_error: NDArray[np.float32]  # (N,) nats
    explained: NDArray[np.intp]  # (M,)
    contributions: NDArray[np.float32]  # (M, T), T as manifest.terms; a row sums to its record's score
    expected: NDArray[np.float32]  # (M, C), in the units of x


class Detector:
    """Scores rows of x (N, C) with one verified bundle. Safe to call from several threads."""

    def __init__(self, bundle: Bundle, provider: Provider = "auto") -> None:
        """Loads the scorer graph and replays the golden records on it. Raises BundleError where either fails."""
        self.version = bundle.version
        self.manifest: Manifest = bundle.manifest
        self._graph = Placement(bundle.files["scorer.onnx"], self.manifest.width, provider)
        with np.errstate(over="ignore"):
            self._calibration = np.asarray(self.manifest.calibration.scores, dtype=np.float32)
        self._check_calibration()
        self._ascending = self._calibration.tolist()
        self._far = calibration.reach(self._calibration)
        self._seen = _range(self.manifest)
        for session in self._graph.sessions:
            self._check_golden(session)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def provider(self) -> str:
        """The execution provider that onnxruntime really uses, of runs of many records."""
        return self._graph.provider

    @property
    def gpu_lost(self) -> str | None:
        """Why a GPU that was to be used is not, or no longer; None where none was, or where it is."""
        return self._graph.lost

    @cached_property
    def smallest_alpha(self) -> float:
        """The smallest false-alarm rate that the calibration records support."""
        return calibration.smallest_alpha(len(self._calibration))

    def threshold(self, alpha: float | None = None) -> float:
        """The score from which records are flagged at this alpha (default: the bundle's). Raises UnsupportedAlphaError."""
        if alpha is None or alpha == self.manifest.alpha:
            return self.manifest.threshold
        return calibration.threshold(self._calibration, alpha)

    def score(
        self, x: NDArray[np.float32], alpha: float | None = None, fdr: float | None = None, explain: Explain = "flagged"
    ) -> Scores:
        """Scores x (N, C), NaN where a value is missing; a record's score does not depend on the others.

        With fdr, is_anomaly marks the Benjamini-Hochberg set of these N records instead of p_value <= alpha.
        Raises UnsupportedAlphaError.
        """
        used = self.manifest.alpha if alpha is None else alpha
        limit = self.threshold(alpha)
        every = explain == "all"
        answers = self._graph.run(x, explain=every)
        if len(x) == 1 and fdr is None and explain == "flagged" and isfinite(answers.score[0]):
            return self._score_one(x, answers, used, limit)
        p_value = calibration.p_values(self._calibration, answers.score)
        is_anomaly = p_value <= used if fdr is None else calibration.benjamini_hochberg(p_value, fdr)
        explained = np.arange(len(x)) if every else np.flatnonzero(is_anomaly if explain == "flagged" else [])
        told = answers if every or not len(explained) else self._graph.run(x[explained], explain=True, among=len(x))
        return Scores(
            alpha=used,
            threshold=limit,
            score=answers.score,
            p_value=p_value,
            is_anomaly=is_anomaly,
            severity=calibration.severity(self._calibration, answers.score, p_value, used),
            elbo=answers.elbo,
            reconstruction_error=answers.reconstruction_error,
            explained=explained,
            contributions=told.contributions,
            expected=told.expected.clip(*self._seen),
        )

    def what_if(self, x: NDArray[np.float32], scores: Scores) -> WhatIf:
        """What would be said of each of the records x (N, C), which have these scores, if one of its features were missing, or
        what the others tell of it, each in turn: to the bit what `score` says of that record on the CPU.
        """
        widths = [feature.width for feature in self.manifest.features]
        score, expected = without_each(lambda rows: self._graph.run(rows, explain=True), x, widths)
        expected = expected.clip(*self._seen)
        named = nameable(self.manifest.features, expected)
        other = with_each(lambda rows: self._graph.run(rows, explain=False), x, named, widths)
        starts = np.cumsum([0, *widths[:-1]])
        other[np.isnan(named[:, starts])] = np.nan
        p_value = self._p_values(other)
        normal_at = self._normal_at(x, named, (scores.p_value <= scores.alpha)[:, None] & (p_value > scores.alpha), scores.alpha)
        return WhatIf(score, self._p_values(score), expected, other, p_value, normal_at)

    def _normal_at(
        self, x: NDArray[np.float32], named: NDArray[np.float32], culprit: NDArray[np.bool_], alpha: float
    ) -> NDArray[np.float32]:
        """(N, C) the number nearest to that of x (N, C) with which the record is not flagged; NaN but for numbers that are there
        and are a `culprit` (N, F): with that of `named` (N, C) the record is not flagged.
        """
        found = np.full_like(x, np.nan)
        features = self.manifest.features
        start = np.array([at.start for at in column_slices(features)])
        number = np.array([feature.kind == "numeric" for feature in features])
        whole = np.array([feature.integer for feature in features])
        rows, places = (culprit & number & ~np.isnan(x[:, start])).nonzero()
        column = start[places]
        if len(rows):
            found[rows, column] = nearest_normal(
                lambda other: calibration.p_values(self._calibration, self._graph.run(other, explain=False).score) <= alpha,
                x[rows],
                column,
                named[rows, column],
                whole[places],
            )
        return found

    def _p_values(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, F) of scores (N, F)."""
        return calibration.p_values(self._calibration, scores.ravel()).reshape(scores.shape)

    def _score_one(self, x: NDArray[np.float32], answers: Answers, alpha: float, threshold: float) -> Scores:
        """What `score` makes of a single record's finite answers, bit for bit, in plain floats: a call of NumPy costs more."""
        score, n = float(answers.score[0]), len(self._ascending)
        p = (1 + n - bisect_left(self._ascending, score)) / (n + 1)
        judged = alpha, threshold, answers.score, np.array([p])
        evidence = answers.elbo, answers.reconstruction_error
        if p > alpha:
            return Scores(*judged, FALSE, LOW, *evidence, NONE, answers.contributions, answers.expected)
        above = score - self._ascending[-1]
        level = 3 if above > self._far else 2 if above > 0 or p <= alpha / 10 else 1
        explained = self._graph.run(x, explain=True)
        severity, places = np.array([level], np.int8), np.arange(1)
        return Scores(*judged, ~FALSE, severity, *evidence, places, explained.contributions, explained.expected.clip(*self._seen))

    def _check_calibration(self) -> None:
        """The threshold is what the calibration gives, to the bit: neither was changed without the other."""
        if not np.isfinite(self._calibration).all():
            raise BundleError("calibration scores beyond float32")
        try:
            meant = calibration.threshold(self._calibration, self.manifest.alpha)
        except calibration.UnsupportedAlphaError:
            raise BundleError(f"alpha {self.manifest.alpha:g} is less than the calibration records support") from None
        if self.manifest.threshold != meant:
            raise BundleError("the threshold is not the one that the calibration gives; publish the bundle again")

    def _check_golden(self, session: Session) -> None:
        rtol = GOLDEN_RTOL.get(session.provider, OTHER_RTOL)
        kept = self.manifest.golden
        if any(len(golden.contributions) != len(self.manifest.terms) for golden in kept):
            raise BundleError(f"golden records must have {len(self.manifest.terms)} contributions")
        with np.errstate(over="ignore"):
            x = np.array([golden.x for golden in kept], dtype=np.float32)
        try:
            now = session.run(x, explain=True)
        except Exception as error:  # onnxruntime raises a class of its own for each kind of fault, with no base
            raise BundleError(f"the graph fails on the golden records: {type(error).__name__}") from error
        self._check_scores_alone(session, x, now)
        for field in FIELDS:
            want = np.array([getattr(golden, field) for golden in kept])
            if getattr(now, field).shape != want.shape:
                raise BundleError(f"the {field} of the golden records has another shape than in the manifest")
            gap = relative_gap(getattr(now, field), want, np.array([golden.reconstruction_error for golden in kept]))
            if not (gap <= rtol).all():  # NaN is refused too
                raise BundleError(
                    f"golden record {int(np.argmax(~(gap <= rtol)))}: the {field} on {session.provider} is not the one in the "
                    "manifest: the graph or this machine's onnxruntime is faulty; publish the bundle again"
                )
        self._check_expected(session, now.expected)

    def _check_expected(self, session: Session, now: NDArray[np.float32]) -> None:
        """What is told beside a score is as it was, too. A bundle made before it was kept has nothing to compare."""
        kept = [golden.expected for golden in self.manifest.golden if golden.expected is not None]
        if not kept:
            return
        if {len(row) for row in kept} != {self.manifest.width} or len(kept) != len(now):
            raise BundleError(f"golden records must have {self.manifest.width} expected values, all or none of them")
        want = np.array(kept)
        size = np.maximum(np.sort(np.abs(want), axis=0)[-min(3, len(want))], 1e-6)  # two have the largest numbers there are
        bearable = EXPECTED_RTOL * np.maximum(np.abs(want), size)
        features = self.manifest.features
        bearable[:, np.repeat([one.kind == "datetime" for one in features], [one.width for one in features])] = EXPECTED_ATOL
        differ = np.count_nonzero(~(np.abs(now - want) <= bearable), axis=0)
        if differ.max() > MAY_DIFFER:
            raise BundleError(
                f"column {int(np.argmax(differ))} of what is expected of the golden records on {session.provider} is not the one "
                "in the manifest: the graph or this machine's onnxruntime is faulty; publish the bundle again"
            )

    def _check_scores_alone(self, session: Session, x: NDArray[np.float32], now: Answers) -> None:
        """Scores are the same where no reasons are asked for and another session runs: on the CPU to the bit."""
        alone, rtol = session.run(x, explain=False), 0.0 if session.provider in GOLDEN_RTOL else OTHER_RTOL
        for field in FIELDS[:3]:
            if not (relative_gap(getattr(alone, field), getattr(now, field), now.reconstruction_error) <= rtol).all():
                raise BundleError(f"the {field} of the golden records differs where no reasons are asked for: report it")


def open_detector(
    models_dir: Path, name: str, version: str | None = None, provider: Provider = "auto", trusted: Sequence[Path] = ()
) -> Detector:
    """The detector of a published version, by default of the served one, as read_bundle verifies it. Raises BundleError."""
    folder = models_dir / check_name(name) / (check_name(version, "version") if version else current_version(models_dir, name))
    return Detector(read_bundle(folder, only=["scorer.onnx"], trusted=trusted), provider)


def _range(manifest: Manifest) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(C,) and (C,): from what to what training saw numbers, between which one is expected; of all else no end."""
    numbers = [
        (one.low, one.high) if one.kind == "numeric" else (None, None) for one in manifest.features for _ in range(one.width)
    ]
    low, high = zip(*numbers, strict=True)
    return (
        np.array([-np.inf if value is None else value for value in low], np.float32),
        np.array([np.inf if value is None else value for value in high], np.float32),
    )


def relative_gap(got: NDArray[np.floating], want: NDArray[np.floating], error: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) how far answers (N,) or (N, T) are from those wanted, relative to the size of what they are sums of.

    An ELBO near 0 is the difference of a reconstruction error (N,) and a constant: the error says how large its last bit is.
    """
    got, want = (np.asarray(a, dtype=np.float64).reshape(len(error), -1) for a in (got, want))
    size = np.maximum(np.maximum(np.abs(want).max(1), np.abs(error)), 1)
    return np.asarray(np.abs(got - want).max(1) / size)
