"""A client of the real application, without sockets: its lifespan runs, and each call returns when the answer is whole."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import httpx

from service.app import Service, create_app
from service.settings import Settings


class Client:
    """Runs an application on a loop of its own; `post` and `get` as httpx has them."""

    def __init__(self, settings: Settings) -> None:
        self._runner = asyncio.Runner()
        self.app: Service = create_app(settings)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://service")
        self._lifespan = self.app.router.lifespan_context(self.app)
        self.run(self._lifespan.__aenter__())

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of work on the application's loop, when what it has logged is written, too."""
        result = self._runner.run(work)
        written = threading.Event()
        if not self.app.requests._ending:
            self.app.requests._submit([], written.set)
            assert written.wait(20)
        return result

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """One request, one answer."""
        answer: httpx.Response = self.run(self.http.request(method, path, **more))
        return answer

    def get(self, path: str, **more: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        """POST."""
        return self.request("POST", path, **more)

    def score(self, body: Any, path: str = "/score") -> Any:
        """The document of a 200."""
        answer = self.post(path, **({"content": body} if isinstance(body, bytes) else {"json": body}))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def close(self) -> None:
        """Ends the application."""
        self.run(self.http.aclose())
        self.run(self._lifespan.__aexit__(None, None, None))
        self._runner.close()


async def until(condition: Callable[[], Any]) -> None:
    """Waits until the condition holds, 20 s at most."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The document of an answer, which must be an error in the one shape that errors have."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "code", "detail", "request_id"} <= document.keys()
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:anomaly:error:{code}"
    assert document["request_id"] == answer.headers["x-request-id"]
    assert all(error.keys() == {"loc", "message"} for error in document.get("errors", []))
    assert "Traceback" not in answer.text
    return document
