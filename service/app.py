"""The application: its endpoints, and what every request passes through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from logging import ERROR, WARNING
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import docs_page, explanations, log, memory, open_inference, open_inference_routes, openapi, page, routes
from service.auth import Keys
from service.errors import Problem, from_status, internal_error, shutting_down
from service.explanations import Explanations, explain_route
from service.limits import CLIENT_GONE, ClientGoneError
from service.open_inference import Inference, infer_route
from service.parts import Parts
from service.scoring import ROUTES, Scoring, score_route
from service.settings import Settings, SettingsError
from service.watch import digest_for_ever

if TYPE_CHECKING:
    from service.tracing import Tracing

OK, METHOD_NOT_ALLOWED = 200, 405
CANNOT_START = 2  # the exit code where settings cannot be used
ROUTERS = (routes.health, routes.metrics_router, routes.models, open_inference_routes.router, page.page, docs_page.router)
PROBES = ("/health", "/v2/health", "/metrics")  # asked every few seconds: the log of an idle service would be of nothing else
DOCUMENTS = ("/docs", "/openapi.json")


def create_app(settings: Settings | None = None) -> Service:
    """The application with these settings; raises SettingsError. By default with those of the environment: then, as whoever
    starts it by name catches nothing, one that cannot be used is told in a line, and ends the process.
    """
    if settings is not None:
        return Service(settings)
    try:
        return Service(Settings.read())
    except SettingsError as error:
        log.event(ERROR, str(error))
        raise SystemExit(CANNOT_START) from None


class Service(FastAPI, Parts):
    """A FastAPI application in which POST /score goes straight to its endpoint."""

    def __init__(self, settings: Settings) -> None:
        log.configure(settings.log_format)
        Parts.__init__(self, settings, start_tracing(settings))
        log.configure(settings.log_format, self.requests)
        FastAPI.__init__(
            self,
            title="Tabular anomaly detection",
            version=product_version(),
            lifespan=_lifespan,
            docs_url=None,
            redoc_url=None,
            swagger_ui_oauth2_redirect_url=None,
            # FastAPI's own telemetry would tell of all but the scores, and of validation errors with the values that were sent.
            telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": False},
            generate_unique_id_function=openapi.operation_id,
            redirect_slashes=False,  # its Location would name whatever host the client named
        )
        self._endpoints: dict[str, ASGIApp] = {
            **dict.fromkeys(ROUTES, Scoring(self)),
            **dict.fromkeys(explanations.ROUTES, Explanations(self)),
            **dict.fromkeys(open_inference.ROUTES, Inference(self)),
        }
        for path, endpoint in self._endpoints.items():
            self.router.routes.append(Route(path, endpoint, methods=["POST"], include_in_schema=False))
        for router in ROUTERS:
            self.include_router(router)
            for route in router.routes:
                if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
                    self.head(route.path, dependencies=route.dependencies, include_in_schema=False)(route.endpoint)
        self.add_exception_handler(HTTPException, _refuse_framework)
        self.add_exception_handler(Problem, _refuse)
        self.add_exception_handler(Exception, _refuse_fault)
        self._documented: tuple[str, str] | None = None
        self.metrics.not_ready = lambda: routes.why_unavailable(self) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, whatever becomes of it: with its id, a line in the log and a count."""
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        began = perf_counter()
        fields = scope["fields"] = dict(scope["headers"])  # of the head, by name
        request_id = scope["request_id"] = self.request_id(fields)
        path, method = scope["path"], scope["method"]
        route = scoring_route(path) if method == "POST" and not self.draining else None
        begun = False

        async def note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        trace = scope["trace"] = None if self.tracing is None or route is None else self.tracing.begin(fields)
        try:
            if route is not None:
                await self._endpoints[route](scope, receive, note)
                status = OK
            else:
                route, status = await self._answer(scope, receive, note)
        except ClientGoneError:
            refused = scope.get("refused")  # by its connection, which has answered it already
            status, scope["code"] = (CLIENT_GONE, None) if refused is None else (refused.status, refused.code)
        except asyncio.CancelledError:  # the time that requests have after SIGTERM is over
            problem = open_inference_routes.with_error(self.problem(shutting_down(), request_id), path)
            told = scope.get("live"), None, trace, problem.code, None
            self.count(route or "other", method, log.quoted(path), problem.status, request_id, began, *told)
            if not begun:
                await self._send(problem, request_id, send)
            raise
        except Exception as error:  # noqa: BLE001 - the client learns nothing of it, and the log its class and place
            route = route or unrouted(path)
            problem = open_inference_routes.with_error(self.problem(error, request_id), path)
            scope["code"] = problem.code
            status = await self._send(problem, request_id, send)
        quiet = status == OK and route is not None and route.startswith(PROBES)
        answered = scope.get("live"), scope.get("scored"), trace, scope.get("code"), scope.get("client")
        self.count(route or "other", method, log.quoted(path), status, request_id, began, *answered, quiet=quiet)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> tuple[str, int]:
        """Any other request, through FastAPI: its route, as the metrics name it, and the status of the answer."""
        path, status = scope["path"], 0
        if self.draining and not path.startswith(("/health", "/v2/health")):
            raise shutting_down()
        if self.settings.docs_need_key and path in DOCUMENTS:
            self.keys.check_api(scope["fields"])

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not any(name == b"x-request-id" for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (b"x-request-id", scope["request_id"].encode())]
            await send(message)

        try:
            await super().__call__(scope, receive, note)
        except Exception as error:
            if not status:
                raise
            log.fault(error, request_id=scope["request_id"])  # the framework has answered, and passes the error on
        return str(getattr(scope.get("route"), "path", scoring_route(path) or unrouted(path))), status

    async def _send(self, problem: Problem, request_id: str, send: Send) -> int:
        body = problem.body(request_id)
        await send({"type": "http.response.start", "status": problem.status, "headers": problem.head(body, request_id)})
        await send({"type": "http.response.body", "body": body})
        return problem.status

    def openapi(self) -> dict[str, Any]:
        """The document; POST /score as the features of the default model have it, whichever is served now, the others of any.

        Values of the training table are only in it where whoever may read it may also score.
        """
        name = routes.default_name(self)
        manifest = self.registry.get(name).detector.manifest if name else None
        key = (name or "", self.registry.get(name).version if name else "")
        if self._documented != key:
            self.openapi_schema = None
        document = super().openapi()
        if self._documented != key:
            with_keys = not self.keys.open
            openapi.complete(document, with_keys=with_keys, metrics_need_key=self.settings.metrics_need_key)
            values = self.keys.open or self.settings.docs_need_key
            for path, of in zip(ROUTES, (manifest, None, None), strict=True):
                told = openapi.score_operation(of, values=values, with_keys=with_keys)
                openapi.add_operation(document, path, "score", *told)
                told = openapi.explain_operation(of, values=values, with_keys=with_keys)
                openapi.add_operation(document, path.replace("/score", "/explain"), "explain", *told)
            for path in open_inference.ROUTES:
                openapi.add_operation(document, path, "infer", *open_inference_routes.infer_operation(with_keys=with_keys))
            self._documented = key
        return document


