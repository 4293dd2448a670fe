"""A client: typed answers, many records in batches, and retries that wait as long as the service asks for.

    with Client("http://localhost:8000", key="...") as client:
        answer = client.score([{"amount": 12.5, "country": "DE"}])
        print(answer.results[0].is_anomaly)

Client blocks, AsyncClient is the same with await. Imports only httpx and msgspec, so that it can be used where no service is
installed; `score_table` loads arro3, the service's own Arrow, when it is called.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import httpx

from service.client_answers import Answer, ColumnAnswer, Health, Model, ServiceError, decoded, error
from service.client_retries import RETRIED_ERRORS, Retries
from service.client_values import encode

__all__ = ["Answer", "AsyncClient", "Client", "ColumnAnswer", "Health", "Model", "Retries", "ServiceError"]

Record = Mapping[str, Any]
Explain = Literal["flagged", "all", "none"]
T = TypeVar("T")
BATCH = 1000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of a model or version, as service.manifest has it
JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"


class _Requests:
    """What both clients send, and how they read the answers: nothing here waits."""

    def __init__(
        self, url: str, key: str | None, model: str | None, version: str | None, retries: Retries | None, **options: Any
    ) -> None:
        if version is not None and model is None:
            raise ValueError("a version is one of a model: name the model, too")
        self.retries = retries or Retries()
        at = f"/models/{_checked(model)}" if model is not None else ""
        self._at = f"{at}/versions/{_checked(version)}" if version is not None else at
        headers = httpx.Headers(options.pop("headers", None))
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._options = {"base_url": url, "headers": headers, "timeout": 30.0, **options}

    def _score(self, form: str, data: Any, alpha: float | None, fdr: float | None, explain: Explain) -> dict[str, Any]:
        return self._post("score", form, data, {"alpha": alpha, "fdr": fdr, "explain": explain})

    def _post(self, endpoint: str, form: str, data: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        body = encode(form, data, {name: value for name, value in given.items() if value is not None})
        return {"method": "POST", "url": f"{self._at}/{endpoint}", "content": body, "headers": {"Content-Type": JSON}}

    @staticmethod
    def _model(name: str) -> dict[str, Any]:
        return {"method": "GET", "url": f"/models/{_checked(name)}"}

    def _arrow(self, body: bytes, alpha: float | None) -> dict[str, Any]:
        rate, headers = {} if alpha is None else {"alpha": alpha}, {"Content-Type": ARROW}
        return {"method": "POST", "url": f"{self._at}/score", "params": rate, "content": body, "headers": headers}


class Client(_Requests):
    """Blocks until the answer is there. To be closed, or used with `with`."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        model: str | None = None,
        version: str | None = None,
        retries: Retries | None = None,
        **options: Any,
    ) -> None:
        """`model` and `version`: who scores, by default the service's default; `options`: those of httpx.Client.

        Raises ValueError where they are no names.
        """
        super().__init__(url, key, model, version, retries, **options)
        self._http = httpx.Client(**self._options)

    def score(
        self, records: Sequence[Record], *, alpha: float | None = None, fdr: float | None = None, explain: Explain = "flagged"
    ) -> Answer:
        """The answer to one request, with a result for each record.

        Raises ServiceError; ValueError for an infinite number, TypeError for what is no value of a record.
        """
        return self._ask(self._score("records", records, alpha, fdr, explain), Answer)

    def explain(self, records: Sequence[Record], *, alpha: float | None = None, fdr: float | None = None) -> Answer:
        """The same for a few records that are to be looked at, with what would be said of each without each of its values.

        Raises as `score`.
        """
        return self._ask(self._post("explain", "records", records, {"alpha": alpha, "fdr": fdr}), Answer)

    def score_columns(
        self,
        columns: Mapping[str, Sequence[Any]],
        *,
        alpha: float | None = None,
        fdr: float | None = None,
        explain: Explain = "none",
    ) -> ColumnAnswer:
        """The same, columns in and out: the cheapest form, and without contributions unless asked. Raises ServiceError."""
        return self._ask(self._score("columns", columns, alpha, fdr, explain), ColumnAnswer)

    def score_batches(
        self, records: Iterable[Record], *, size: int = BATCH, alpha: float | None = None, explain: Explain = "flagged"
    ) -> Iterator[Answer]:
        """An answer for each `size` records of any number, in order; takes no more of them than the next request needs."""
        for first, batch in batches(records, size):
            with placed(first):
                answer = self.score(batch, alpha=alpha, explain=explain)
            yield answer

    def score_table(self, table: Any, *, size: int = 10 * BATCH, alpha: float | None = None) -> Any:
        """A table of score, p_value and is_anomaly for whatever speaks Arrow: pandas, Polars, DuckDB, PyArrow.

        Sent `size` rows at a time, or fewer where they are wide; a pandas index without a name is left out. The answer is an
        arro3 Table, which all of them take.
        """
        from service.client_tables import join, split  # noqa: PLC0415 - Arrow is loaded where it is used

        answers, first = [], 0
        for body, rows in split(table, size):
            with placed(first):
                answers.append(self._send(self._arrow(body, alpha)))
            first += rows
        return join(answers)

    def model(self, name: str) -> Model:
        """What is to know of a model. Raises ServiceError, or ValueError for what is no name of one."""
        return self._ask(self._model(name), Model)

    def health(self) -> Health:
        """That it can score. Raises ServiceError with status 503 where it cannot, without retrying."""
        return decoded(_content(self._http.get("/health")), Health)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], kind: type[T]) -> T:
        return decoded(self._send(request), kind)

    def _send(self, request: dict[str, Any]) -> bytes:
        for wait in self.retries.waits():
            answer = None
            try:
                answer = self._http.request(**request)
            except RETRIED_ERRORS:
                if wait.last:
                    raise
            if answer is not None and not wait.again(answer):
                return _content(answer)
            time.sleep(wait.seconds)
        raise AssertionError  # the last of the waits returns or raises


