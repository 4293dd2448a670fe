"""What the interface says of itself: the models of answers, and the OpenAPI document of POST /score by a bundle's features."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.json_schema import models_json_schema

from service.errors import CODES
from service.manifest import Dropped, Feature, Kind, Manifest, ScoreKind

REFERENCE = "#/components/schemas/{model}"
PROBLEM_TYPE = "application/problem+json"
RETRY = (429, 503)  # their answers say when to come back


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


class Contribution(BaseModel):
    """One feature's part of a score."""

    feature: str
    value: Any = Field(description="what the record had, null for missing")
    expected: Any = Field(description="what the model expected, in the feature's own unit")
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


class ScoreAnswer(BaseModel):
    """The 200 of POST /score."""

    model: str
    version: str
    score_kind: ScoreKind
    alpha: float
    threshold: float = Field(description="the score from which p_value <= alpha")
    results: list[RecordResult] | ColumnResults


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


class ModelDetail(ModelSummary):
    """All that is to know of a served model."""

    versions: list[str]
    provider: str
    loaded_at: str
    smallest_alpha: float
    calibration_records: int
    features: list[FeatureInfo]
    dropped: list[Dropped]
    warnings: list[str]
    metrics: dict[str, float | None]
    training: dict[str, Any]
    libraries: dict[str, str]


class Reloaded(BaseModel):
    """The 200 of a reload."""

    name: str
    version: str


_TYPES: dict[str, Any] = {"numeric": float, "boolean": bool, "datetime": str}


def request_model(manifest: Manifest | None, *, values: bool = True) -> type[BaseModel]:
    """The body of POST /score for this model; of any model, without one."""
    if manifest is None:
        record: Any = dict[str, Any]
        columns: Any = dict[str, list[Any]]
    else:
        strict = ConfigDict(extra="forbid")
        fields, lists = dict[str, Any](), dict[str, Any]()
        for i, feature in enumerate(manifest.features):
            kind: Any = _type(feature) | None
            fields[f"f{i}"] = (kind, Field(None, alias=feature.name, **_words(feature, values=values)))
            lists[f"f{i}"] = (list[kind], Field(None, alias=feature.name))
        for i, dropped in enumerate(manifest.dropped):
            fields[f"d{i}"] = (Any, Field(None, alias=dropped.column, description=f"not looked at: {dropped.reason}"))
            lists[f"d{i}"] = (list[Any], Field(None, alias=dropped.column))
        record = create_model("Record", __config__=strict, **fields)
        columns = create_model("Columns", __config__=strict, **lists)
    rate: Any = (float | None, Field(None, gt=0, lt=1))
    explain: Any = (Literal["flagged", "all", "none"], "flagged")
    return create_model(
        "ScoreRequest",
        __config__=ConfigDict(
            extra="forbid", json_schema_extra={"oneOf": [{"required": ["records"]}, {"required": ["columns"]}]}
        ),
        __doc__="Records, or columns of one length; a value that is null or left out is missing.",
        records=(list[record], Field(default_factory=list, min_length=1)),
        columns=(columns, Field(default_factory=dict)),
        alpha=rate,
        fdr=rate,
        explain=explain,
    )


TIMEOUT_HEADER: dict[str, Any] = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "how long the client waits; a request that is older before it is scored gets 503 deadline_exceeded",
    "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
}


def score_operation(manifest: Manifest | None, *, values: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The OpenAPI operation of POST /score, and the schemas that it and the other operations refer to.

    values: whether to tell the range of numbers and the most frequent categories of the training table.
    """
    request = request_model(manifest, values=values)
    _, found = models_json_schema(
        [(request, "validation"), (ScoreAnswer, "serialization"), (ProblemDocument, "serialization")], ref_template=REFERENCE
    )
    operation = {
        "tags": ["scoring"],
        "summary": "Score records",
        "description": "Anomaly scores, conformal p-values, verdicts and reasons. Also with Content-Encoding: gzip.",
        "security": [{}, {"bearer": []}, {"apiKey": []}],
        "parameters": [TIMEOUT_HEADER],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/ScoreRequest"}},
                "application/x-ndjson": {"schema": {"type": "string", "description": "a record a line"}},
                "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "200": {
                "description": "A result for each record, in their order",
                "headers": {
                    "X-Request-ID": {"schema": {"type": "string"}},
                    "Server-Timing": {
                        "schema": {"type": "string"},
                        "description": "milliseconds of parse, queue, inference, total",
                    },
                },
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ScoreAnswer"}},
                    "application/x-ndjson": {"schema": {"type": "string", "description": "a result a line"}},
                    "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            **problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503),
        },
    }
    return operation, found["$defs"]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of these statuses, for the OpenAPI document."""
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
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


def _type(feature: Feature) -> Any:
    return (int if feature.integer else str) if feature.kind == "categorical" else _TYPES[feature.kind]


def _words(feature: Feature, *, values: bool) -> dict[str, Any]:
    if feature.categories:
        return {"description": "categorical", **({"examples": list(feature.categories[:5])} if values else {})}
    known = values and feature.low is not None and feature.high is not None
    seen = f", seen from {feature.low:g} to {feature.high:g}" if known else ""
    order = {None: "", True: ", the day first in dates with slashes", False: ", the month first in dates with slashes"}
    return {"description": feature.kind + seen + order[feature.day_first]}
