"""The page for people at /, and what it asks for: the last hour, the latest flagged records, an example, the training report."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse
from numpy.typing import NDArray

from service.activity import shares
from service.bodies import read_body
from service.encoding import as_written, decode
from service.errors import Problem
from service.limits import ClientGoneError, Holding
from service.manifest import Manifest, column_slices
from service.metrics import SCORES
from service.page_schemas import ActivityDocument, ExampleRecord
from service.routes import App, needs_key
from service.schemas import problems

page = APIRouter(tags=["page"])
SCRIPTS = ("dom.js", "charts.js", "records.js", "drift.js", "page.js")
NO_PAGE = "This service shows no page: ANOMALY_PAGE is off."
FORM = b"application/x-www-form-urlencoded"
MAX_FORM_BYTES = 4096
REPORT_FORM = {
    "requestBody": {"content": {FORM.decode(): {"schema": {"type": "object", "properties": {"key": {"type": "string"}}}}}}
}
GUARDS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cache-control": "no-cache"}
# The report has no script, and all that it shows is inside it.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'; sandbox"


@cache
def document() -> tuple[bytes, str]:
    """The page, whole, and the policy that lets nothing but its own style and script run."""
    there = files("service") / "web"
    style = (there / "page.css").read_text(encoding="utf-8")
    script = "\n".join((there / name).read_text(encoding="utf-8") for name in SCRIPTS)
    shell = (there / "page.html").read_text(encoding="utf-8")
    html = shell.replace("/* style */", style).replace("/* script */", script)
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    return html.encode(), policy


async def needs_page(service: App) -> None:
    """Raises the 404 where the settings turn the page off."""
    if not service.settings.page:
        raise Problem("not_found", NO_PAGE)


async def needs_key_or_form(request: Request, service: App) -> None:
    """Lets an API or admin key pass, in a header or, as a browser opens a page with, in the field `key` of a form."""
    headers = dict(request.scope["fields"])
    if headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower() == FORM:
        body = b""
        with contextlib.suppress(ClientGoneError), Holding(service.room) as held:
            body = await read_body(await request.receive(), request.receive, MAX_FORM_BYTES, held)
        given = parse_qs(body.decode("latin-1")).get("key", [""])[0]
        headers[b"authorization"] = b"Bearer " + given.encode()
    service.keys.check_api(headers)


@page.get("/", dependencies=[Depends(needs_page)], response_class=HTMLResponse, responses=problems(404))
async def get_page() -> Response:
    """The page for people. It holds no data: what it shows it asks for, with the key that is typed into it."""
    html, policy = document()
    return Response(html, media_type="text/html", headers={"content-security-policy": policy, **GUARDS})


@page.get(
    "/models/{name}/activity",
    dependencies=[Depends(needs_page), Depends(needs_key)],
    response_model=ActivityDocument,
    responses=problems(401, 404, 503),
)
async def get_activity(name: str, service: App) -> Response:
    """The last hour of this process and of a model in it, and the latest records that the served version flagged."""
    live = service.registry.get(name)
    manifest = live.detector.manifest
    told = service.activity.document(name)
    told["scores"]["expected"] = shares(np.array(manifest.calibration.scores), SCORES)
    head = {
        "model": live.name,
        "version": live.version,
        "provider": live.detector.provider,
        "score_kind": manifest.score_kind,
        "alpha": manifest.alpha,
        "threshold": as_written(manifest.threshold),
        "workers": service.settings.workers,
        "values": service.settings.page_values,
    }
    body = orjson.dumps({**head, **told, "latest": live.latest.documents()})
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


@page.get("/models/{name}/example", dependencies=[Depends(needs_key)], responses=problems(401, 404, 503))
async def get_example(name: str, service: App) -> ExampleRecord:
    """A record to try the model with: what it expects of a record of which it is told nothing. No record of the training."""
    live = service.registry.get(name)
    manifest = live.detector.manifest
    nothing = np.full((1, manifest.width), np.nan, np.float32)
    expected = live.detector.score(nothing, explain="all").expected[0]
    return ExampleRecord(model=live.name, version=live.version, record=example(manifest, expected))


@page.post(
    "/models/{name}/report",
    dependencies=[Depends(needs_key_or_form)],
    response_class=HTMLResponse,
    responses=problems(401, 404, 413, 503),
    openapi_extra=REPORT_FORM,
)
@page.get(
    "/models/{name}/report",
    dependencies=[Depends(needs_key)],
    response_class=HTMLResponse,
    responses=problems(401, 404, 503),
)
async def get_report(name: str, service: App) -> Response:
    """The training report of the served version, as HTML. The page asks by POST, with the key in a form."""
    content = await service.registry.report(service.registry.get(name))
    return Response(content, media_type="text/html", headers={"content-security-policy": REPORT_POLICY, **GUARDS})


def example(manifest: Manifest, columns: NDArray[np.float32]) -> dict[str, Any]:
    """The record of columns (C,), with values as a request has them."""
    parts = [columns[at] for at in column_slices(manifest.features)]
    return {
        feature.name: _moment(part) if feature.kind == "datetime" else decode(feature, part)
        for feature, part in zip(manifest.features, parts, strict=True)
    }


def _moment(parts: NDArray[np.float32]) -> str | None:
    """A datetime of this hour, weekday and month: in this year, the first such day of the month."""
    if np.isnan(parts).any():
        return None
    minutes, weekday = round(float(parts[0]) * 60) % 1440, round(float(parts[1])) % 7
    first = date.today().replace(month=(round(float(parts[2])) - 1) % 12 + 1, day=1)
    day = first + timedelta(days=(weekday - first.weekday()) % 7)
    return f"{day.isoformat()}T{minutes // 60:02}:{minutes % 60:02}:00"


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
