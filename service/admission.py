"""What a request for scores has to pass before its body is read, whichever endpoint it came to."""

from __future__ import annotations

import re
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

from starlette.types import Scope

from service.bodies import check_length
from service.errors import Problem
from service.limits import deadline
from service.live import Live
from service.validation import query

if TYPE_CHECKING:
    from service.parts import Parts

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
ARROW = b"application/vnd.apache.arrow.stream"
BINARY = b"application/octet-stream"
NAMELESS = ("/score", "/explain")  # the paths of the default model


class Admitted(NamedTuple):
    """What is known of a request when its head is good."""

    content_type: bytes  # one of those that its endpoint takes
    gzipped: bool
    length: int  # of the body, 0 where that is not said
    until: float  # by perf_counter; an answer is of no use after that
    live: Live


async def admit(parts: Parts, scope: Scope, pattern: re.Pattern[str], taken: tuple[bytes, ...]) -> Admitted:
    """Checks key, head and length, and finds the model, of which the log learns by the scope.

    `pattern`: of the endpoint's paths, as Registry.find has it; `taken`: the content types that it takes. Raises the Problem.
    """
    began, headers, path = perf_counter(), scope["fields"], scope["path"]
    parts.keys.check_api(headers)
    content_type = headers.get(b"content-type", JSON)
    if content_type not in taken:
        content_type = _media_type(content_type, taken)
    gzipped = b"content-encoding" in headers and _is_gzip(headers[b"content-encoding"])
    length = check_length(headers, parts.settings.max_body_bytes)
    until = deadline(headers, began)
    live = scope["live"] = parts.registry.default() if path in NAMELESS else await parts.registry.find(pattern, path)
    if scope["query_string"] and content_type not in (NDJSON, ARROW):
        query(scope["query_string"], ())  # refuses all parameters: they belong in the body, and would be without effect
    return Admitted(content_type, gzipped, length, until, live)


def _media_type(content_type: bytes, taken: tuple[bytes, ...]) -> bytes:
    """The one of those taken that a Content-Type is, with whatever parameters; raises the 415."""
    name = content_type.split(b";", 1)[0].strip().lower()
    if name not in taken:
        words = b" or ".join(taken) if len(taken) == 2 else b", ".join(taken)
        raise Problem("unsupported_media_type", f"Send {words.decode()}.")
    return name


def _is_gzip(encoding: bytes) -> bool:
    """Whether a Content-Encoding is gzip, rather than none; raises the 415 for any other."""
    name = encoding.strip().lower()
    if name not in (b"gzip", b"x-gzip", b"identity", b""):
        raise Problem("unsupported_encoding", "Send the body as it is, or with Content-Encoding: gzip.")
    return name in (b"gzip", b"x-gzip")
