"""The endpoints beside POST /score: health, metrics, models. Each a few lines over the registry."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import PlainTextResponse

from service import metrics
from service.drift_document import DriftDocument, document
from service.encoding import as_written
from service.errors import Problem, not_ready
from service.live import Live
from service.manifest import NAME, BundleError
from service.parts import Parts
from service.rules import in_words
from service.schemas import DroppedInfo, FeatureInfo, Health, ModelDetail, ModelList, ModelSummary, Probe, Reloaded, problems

health = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["metrics"])
models = APIRouter(tags=["models"])


async def the_service(request: Request) -> Parts:
    """The parts of the application that this request came to."""
    return cast(Parts, request.app)


App = Annotated[Parts, Depends(the_service)]


async def needs_key(request: Request, service: App) -> None:
    """Lets an API or admin key pass."""
    service.keys.check_api(request.scope["fields"])


async def needs_admin_key(request: Request, service: App) -> None:
    """Lets an admin key pass."""
    service.keys.check_admin(request.scope["fields"])


async def needs_metrics_key(request: Request, service: App) -> None:
    """Lets a key pass where the settings ask for one."""
    if service.settings.metrics_need_key:
        service.keys.check_api(request.scope["fields"])


@health.get("/health", response_model=Health, responses=problems(503, model="Unavailable"))
async def get_health(request: Request, service: App) -> Response:
    """200 if a score can be given, known because one was given seconds ago or just now."""
    reason = why_unavailable(service)
    if reason is not None:
        return unavailable(request, reason)
    watched, default = watched_models(service)
    told = {
        "status": "ok",
        "model": default.name if default else None,
        "version": default.version if default else None,
        "provider": default.detector.provider if default else None,
        "gpu_lost": next((live.detector.gpu_lost for live in watched if live.detector.gpu_lost), None),
        "uptime_s": round(time.monotonic() - service.started_at, 3),
        "last_score_age_s": round(time.monotonic() - max(live.scored_at for live in watched), 3),
        "queue_rows": service.permits.taken,
        "models": {live.name: live.version for live in service.registry},
        "refused": service.registry.refused_names(),
        "shadow": service.registry.shadow.document() if service.registry.shadow is not None else None,
        "warnings": drift_warnings(service.registry),
    }
    return Response(orjson.dumps(told), media_type="application/json", headers={"cache-control": "no-store"})


@health.get("/health/live", response_model=Probe)
async def get_live() -> Response:
    """200 as long as the process answers at all."""
    return Response(b'{"status":"live"}', media_type="application/json")


@health.get("/health/ready", response_model=Probe, responses=problems(503, model="Unavailable"))
async def get_ready(request: Request, service: App) -> Response:
    """200 if requests should be sent here."""
    answer = await get_health(request, service)
    return answer if answer.status_code != 200 else Response(b'{"status":"ready"}', media_type="application/json")


def drift_warnings(lives: Iterable[Live]) -> list[str]:
    """What has changed since the models were trained, in words. Names of features need a key, and are left to the route."""
    told = []
    for live in lives:
        features = {warned.feature for warned in live.watch.warnings if warned.feature is not None}
        what = [warned.reason for warned in live.watch.warnings if warned.reason is not None]
        what += [f"{len(features)} of {len(live.watch.features)} features drifted"] if features else []
        what += ["p-values are not uniform any more"] if any(w.kind == "p_values" for w in live.watch.warnings) else []
        if what:
            told.append(f"{live.name} {live.version}: {', '.join(what)}: see GET /models/{live.name}/drift")
    return told


def why_unavailable(service: Parts) -> str | None:
    """Why no request should be sent here, or None."""
    try:
        watched, _ = watched_models(service)
    except Problem as problem:
        return problem.detail
    for live in watched:
        reason = live.unavailable(service.settings.health_seconds)
        if reason is not None:
            return f"{live.name} {live.version}: {reason}."
    return "The service is shutting down." if service.draining else None


def watched_models(service: Parts) -> tuple[list[Live], Live | None]:
    """The models whose health is the service's: the default one; all, where there is none. Raises the Problem of having none."""
    try:
        default = service.registry.default()
    except Problem as problem:
        every = list(service.registry)
        if problem.code != "no_default_model" or not every:
            raise
        return every, None
    return [default], default


