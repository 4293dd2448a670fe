"""The OpenAPI document: what FastAPI tells of its own routes, mended, and the scoring routes, which it does not know.

Made for generators of clients as much as for readers: what a program makes of it must authenticate, send and read.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from service.manifest import Manifest
from service.request_schemas import ANY_MODEL, EXPLAIN, RATE, Schemas, request_schemas
from service.schemas import (
    PROBLEM_TYPE,
    REFERENCE,
    ColumnsAnswer,
    ExplainAnswer,
    ProblemDocument,
    RecordsAnswer,
    Unavailable,
    problems,
)

Schemes = dict[str, list[str]]
KEYS: list[Schemes] = [{"bearer": []}, {"apiKey": []}]
NOBODY: Schemes = {}  # a way to authenticate: with nothing
ABOUT = "Anomaly scores for tabular records, live: conformal p-values, verdicts at a false-alarm rate, and which features did it."
TAGS = {
    "scoring": "Records in, scores, p-values, verdicts and reasons out",
    "models": "What is served, and how far the world has moved from it",
    "health": "For orchestrators and load balancers",
    "metrics": "For Prometheus",
    "page": "The page for people, and what it asks for",
    "open inference protocol": "Version 2, as KServe, Triton and MLServer speak it",
}
TIMEOUT_HEADER: dict[str, Any] = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "description": "how long the client waits; a request that is older before it is scored gets 503 deadline_exceeded",
    "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999},
}
QUERY: list[dict[str, Any]] = [  # of bodies that have no room for them
    {"name": name, "in": "query", "description": f"{of} only; JSON has it in the body", "schema": schema}
    for name, of, schema in (
        ("alpha", "NDJSON and Arrow", RATE),
        ("fdr", "Arrow", RATE),
        ("explain", "NDJSON", EXPLAIN),
    )
]


def operation_id(route: APIRoute) -> str:
    """What generators call a route: its function's name, but for those of which there are two."""
    name = route.name if "GET" in (route.methods or ()) else route.name.replace("get_", "post_", 1)
    return f"v2_{name}" if route.path.startswith("/v2") else name


def complete(document: dict[str, Any], *, with_keys: bool, metrics_need_key: bool) -> None:
    """Mends what FastAPI says of its own routes.

    with_keys: whether API keys are set. Every other answer of an operation may be a problem document, too.
    """
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(schemas_of((ProblemDocument, "serialization"), (Unavailable, "serialization")))
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document["info"]["description"] = ABOUT
    document["servers"] = [{"url": "."}]  # relative to where the document is: right below a prefix, too
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items()]
    for path, operation in ((path, each) for path, item in document["paths"].items() for each in item.values()):
        told = operation["responses"]
        if "HTTPValidationError" in str(told.get("422")):  # beside every path with a parameter: any text is one
            del told["422"]
        keyed = "401" in told and (path != "/metrics" or metrics_need_key)
        operation["security"] = secured(with_keys) if keyed else []
        told["default"] = {"description": "Any other error", "content": problem_content()}


def add_operation(document: dict[str, Any], path: str, name: str, operation: dict[str, Any], schemas: Schemas) -> None:
    """Adds an operation and its route, which FastAPI does not know as its own."""
    document["components"]["schemas"].update(schemas)
    names = re.findall(r"{(\w+)}", path)
    parameters = [{"name": each, "in": "path", "required": True, "schema": {"type": "string"}} for each in names]
    parameters += operation["parameters"]
    told = {**operation["responses"], "default": {"description": "Any other error", "content": problem_content()}}
    own = {"operationId": name + {0: "", 1: "_model", 2: "_version"}[len(names)], "parameters": parameters, "responses": told}
    document["paths"][path] = {"post": {**operation, **own}}


def secured(with_keys: bool) -> list[Schemes]:
    """What an operation that asks for a key may be given."""
    return KEYS if with_keys else [NOBODY, *KEYS]


