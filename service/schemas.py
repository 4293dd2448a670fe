"""The models of answers, for OpenAPI and for those that FastAPI writes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.errors import CODES
from service.manifest import Kind, Scalar, ScoreKind

REFERENCE = "#/components/schemas/{model}"
PROBLEM_TYPE = "application/problem+json"
RETRY = (429, 503)  # their answers say when to come back


Value = float | str | bool | None


class ErrorPlace(BaseModel):
    """What is wrong where."""

    loc: str = Field(examples=["records[3].amount"])
    message: str


class ProblemDocument(BaseModel):
    """Every error of every endpoint (RFC 9457)."""

    type: str = Field(examples=["urn:anomaly:error:invalid_records"])
    title: str
    status: int
    code: str = Field(description="a stable word to branch on", json_schema_extra={"enum": [*sorted(CODES)]})
    detail: str
    request_id: str
    errors: list[ErrorPlace] | None = Field(None, description="all that are wrong, up to 100; left out where there are none")
    smallest_alpha: float | None = Field(None, description="of unsupported_alpha: the least rate that the calibration supports")
    error: str | None = Field(None, description="under /v2: code and detail, where clients of that protocol look")


class Unavailable(BaseModel):
    """The 503 of /health: a problem document, but with the word for a status that health documents have."""

    status: Literal["unavailable"]
    reason: str
    type: str
    title: str
    code: Literal["not_ready"]
    detail: str
    request_id: str


class Contribution(BaseModel):
    """One feature's part of a score."""

    feature: str
    value: Value = Field(description="what the record had, null for missing")
    expected: Value = Field(description="what the model expected, in the feature's own unit; of a datetime, in words")
    contribution: float


class DataWarning(BaseModel):
    """What is odd with the data, rather than with the behaviour that it shows."""

    feature: str
    code: Literal["unknown_category", "out_of_range", "missing"]


class RecordResult(BaseModel):
    """The answer to one record."""

    score: float = Field(description="high is anomalous")
    p_value: float = Field(description="(1 + number of calibration scores >= score) / (n + 1)")
    is_anomaly: bool
    severity: Literal["low", "medium", "high", "critical"]
    elbo: float = Field(description="nats")
    reconstruction_error: float = Field(description="nats")
    contributions: list[Contribution] | None = Field(description="largest first, they sum to the score; null where not explained")
    warnings: list[DataWarning]


class ColumnResults(BaseModel):
    """The answers to a request with columns: lists in the order of the records."""

    score: list[float]
    p_value: list[float]
    is_anomaly: list[bool]
    contributions: list[list[Contribution] | None] | None = Field(
        None, description="only where a record was explained; null for those that were not"
    )


class _Scored(BaseModel):
    model: str
    version: str
    score_kind: ScoreKind
    alpha: float
    threshold: float = Field(description="the score from which p_value <= alpha")


class RecordsAnswer(_Scored):
    """The 200 of POST /score with records."""

    results: list[RecordResult]


class ColumnsAnswer(_Scored):
    """The 200 of POST /score with columns."""

    results: ColumnResults


class IfMissing(BaseModel):
    """What would be said of the record without this value."""

    score: float = Field(description="to the bit that of the same record with null there, on the CPU")
    p_value: float
    expected: Value = Field(description="by the other values alone, in the feature's own unit; of a datetime, in words")


class IfExpected(BaseModel):
    """What would be said of the record with if_missing.expected as this value."""

    score: float
    p_value: float


class ExplainedContribution(Contribution):
    """One feature's part of a score, and what would be without its value, or with another."""

    if_missing: IfMissing | None = Field(None, description="not of the latent term")
    if_expected: IfExpected | None = Field(None, description="null where the others tell no value that has a name")
    normal_at: float | None = Field(
        None,
        description="the number nearest to the value, on the way to the expected one, with which the record is not flagged; null "
        "where it is not flagged, where another number alone does not change that, and of what is no number",
    )


class ExplainedRecord(RecordResult):
    """The answer to one record of POST /explain."""

    contributions: list[ExplainedContribution] = Field(  # type: ignore[assignment] # always there
        description="first the one with the lowest score without its value or with the expected one; they sum to the score"
    )
    broken_rules: list[str] = Field(description="of what every training record keeps, in words, what this one does not")


class ExplainAnswer(_Scored):
    """The 200 of POST /explain."""

    results: list[ExplainedRecord]


class ShadowState(BaseModel):
    """The version that is scored beside the served one of its model, and what becomes of it."""

    model: str
    version: str
    state: Literal["loading", "comparing", "failing", "idle", "refused"]
    reason: str | None


class Health(BaseModel):
    """That a score can be given, known because one was."""

    status: Literal["ok"]
    model: str | None = Field(description="the default model, null where there are several and none is the default")
    version: str | None
    provider: str | None
    gpu_lost: str | None = Field(description="why scores come from the CPU although there is a GPU; null where nothing is lost")
    uptime_s: float
    last_score_age_s: float
    queue_rows: int
    models: dict[str, str] = Field(description="the served version of every model")
    refused: list[str] = Field(description="models of which a newer bundle was refused; what served before goes on serving")
    shadow: ShadowState | None = Field(description="null where ANOMALY_SHADOW is not set; never a reason to be unavailable")
    warnings: list[str] = Field(description="what has changed since the models were trained; never a failure")


class Probe(BaseModel):
    """A yes to an orchestrator."""

    status: Literal["live", "ready"]


class ModelSummary(BaseModel):
    """A model in the list."""

    name: str
    version: str | None
    default: bool
    ready: bool
    score_kind: ScoreKind | None
    alpha: float | None
    threshold: float | None


class ModelList(BaseModel):
    """The models of this service."""

    models: list[ModelSummary]


class FeatureInfo(BaseModel):
    """A feature, as records must have it."""

    name: str
    kind: Kind
    integer: bool
    categories: list[str] | list[int]
    low: float | None
    high: float | None
    missing_rate: float
    day_first: bool | None = Field(None, description="of datetimes: what a date such as 03/04/2026 has first; null: not known")


class DroppedInfo(BaseModel):
    """A column of the training table that no feature was made of, and why."""

    column: str
    reason: str
    value: Scalar | None = Field(None, description="of a constant column: a record with another is warned of; null: not known")


class ModelDetail(ModelSummary):
    """All that is to know of a served model."""

    versions: list[str]
    provider: str
    loaded_at: str = Field(json_schema_extra={"format": "date-time"})
    smallest_alpha: float
    calibration_records: int
    features: list[FeatureInfo]
    dropped: list[DroppedInfo]
    warnings: list[str]
    rules: list[str] = Field(description="what every training record keeps, in words")
    metrics: dict[str, float | None]
    training: dict[str, Any]
    libraries: dict[str, str]


class Reloaded(BaseModel):
    """The 200 of a reload."""

    name: str
    version: str


def problems(*statuses: int, model: str = "ProblemDocument") -> dict[int | str, dict[str, Any]]:
    """The responses of these statuses, for the OpenAPI document."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": REFERENCE.format(model=model)}}}
    return {
        str(status): {
            "description": "; ".join(f"{code}: {title}" for code, (of, title) in CODES.items() if of == status) or "Error",
            "content": content,
            **(
                {"headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}} if status in RETRY else {}
            ),
        }
        for status in statuses
    }