def scoring_route(path: str) -> str | None:
    """Which of the scoring routes a path is: looked at directly, as the framework's router takes longer than the score."""
    return score_route(path) or explain_route(path) or infer_route(path)


def unrouted(path: str) -> str:
    """What the metrics call the route of a path that the framework has not found, or was not asked for."""
    return path if path in DOCUMENTS else "other"


def check_start(settings: Settings) -> None:
    """Raises SettingsError where an application with these settings could not be made: keys, or tracing, that cannot be had."""
    Keys(settings)
    if tracing := start_tracing(settings):
        tracing.close()


def start_tracing(settings: Settings) -> Tracing | None:
    """The tracing that the settings ask for. Raises SettingsError where it cannot be had."""
    if not settings.tracing:
        return None
    from service.tracing import Tracing  # noqa: PLC0415 - most services never need it

    return Tracing.from_environment(product_version())


def product_version() -> str:
    """The installed version of this service."""
    try:
        return version("tabular-anomaly-service")
    except PackageNotFoundError:
        return "0"


@asynccontextmanager
async def _lifespan(service: Any) -> AsyncIterator[None]:
    if service.keys.open:
        log.event(WARNING, "no API key is set: anybody who reaches this port may score; set ANOMALY_API_KEYS")
    memory.give_back()
    await service.registry.start()
    loops = [digest_for_ever(service.registry.loaded), memory.give_back_for_ever(), service.keys.watch_for_ever()]
    if service.settings.page:
        loops.append(service.activity.tick_for_ever())
    if service.shared_metrics is not None:
        loops.append(service.shared_metrics.write_for_ever())
    tasks = [asyncio.create_task(loop) for loop in loops]
    for task in tasks:
        task.add_done_callback(_tell_why_it_ended)
    yield
    service.draining = True
    service.refuse_unfinished()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await service.registry.stop()
    if service.shared_metrics is not None:
        await service.shared_metrics.close()
    service.background.close()
    if service.tracing is not None:
        await asyncio.to_thread(service.tracing.close)
    service.requests.close()


def _tell_why_it_ended(task: asyncio.Task[None]) -> None:
    """Of a loop that is to go on for ever."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.fault(error, "a task in the background ended")


async def _refuse(request: Request, error: Exception) -> Response:
    problem = open_inference_routes.with_error(cast(Problem, error), request.scope["path"])
    request.app.metrics.errors[problem.code] += 1
    return routes.response(request, problem)


async def _refuse_framework(request: Request, error: Exception) -> Response:
    refused = cast(HTTPException, error)
    headers = refused.headers
    if refused.status_code == METHOD_NOT_ALLOWED:  # of the routes with this path, the framework names the methods of one
        headers = {**(headers or {}), "Allow": ", ".join(sorted(_methods(request)))}
    return await _refuse(request, from_status(refused.status_code, headers))


def _methods(request: Request) -> set[str]:
    """The methods that any route with the path of this request answers."""
    every = chain(request.app.routes, *(router.routes for router in ROUTERS))
    there = [route for route in every if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE]
    return {method for route in there for method in route.methods or ()}


async def _refuse_fault(request: Request, error: Exception) -> Response:  # noqa: ARG001 - the log has it, the client must not
    return await _refuse(request, internal_error())
