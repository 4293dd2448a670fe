"""GET /models/{name}/drift: what a watch knows, as JSON has it and as OpenAPI tells it."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.drift import KINDS, Kind
from service.manifest import Kind as FeatureKind
from service.watch import FALSE_WARNINGS, LEAST, WarningKind, Watch, Window

UNTOLD = "The bundle does not say what its training records looked like: fit it again."


class Drifted(BaseModel):
    """Something that has changed."""

    kind: WarningKind
    feature: str | None = Field(description="null for flagged and p_values, which are of the whole record")
    reason: str | None = Field(description="of flagged: its share and alpha; null for others, whose measures tell")


class Windows(BaseModel):
    """A number of two windows; null where there are too few records to tell."""

    since_loaded: float | None
    recent: float | None = Field(description="records of an hour ago count 1 / e of those of now")


class MissingRate(Windows):
    """The share of records without a value."""

    training: float


class FeatureMeasure(BaseModel):
    """The population stability index of one question: how far live records are from training ones."""

    kind: Kind
    psi: Windows
    limit: float | None = Field(description="of the window that warnings go by: above it, the feature is warned of")
    warned: bool


class FeatureDrift(BaseModel):
    """Drift of one feature."""

    feature: str
    kind: FeatureKind
    missing_rate: MissingRate
    measures: list[FeatureMeasure] = Field(description="values: how those that are there and known are spread; not of datetimes")


class Shares(BaseModel):
    """The share of p-values in each bin."""

    bounds: list[float] = Field(description="the largest p-value of each bin; flagged records are left out")
    expected: list[float]
    since_loaded: list[float] | None
    recent: list[float] | None


class PValueDrift(BaseModel):
    """Whether p-values of what is not flagged are still uniform, but for the luck of the calibration set."""

    evidence: float = Field(description="of a test martingale against it; 1 at the beginning, and again after it has warned")
    warns_at: float = Field(description="evidence; p-values are warned of if the distance is above its tolerance besides")
    false_warning_rate: float = Field(description="probability that any process ever warns where nothing has changed, at most")
    exact: bool = Field(description="whether that rate is proven: the calibration records were held out")
    warned_at: datetime | None = Field(description="when the evidence last reached warns_at")
    distance: Windows = Field(description="largest gap between the shares of p-values below a bound and those expected")
    tolerance: float
    shares: Shares


class FlaggedDrift(BaseModel):
    """The share of records with p <= alpha, the bundle's: far more are an attack, or a source that has changed."""

    alpha: float
    share: Windows
    limit: float = Field(description="above it, and where the luck of the calibration set does not explain it, it is warned of")


class DriftDocument(BaseModel):
    """What a version is watched for while it serves, in one process, since it was loaded there."""

    model: str
    version: str
    since: datetime
    status: Literal["ok", "warning", "unknown"]
    reason: str | None = Field(description="why drift of features cannot be told")
    records: int = Field(description="looked at; a sample, where there are more than about a thousand a second")
    recent_records: float
    judged_by: Literal["recent", "since_loaded"] = Field(description="the window that warnings go by")
    warnings: list[Drifted]
    flagged: FlaggedDrift
    p_values: PValueDrift
    features: list[FeatureDrift]


def document(name: str, version: str, since: datetime, watch: Watch) -> DriftDocument:
    """All that is known by now."""
    watch.digest(judge=True)
    reason = UNTOLD if watch.cells is None else None if watch.measures else f"Fewer than {LEAST} records were looked at."
    return DriftDocument(
        model=name,
        version=version,
        since=since,
        status="warning" if watch.warnings else "unknown" if reason else "ok",
        reason=reason,
        records=watch.records,
        recent_records=rounded(watch.recent.total),
        judged_by="recent" if watch.judged_by is watch.recent else "since_loaded",
        warnings=[Drifted(kind=warned.kind, feature=warned.feature, reason=warned.reason) for warned in watch.warnings],
        flagged=FlaggedDrift(
            alpha=watch.flagged.alpha,
            share=Windows(**{name: rounded(of.flagged) if of.tells else None for name, of in _windows(watch).items()}),
            limit=rounded(watch.flagged.limit),
        ),
        p_values=p_values(watch),
        features=features(watch),
    )


def p_values(watch: Watch) -> PValueDrift:
    """The test of exchangeability, and what p-values look like."""
    expected = watch.ranks.expected
    return PValueDrift(
        evidence=rounded(watch.evidence),
        warns_at=watch.warns_at,
        false_warning_rate=FALSE_WARNINGS,
        exact=watch.held_out is True,
        warned_at=watch.warned_at,
        distance=Windows(since_loaded=_distance(watch.ever, expected), recent=_distance(watch.recent, expected)),
        tolerance=watch.tolerance,
        shares=Shares(
            bounds=[rounded(bound) for bound in watch.ranks.bounds],
            expected=_shares(expected),
            since_loaded=_shares(watch.ever.bins) if watch.ever.tells else None,
            recent=_shares(watch.recent.bins) if watch.recent.tells else None,
        ),
    )


def features(watch: Watch) -> list[FeatureDrift]:
    """The drift of each feature; none where the bundle has no references."""
    cells = watch.cells
    if cells is None:
        return []
    windows = _windows(watch)
    told = {name: cells.measures(of.cells, of.weight) if of.tells else None for name, of in windows.items()}
    judged = watch.measures
    return [
        FeatureDrift(
            feature=feature.name,
            kind=feature.kind,
            missing_rate=MissingRate(
                training=rounded(cells.reference[place, -1] / cells.reference[place].sum()),
                **{name: rounded(of.cells[place, -1] / of.total) if of.tells else None for name, of in windows.items()},
            ),
            measures=[
                FeatureMeasure(
                    kind=kind,
                    psi=Windows(**{name: _finite(of[kind].psi[place]) if of else None for name, of in told.items()}),
                    limit=_finite(judged[kind].limit[place]) if judged else None,
                    warned=bool(judged and judged[kind].warned[place]),
                )
                for kind in KINDS
                if cells.asked[kind][place]
            ],
        )
        for place, feature in enumerate(watch.features)
    ]


def _windows(watch: Watch) -> dict[str, Window]:
    return {"since_loaded": watch.ever, "recent": watch.recent}


def rounded(value: float) -> float:
    """Four digits, which is more than anybody needs to see."""
    return float(f"{value:.4g}")


def _finite(value: float) -> float | None:
    return rounded(value) if math.isfinite(value) else None


def _distance(window: Window, expected: NDArray[np.float64]) -> float | None:
    return rounded(window.distance(expected)) if window.bins.any() else None  # p-values may warn before features do


def _shares(counts: NDArray[np.float64]) -> list[float]:
    return [rounded(share) for share in (counts / max(counts.sum(), 1e-9)).tolist()]
