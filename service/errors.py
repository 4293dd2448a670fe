"""The one shape of every error: application/problem+json (RFC 9457), with a stable code and never a value of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

MAX_ERRORS = 100
_IN_LINE = 3
CONTENT_TYPE = b"application/problem+json"

# code: (status, title). The codes are part of the interface: programs branch on them.
CODES: dict[str, tuple[int, str]] = {
    "invalid_http": (400, "Not a valid HTTP request"),
    "invalid_json": (400, "The body is not JSON"),
    "duplicate_key": (400, "A key stands twice in one object"),
    "too_deep": (400, "The body is nested too deeply"),
    "invalid_encoding": (400, "The body is not what its Content-Encoding says"),
    "invalid_body": (400, "The body cannot be read"),
    "unauthorized": (401, "A key is needed"),
    "forbidden": (403, "This key may not do that"),
    "admin_disabled": (403, "The admin endpoints are off"),
    "not_found": (404, "No such path"),
    "model_not_found": (404, "No such model"),
    "version_not_found": (404, "No such version"),
    "no_default_model": (404, "No default model"),
    "method_not_allowed": (405, "Method not allowed"),
    "request_timeout": (408, "The request took too long to arrive"),
    "bundle_refused": (409, "The bundle was refused"),
    "body_too_large": (413, "The body is too large"),
    "too_many_records": (413, "Too many records"),
    "unsupported_media_type": (415, "Unsupported content type"),
    "unsupported_encoding": (415, "Unsupported content encoding"),
    "invalid_request": (422, "The request does not fit"),
    "invalid_records": (422, "Records do not fit the model"),
    "unsupported_alpha": (422, "Unsupported alpha"),
    "not_scorable": (422, "A record has no finite score"),
    "queue_full": (429, "The queue is full"),
    "head_too_large": (431, "The head of the request is too large"),
    "internal_error": (500, "Internal error"),
    "not_ready": (503, "Not ready"),
    "shutting_down": (503, "Shutting down"),
    "deadline_exceeded": (503, "Too late for the client"),
}
# What the framework itself refuses, by status.
FRAMEWORK = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


@dataclass(frozen=True)
class FieldError:
    """What is wrong where: loc like records[3].amount or columns.amount[3]; the message never holds the value."""

    loc: str
    message: str


class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """An answer that is an error. Raised anywhere below a request, written in one place."""

    def __init__(
        self, code: str, detail: str, errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """`more`: further members of the problem, such as the smallest supported alpha."""
        super().__init__(detail)
        self.code, self.detail, self.errors = code, printable(detail), errors
        self.status, self.title = CODES[code]
        self.headers = dict(headers or {})
        self.more = more

    def body(self, request_id: str) -> bytes:
        """The JSON document."""
        document = {
            "type": f"urn:anomaly:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "request_id": request_id,
            **self.more,
        }
        if self.errors:
            document["errors"] = [{"loc": printable(e.loc), "message": e.message} for e in self.errors[:MAX_ERRORS]]
        return orjson.dumps(document)

    def line(self) -> str:
        """All of it that is for people, with the first places of what is wrong: for clients that show nothing else."""
        places = "; ".join(f"{printable(error.loc)}: {error.message}" for error in self.errors[:_IN_LINE])
        return f"{self.detail} {places}" if places else self.detail

    def head(self, body: bytes, request_id: str) -> list[tuple[bytes, bytes]]:
        """The response headers that go with the document."""
        return [
            (b"content-type", CONTENT_TYPE),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", request_id.encode()),
            (b"cache-control", b"no-store"),
            *((name.lower().encode(), value.encode()) for name, value in self.headers.items()),
        ]


def from_status(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    """The problem for a status that the framework raised."""
    code = FRAMEWORK.get(status, "internal_error" if status >= 500 else "invalid_body")
    return Problem(code, CODES[code][1] + ".", headers=headers)


def not_scorable(places: Sequence[str]) -> Problem:
    """The 422 of records without a finite score, such as records[3]."""
    errors = [FieldError(place, "its values are too extreme for a finite score") for place in places]
    return Problem("not_scorable", f"{len(errors)} record(s) have no finite score.", errors)


def not_ready(detail: str, **more: Any) -> Problem:
    """The 503 of a service or a model that can give no score now."""
    return Problem("not_ready", detail, headers={"Retry-After": "5"}, **more)


def shutting_down() -> Problem:
    """The 503 of a process that ends."""
    headers = {"Retry-After": "5", "Connection": "close"}
    return Problem("shutting_down", "The service is shutting down: send again, to another replica.", headers=headers)


def internal_error() -> Problem:
    """What the client learns of a fault of ours: that there was one, and the id under which the log tells more."""
    return Problem("internal_error", "The service failed on this request; its log has the cause under this request_id.")


def printable(text: str) -> str:
    """A lone surrogate, which JSON can escape and UTF-8 cannot hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
