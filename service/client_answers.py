"""What service.client gives back: the answers of docs/api.md as structs, and the problem documents as exceptions."""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

import msgspec

T = TypeVar("T")
PLACE = re.compile(r"^(records\[|columns\..*\[)(\d+)")  # whose number is that of the record

ScoreKind = Literal["surprise", "elbo", "reconstruction"]


class IfMissing(msgspec.Struct, frozen=True):
    """What would be said of the record without a value."""

    score: float
    p_value: float
    expected: Any


class IfExpected(msgspec.Struct, frozen=True):
    """What would be said of the record with what the others tell of a value in its place."""

    score: float
    p_value: float


class Contribution(msgspec.Struct, frozen=True):
    """One feature's part of a score."""

    feature: str
    value: Any
    expected: Any
    contribution: float
    if_missing: IfMissing | None = None  # of an explanation, as the next
    if_expected: IfExpected | None = None
    normal_at: float | None = None


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
    broken_rules: list[str] = []  # of an explanation


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
    smallest_alpha: float | None = None


class ServiceError(Exception):
    """An answer that is an error: branch on `code`; `errors` names places in the records, where there are any."""

    def __init__(
        self, status: int, code: str, detail: str, request_id: str, errors: list[Place], smallest_alpha: float | None = None
    ) -> None:
        """`code` is 'unknown' where something between client and service answered, not the service."""
        super().__init__(status, code, detail, request_id, errors, smallest_alpha)  # what it is made of again in another process
        self.status, self.code, self.detail, self.request_id, self.errors = status, code, detail, request_id, errors
        self.smallest_alpha = smallest_alpha

    def __str__(self) -> str:
        places = "".join(f"\n  {place.loc}: {place.message}" for place in self.errors[:5])
        return f"{self.status} {self.code}: {self.detail} (request {self.request_id}){places}"

    def shifted(self, first: int) -> ServiceError:
        """The same, where the request's records are those from `first` on of some more."""
        places = (PLACE.sub(lambda found: f"{found[1]}{int(found[2]) + first}", place.loc) for place in self.errors)
        errors = [Place(loc, place.message) for loc, place in zip(places, self.errors, strict=True)]
        return ServiceError(self.status, self.code, self.detail, self.request_id, errors, self.smallest_alpha)


def error(status: int, body: bytes, request_id: str) -> ServiceError:
    """The exception for an answer with this status and body."""
    try:
        document = msgspec.json.decode(body, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ServiceError(status, "unknown", "the answer is no problem document of the service", request_id, [])
    told = document.code, document.detail, document.request_id or request_id, document.errors
    return ServiceError(status, *told, document.smallest_alpha)


def decoded(body: bytes, kind: type[T]) -> T:
    """The answer that a body of a 200 is. Raises ServiceError where it is none of the service's."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ServiceError(200, "unknown", "the answer is none of the service", "", []) from None
