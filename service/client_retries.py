"""When service.client sends a request again, and how long it waits before. Scoring changes nothing: it may be repeated."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

RETRIED = (429, 502, 503, 504)
RETRIED_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.ProxyError, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class Retries:
    """How often, and how long at most.

    The wait is what Retry-After says; without it, twice as long each time, at random so that clients do not come back together.
    Where the service asks for a longer wait than `seconds` leaves, its answer is the last one.
    """

    times: int = 5
    seconds: float = 60.0  # of waiting, in all
    first: float = 0.1  # the first wait without Retry-After, at most

    def waits(self) -> Iterator[Wait]:
        """A Wait for each request, the last of which does not."""
        until = time.monotonic() + self.seconds
        for place in range(self.times + 1):
            backoff = random.uniform(0.5, 1) * self.first * 2**place  # noqa: S311 - no secret
            yield Wait(backoff, max(0.0, until - time.monotonic()), last=place == self.times)


class Wait:
    """Between one request and the next."""

    def __init__(self, seconds: float, left: float, *, last: bool) -> None:
        self.seconds, self._left = min(seconds, left), left
        self.last = last or left <= 0

    def again(self, answer: httpx.Response) -> bool:
        """Whether to send the request again after this answer; `seconds` is then how long it asks to wait."""
        if answer.status_code not in RETRIED or self.last:
            return False
        asked = _seconds(answer.headers.get("Retry-After"))
        if asked is not None:
            self.seconds = asked
        return self.seconds <= self._left


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds, be it a number or a date; None where there is none, or one that cannot be read."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        at = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp())
