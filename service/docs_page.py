"""/docs: Swagger UI on this service's own OpenAPI document, from files that are installed: nothing comes from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from service.errors import Problem

router = APIRouter(include_in_schema=False)
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}


@router.get("/docs")
async def get_docs(request: Request) -> Response:
    """The page; its links are relative, so that it works behind a proxy's prefix."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=request.app.title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="docs/favicon.png",
    )
    digests = [hashlib.sha256(own).digest() for own in re.findall(rb"<script>(.*?)</script>", bytes(page.body), re.DOTALL)]
    own = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = f"default-src 'none'; script-src 'self' {own}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    page.headers["content-security-policy"] = policy + "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
    return page


@router.get("/docs/{name}")
async def get_asset(name: str) -> Response:
    """One of Swagger UI's files, the same for as long as this version of it is installed."""
    if name not in ASSETS:
        raise Problem("not_found", "No such path.")
    content = (files("fastapi_offline") / "static" / name).read_bytes()
    return Response(content, media_type=ASSETS[name], headers={"cache-control": "max-age=3600"})