def problem_content() -> dict[str, Any]:
    """The content of any error."""
    return {PROBLEM_TYPE: {"schema": {"$ref": REFERENCE.format(model="ProblemDocument")}}}


def schemas_of(*models: tuple[type[BaseModel], JsonSchemaMode]) -> Schemas:
    """The JSON schemas of models and of what they are made of, by name.

    Without defaults that are null: what may be left out is not required, and null is no default of a list.
    """
    found: Schemas = models_json_schema(list(models), ref_template=REFERENCE)[1]["$defs"]
    waiting: list[Any] = [found]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "default" in one and one["default"] is None:
                del one["default"]
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return found


def score_operation(manifest: Manifest | None, *, values: bool, with_keys: bool) -> tuple[dict[str, Any], Schemas]:
    """The OpenAPI operation of POST /score for this model, for any without one, and the schemas that it refers to.

    values: whether to tell the range of numbers and the most frequent categories of the training table.
    """
    requests = request_schemas(manifest, values=values)
    bodies = list(requests)[:2]
    schemas = requests | schemas_of((RecordsAnswer, "serialization"), (ColumnsAnswer, "serialization"))
    request, answer = f"Score{'' if manifest else ANY_MODEL}Request", "ScoreAnswer"
    schemas[request] = one_of(*bodies)
    schemas[answer] = one_of(RecordsAnswer.__name__, ColumnsAnswer.__name__)
    operation = {
        "tags": ["scoring"],
        "summary": "Score records",
        "description": "Anomaly scores, conformal p-values, verdicts and reasons. Also with Content-Encoding: gzip.",
        "security": secured(with_keys),
        "parameters": [*QUERY, TIMEOUT_HEADER],
        "requestBody": {"required": True, "content": _bodies(request, "a record")},
        "responses": _responses(_bodies(answer, "a result")),
    }
    return operation, schemas


def explain_operation(manifest: Manifest | None, *, values: bool, with_keys: bool) -> tuple[dict[str, Any], Schemas]:
    """The OpenAPI operation of POST /explain, as score_operation."""
    schemas = request_schemas(manifest, values=values) | schemas_of((ExplainAnswer, "serialization"))
    scored = next(iter(schemas.values()))
    request = f"Explain{'' if manifest else ANY_MODEL}Request"
    asked = {name: schema for name, schema in scored["properties"].items() if name != "explain"}
    schemas[request] = {**scored, "title": request, "properties": asked}
    operation = {
        "tags": ["scoring"],
        "summary": "Explain records",
        "description": "As POST /score of records, and what would be said of each without each of its values, in turn. "
        "What comes here is not counted among the live records that are watched. Also with Content-Encoding: gzip.",
        "security": secured(with_keys),
        "parameters": [TIMEOUT_HEADER],
        "requestBody": {"required": True, "content": _json(request)},
        "responses": _responses(_json(ExplainAnswer.__name__)),
    }
    return operation, schemas


def _responses(content: dict[str, Any]) -> dict[int | str, Any]:
    """Those of an operation that scores, whose 200 has this content."""
    timing = {"schema": {"type": "string"}, "description": "milliseconds of parse, queue, inference, total"}
    return {
        "200": {
            "description": "A result for each record, in their order",
            "headers": {"X-Request-ID": {"schema": {"type": "string"}}, "Server-Timing": timing},
            "content": content,
        },
        **problems(400, 401, 404, 408, 413, 415, 422, 429, 431, 500, 503),
    }


def one_of(*names: str) -> dict[str, Any]:
    """The schema of what is one of these."""
    return {"oneOf": [{"$ref": REFERENCE.format(model=name)} for name in names]}


def _json(model: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": REFERENCE.format(model=model)}}}


def _bodies(model: str, line: str) -> dict[str, Any]:
    return {
        **_json(model),
        "application/x-ndjson": {"schema": {"type": "string", "description": f"{line} a line"}},
        "application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}},
    }
