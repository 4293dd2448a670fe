"""What the page is told: the models of its answers, for OpenAPI."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.manifest import ScoreKind


class Histogram(BaseModel):
    """Counts of the last hour by bucket: up to each bound, and beyond the last."""

    bounds: list[float]
    counts: list[int]
    expected: list[float] | None = Field(None, description="the share of the calibration records in each bucket; of scores only")


class FlaggedTerm(BaseModel):
    """One feature's part of a score."""

    feature: str
    contribution: float
    value: Any = Field(None, description="only with ANOMALY_PAGE_VALUES; null: missing or unknown")
    expected: Any = Field(None, description="only with ANOMALY_PAGE_VALUES")


class FlaggedRecord(BaseModel):
    """A record that was flagged."""

    place: int = Field(description="which flagged record it is since the version was loaded")
    time: float = Field(description="seconds since 1970")
    score: float
    p_value: float
    severity: Literal["low", "medium", "high", "critical"]
    contributions: list[FlaggedTerm] = Field(description="largest first")


class ActivityDocument(BaseModel):
    """The last hour of one process. Lists have a value for each half minute, oldest first; the last one is not over yet."""

    model: str
    version: str
    provider: str
    score_kind: ScoreKind
    alpha: float
    threshold: float
    workers: int = Field(description="processes that serve; these are the numbers of one of them")
    values: bool = Field(description="whether ANOMALY_PAGE_VALUES is set")
    seconds: list[float] = Field(description="the length of each slot")
    requests: list[int] = Field(description="scoring requests of the process that were answered")
    errors: list[int] = Field(description="errors of the process")
    p50_ms: list[float | None] = Field(description="median time of a scoring request of the process; null without any")
    p99_ms: list[float | None]
    records: list[int] = Field(description="records that the model scored, in all its versions")
    anomalies: list[int]
    scores: Histogram
    p_values: Histogram
    latest: list[FlaggedRecord] = Field(
        description="of the served version, latest first, 50 at most; only those whose request asked for contributions"
    )


class ExampleRecord(BaseModel):
    """A record to try a model with."""

    model: str
    version: str
    record: dict[str, Any]
