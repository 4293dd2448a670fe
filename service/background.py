"""The thread in which large bodies are scored, so that the event loop goes on answering."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from starlette.types import Receive

from service.limits import ClientGoneError, Permits, too_late
from service.live import Live
from service.runs import Answer, Observed, count

if TYPE_CHECKING:
    from service.tracing import Trace

T = TypeVar("T")
Done = tuple[Answer, Observed | None, float, float]  # the last two: when it began, and the seconds of parsing


class Background:
    """One thread, which takes what it is given in turn. Its methods belong to the event loop."""

    def __init__(self, permits: Permits) -> None:
        self._permits, self._thread = permits, ThreadPoolExecutor(1, "score")

    async def answer(
        self, live: Live, rows: int, work: Callable[[], Done], until: float, trace: Trace | None, receive: Receive
    ) -> tuple[Answer, float, float]:
        """The answer that `work` gives, what it observed counted, and the seconds of parsing and of waiting.

        Raises the 429 where so many rows may not wait, the 503 after `until`; ClientGoneError. The body has been received: what
        comes next is that the client has gone. Work that has not begun by then never does.
        """
        self._permits.take(rows)
        queued = perf_counter()
        running, gone = self.run(rows, work, until), asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((running, gone), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise ClientGoneError
            return account(live, running.result(), queued, trace)
        finally:
            gone.cancel()
            running.cancel()

    def run(self, rows: int, work: Callable[[], T], until: float) -> asyncio.Future[T]:
        """What work gives in the thread, unless it is too late. Rows stay permitted until the thread has done with them, or the
        future is cancelled before it has begun: nothing of the request is kept then.
        """
        held = [work]

        def in_time() -> T:
            if until < perf_counter():
                raise too_late()
            return held[0]()

        try:
            running = self._thread.submit(in_time)
        except BaseException:
            self._permits.give_back(rows)
            raise
        loop = asyncio.get_running_loop()
        running.add_done_callback(lambda _: held.clear())
        running.add_done_callback(lambda _: _call_on(loop, self._permits.give_back, rows))
        return asyncio.wrap_future(running)

    def close(self) -> None:
        """Ends the thread, when no request is left."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def account(live: Live, done: Done, queued: float, trace: Trace | None) -> tuple[Answer, float, float]:
    """Counts and traces what was done after it had waited since `queued`; its answer, and the seconds of parsing and waiting."""
    answer, observed, began, parse = done
    if observed is not None:
        count(live, observed)
    if trace is not None:
        trace.add((queued, began - queued), (began, parse), (answer.began, answer.inference))
    return answer, parse, began - queued


async def _until_gone(receive: Receive) -> None:
    """Of a request whose body has been received."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _call_on(loop: asyncio.AbstractEventLoop, function: Callable[[int], None], rows: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, rows)