def unavailable(request: Request, reason: str) -> Response:
    """The 503 of /health: a problem document, but with the word for a status that health documents have."""
    return response(request, not_ready(reason, status="unavailable", reason=reason))


def response(request: Request, problem: Problem) -> Response:
    """A problem as the answer to a request, whose line in the log has its code."""
    request.scope["code"] = problem.code
    request_id = request.scope["request_id"]
    body = problem.body(request_id)
    answer = Response(body, problem.status)
    answer.raw_headers = problem.head(body, request_id)
    return answer


@metrics_router.get(
    "/metrics", dependencies=[Depends(needs_metrics_key)], response_class=PlainTextResponse, responses=problems(401)
)
async def get_metrics(service: App) -> Response:
    """Prometheus text, of all workers together."""
    text = service.metrics.text() if service.shared_metrics is None else await service.shared_metrics.text()
    return Response(text, media_type=metrics.CONTENT_TYPE)


@models.get("/models", dependencies=[Depends(needs_key)], responses=problems(401))
async def get_models(service: App) -> ModelList:
    """Names, served versions and thresholds."""
    live = {model.name: model for model in service.registry}
    default = default_name(service)
    return ModelList(models=[ModelSummary(**_summary(name, live.get(name), default)) for name in service.registry.names()])


@models.get("/models/{name}", dependencies=[Depends(needs_key)], responses=problems(401, 404, 503))
async def get_model(name: str, service: App) -> ModelDetail:
    """All that is to know of a model: features, threshold, training metrics, versions."""
    return await _detail(service.registry.get(name), service)


@models.get("/models/{name}/versions/{version}", dependencies=[Depends(needs_key)], responses=problems(401, 404, 503))
async def get_version(name: str, version: str, service: App) -> ModelDetail:
    """The same of a version, served or not. It is loaded for that."""
    return await _detail(await service.registry.get_version(name, version), service)


@models.get("/models/{name}/drift", dependencies=[Depends(needs_key)], responses=problems(401, 404, 503))
async def get_drift(name: str, service: App) -> DriftDocument:
    """How far what the served version scores is from what it was trained on and calibrated with."""
    live = service.registry.get(name)
    return document(live.name, live.version, live.loaded_at, live.watch)


@models.post("/models/{name}/reload", dependencies=[Depends(needs_admin_key)], responses=problems(401, 403, 404, 409))
async def reload_model(name: str, service: App) -> Reloaded:
    """Takes up the version that CURRENT names now; what serves goes on serving where that one is refused."""
    if not NAME.fullmatch(name) or not await service.registry.published(name):
        raise Problem("model_not_found", "No model of this name is published: see GET /models.")
    try:
        live = await service.registry.reload(name)
    except BundleError as error:
        raise Problem("bundle_refused", f"{error}.") from None
    return Reloaded(name=live.name, version=live.version)


def default_name(service: Parts) -> str | None:
    """The name of the default model, if there is one."""
    try:
        return service.registry.default().name
    except Problem:
        return None


async def _detail(live: Live, service: Parts) -> ModelDetail:
    manifest = live.detector.manifest
    return ModelDetail(
        **_summary(live.name, live, default_name(service)),
        versions=await service.registry.versions(live.name),
        provider=live.detector.provider,
        loaded_at=live.loaded_at.isoformat(timespec="seconds"),
        smallest_alpha=live.detector.smallest_alpha,
        calibration_records=len(manifest.calibration.scores),
        features=[
            FeatureInfo(
                **feature.model_dump(exclude={"reference", "low", "high"}),
                low=as_written(feature.low),
                high=as_written(feature.high),
            )
            for feature in manifest.features
        ],
        dropped=[DroppedInfo(**dropped.model_dump()) for dropped in manifest.dropped],
        warnings=list(manifest.warnings),
        rules=in_words(manifest.rules, manifest.features),
        metrics=manifest.metrics,
        training=manifest.training,
        libraries=manifest.libraries,
    )


def _summary(name: str, live: Live | None, default: str | None) -> dict[str, Any]:
    manifest = live.detector.manifest if live else None
    return {
        "name": name,
        "version": live.version if live else None,
        "default": name == default,
        "ready": live is not None and not live.failed,
        "score_kind": manifest.score_kind if manifest else None,
        "alpha": manifest.alpha if manifest else None,
        "threshold": as_written(manifest.threshold) if manifest else None,
    }