class AsyncClient(_Requests):
    """Client, with await. Several requests may be under way at once."""

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        model: str | None = None,
        version: str | None = None,
        retries: Retries | None = None,
        **options: Any,
    ) -> None:
        """As Client; `options`: those of httpx.AsyncClient."""
        super().__init__(url, key, model, version, retries, **options)
        self._http = httpx.AsyncClient(**self._options)

    async def score(
        self, records: Sequence[Record], *, alpha: float | None = None, fdr: float | None = None, explain: Explain = "flagged"
    ) -> Answer:
        """As Client.score."""
        return await self._ask(self._score("records", records, alpha, fdr, explain), Answer)

    async def explain(self, records: Sequence[Record], *, alpha: float | None = None, fdr: float | None = None) -> Answer:
        """As Client.explain."""
        return await self._ask(self._post("explain", "records", records, {"alpha": alpha, "fdr": fdr}), Answer)

    async def score_columns(
        self,
        columns: Mapping[str, Sequence[Any]],
        *,
        alpha: float | None = None,
        fdr: float | None = None,
        explain: Explain = "none",
    ) -> ColumnAnswer:
        """As Client.score_columns."""
        return await self._ask(self._score("columns", columns, alpha, fdr, explain), ColumnAnswer)

    async def score_batches(
        self,
        records: Iterable[Record],
        *,
        size: int = BATCH,
        alpha: float | None = None,
        explain: Explain = "flagged",
        at_once: int = 1,
    ) -> AsyncIterator[Answer]:
        """As Client.score_batches, with up to `at_once` requests under way."""
        waiting: list[asyncio.Task[Answer]] = []
        try:
            for first, batch in batches(records, size):
                waiting.append(asyncio.create_task(self._score_at(first, batch, alpha, explain)))
                if len(waiting) >= at_once:
                    yield await waiting.pop(0)
            while waiting:
                yield await waiting.pop(0)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _score_at(self, first: int, records: Sequence[Record], alpha: float | None, explain: Explain) -> Answer:
        with placed(first):
            return await self.score(records, alpha=alpha, explain=explain)

    async def score_table(self, table: Any, *, size: int = 10 * BATCH, alpha: float | None = None) -> Any:
        """As Client.score_table."""
        from service.client_tables import join, split  # noqa: PLC0415 - Arrow is loaded where it is used

        answers, first = [], 0
        for body, rows in split(table, size):
            with placed(first):
                answers.append(await self._send(self._arrow(body, alpha)))
            first += rows
        return join(answers)

    async def model(self, name: str) -> Model:
        """As Client.model."""
        return await self._ask(self._model(name), Model)

    async def health(self) -> Health:
        """As Client.health."""
        return decoded(_content(await self._http.get("/health")), Health)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, request: dict[str, Any], kind: type[T]) -> T:
        return decoded(await self._send(request), kind)

    async def _send(self, request: dict[str, Any]) -> bytes:
        for wait in self.retries.waits():
            answer = None
            try:
                answer = await self._http.request(**request)
            except RETRIED_ERRORS:
                if wait.last:
                    raise
            if answer is not None and not wait.again(answer):
                return _content(answer)
            await asyncio.sleep(wait.seconds)
        raise AssertionError  # the last of the waits returns or raises


def batches(records: Iterable[Record], size: int) -> Iterator[tuple[int, list[Record]]]:
    """The records in lists of `size`, the last one shorter, and the place of each list's first."""
    if size < 1:
        raise ValueError(f"a batch of {size} records: 1 is the least")
    left, first = iter(records), 0
    while batch := list(islice(left, size)):
        yield first, batch
        first += size


@contextmanager
def placed(first: int) -> Iterator[None]:
    """Has a ServiceError name places in all records, of which the request begins with the one at `first`."""
    try:
        yield
    except ServiceError as error:
        raise error.shifted(first) from None


def _checked(name: str) -> str:
    """The name itself: of another, such as '..', the path would be that of another model, which would answer without a word."""
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a model or version: letters, digits, '.', '_' and '-', the first none of these")
    return name


def _content(answer: httpx.Response) -> bytes:
    if answer.status_code != httpx.codes.OK:
        raise error(answer.status_code, answer.content, answer.headers.get("X-Request-ID", ""))
    return answer.content
