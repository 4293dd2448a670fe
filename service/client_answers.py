"""What service.client gives back: the answers of docs/api.md as structs, and the problem documents as exceptions."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

ScoreKind = Literal["surprise", "elbo", "reconstruction"]


class Contribution(msgspec.Struct, frozen=True):
    """One feature's part of a score."""

    feature: str
    value: Any
    expected: Any
    contribution: float


class DataWarning(msgspec.Struct, frozen=True):
    """What is odd with the data of a record."""

    feature: str
    code: str


class Result(msgspec.Struct, frozen=True):
    """The answer to one record."""

    score: float
    p_value: float
    is_anomaly: bool
    severity: Literal["low", "medium", "high", "critical"]
    elbo: float
    reconstruction_error: float
    contributions: list[Contribution] | None
    warnings: list[DataWarning]


class Columns(msgspec.Struct, frozen=True):
    """The answers to columns, in the order of the records."""

    score: list[float]
    p_value: list[float]
    is_anomaly: list[bool]
    contributions: list[list[Contribution] | None] | None = None


class Answer(msgspec.Struct, frozen=True):
    """The answer to a request of records. `version` is the one that scored it: another request may have met a newer one."""

    model: str
    version: str
    score_kind: ScoreKind
    alpha: float
    threshold: float
    results: list[Result]


class ColumnAnswer(msgspec.Struct, frozen=True):
    """The answer to a request of columns."""

    model: str
    version: str
    score_kind: ScoreKind
    alpha: float
    threshold: float
    results: Columns


class Feature(msgspec.Struct, frozen=True):
    """A feature, as records must have it."""

    name: str
    kind: Literal["numeric", "categorical", "boolean", "datetime"]
    integer: bool
    categories: list[str | int]
    low: float | None
    high: float | None
    missing_rate: float
    day_first: bool | None = None


class Model(msgspec.Struct, frozen=True):
    """What is to know of a model; the rest of GET /models/NAME is left aside."""

    name: str
    version: str
    versions: list[str]
    provider: str
    score_kind: ScoreKind
    alpha: float
    smallest_alpha: float
    threshold: float
    calibration_records: int
    features: list[Feature]


class Health(msgspec.Struct, frozen=True):
    """That a score can be given."""

    model: str | None
    version: str | None
    provider: str | None
    uptime_s: float
    queue_rows: int
    models: dict[str, str]
    refused: list[str]


class Place(msgspec.Struct, frozen=True):
    """What is wrong where, such as records[3].amount."""

    loc: str
    message: str


class _Document(msgspec.Struct):
    code: str
    detail: str = ""
    request_id: str = ""
    errors: list[Place] = []


class ServiceError(Exception):
    """An answer that is an error: branch on `code`; `errors` names places in the records, where there are any."""

    def __init__(self, status: int, code: str, detail: str, request_id: str, errors: list[Place]) -> None:
        """`code` is 'unknown' where something between client and service answered, not the service."""
        places = "".join(f"\n  {place.loc}: {place.message}" for place in errors[:5])
        super().__init__(f"{status} {code}: {detail} (request {request_id}){places}")
        self.status, self.code, self.detail, self.request_id, self.errors = status, code, detail, request_id, errors


def error(status: int, body: bytes, request_id: str) -> ServiceError:
    """The exception for an answer with this status and body."""
    try:
        document = msgspec.json.decode(body, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ServiceError(status, "unknown", "the answer is no problem document of the service", request_id, [])
    return ServiceError(status, document.code, document.detail, document.request_id or request_id, document.errors)
