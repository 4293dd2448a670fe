"""Open Inference Protocol v2 beside infer: health, and metadata of server and models; and what OpenAPI says of infer."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from service.errors import Problem, not_ready
from service.live import Live
from service.manifest import DATETIME_PARTS, Feature
from service.open_inference_request import MORE_OUTPUTS, OUTPUTS
from service.openapi import TIMEOUT_HEADER, schemas_of, secured
from service.routes import App, needs_key, why_unavailable
from service.schemas import REFERENCE, problems

router = APIRouter(tags=["open inference protocol"])
TENSOR = "x"
DATATYPES = {"numeric": "FP64", "boolean": "BOOL", "datetime": "BYTES"}
OUTPUT_DATATYPES = {"p_value": "FP64", "is_anomaly": "BOOL"}  # the others are FP32
JSON, BINARY = "application/json", "application/octet-stream"


class ServerLive(BaseModel):
    """That the process answers."""

    live: bool


class ServerReady(BaseModel):
    """That requests should be sent here."""

    ready: bool


class ModelReady(ServerReady):
    """That a model can give scores."""

    name: str


class ServerMetadata(BaseModel):
    """Who answers."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """An input or output."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1: the number of records")


class ModelMetadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata] = Field(description="one for each feature; each may be left out")
    outputs: list[TensorMetadata]
    parameters: dict[str, Any] = Field(
        description="x: the one input that may be sent instead, and its columns; contributions: what its columns are of"
    )


class Tensor(BaseModel):
    """A tensor of a request or an answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = Field(None, description="binary_data_size: its bytes follow the JSON")
    data: list[Any] | None = None


class WantedOutput(BaseModel):
    """An output that is asked for."""

    name: str = Field(json_schema_extra={"enum": [*OUTPUTS, *MORE_OUTPUTS]})
    parameters: dict[str, Any] | None = Field(None, description="binary_data: true or false")


class InferRequest(BaseModel):
    """Inputs of all records: one for each feature, or x."""

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[WantedOutput] | None = None
    parameters: dict[str, Any] | None = Field(None, description="alpha, fdr, binary_data_output")


class InferAnswer(BaseModel):
    """The 200 of infer."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, Any] = Field(description="score_kind, alpha, threshold")
    outputs: list[Tensor]


@router.get("/v2", response_model=ServerMetadata)
async def get_server(request: Request) -> ServerMetadata:
    """Name, version and extensions of this server."""
    return ServerMetadata(name="tabular-anomaly-service", version=request.app.version, extensions=["binary_tensor_data"])


@router.get("/v2/health/live", response_model=ServerLive)
async def get_live() -> ServerLive:
    """200 as long as the process answers at all."""
    return ServerLive(live=True)


@router.get("/v2/health/ready", response_model=ServerReady, responses=problems(503))
async def get_ready(service: App) -> ServerReady:
    """200 if requests should be sent here, as /health/ready has it."""
    if reason := why_unavailable(service):
        raise not_ready(reason)
    return ServerReady(ready=True)


@router.get("/v2/models/{name}/ready", response_model=ModelReady, responses=problems(404, 503))
async def get_model_ready(name: str, service: App) -> ModelReady:
    """200 if the served version gives scores."""
    return _ready(service.registry.get(name), service.settings.health_seconds)


@router.get(
    "/v2/models/{name}/versions/{version}/ready",
    dependencies=[Depends(needs_key)],
    response_model=ModelReady,
    responses=problems(401, 404, 503),
)
async def get_version_ready(name: str, version: str, service: App) -> ModelReady:
    """200 if this version gives scores. It is loaded for that, so this one needs a key."""
    return _ready(await service.registry.get_version(name, version), service.settings.health_seconds)


@router.get("/v2/models/{name}", dependencies=[Depends(needs_key)], responses=problems(401, 404, 503))
async def get_model(name: str, service: App) -> ModelMetadata:
    """Names, datatypes and shapes of the served version."""
    return _metadata(service.registry.get(name), await service.registry.versions(name))


@router.get("/v2/models/{name}/versions/{version}", dependencies=[Depends(needs_key)], responses=problems(401, 404, 503))
async def get_version(name: str, version: str, service: App) -> ModelMetadata:
    """Names, datatypes and shapes of this version."""
    live = await service.registry.get_version(name, version)
    return _metadata(live, await service.registry.versions(name))


def with_error(problem: Problem, path: str) -> Problem:
    """The problem; for a path of the protocol with the member that its clients read."""
    if path == "/v2" or path.startswith("/v2/"):
        problem.more = {**problem.more, "error": problem.line()}
    return problem


def infer_operation(*, with_keys: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The OpenAPI operation of infer, and the schemas that it refers to."""
    raw = {"schema": {"type": "string", "format": "binary", "description": "JSON, then the bytes of tensors"}}
    length = {"name": "Inference-Header-Content-Length", "in": "header", "schema": {"type": "integer"}}
    head = {"schema": length["schema"], "description": "of the JSON, where bytes of tensors follow"}
    operation: dict[str, Any] = {
        "tags": router.tags,
        "summary": "Score tensors",
        "description": "Open Inference Protocol v2. The scores are those of POST /score. Also with Content-Encoding: gzip.",
        "security": secured(with_keys),
        "parameters": [length, TIMEOUT_HEADER],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": {"$ref": REFERENCE.format(model="InferRequest")}}, BINARY: raw},
        },
        "responses": {
            "200": {
                "description": "The outputs that were asked for",
                "headers": {"Inference-Header-Content-Length": head},
                "content": {JSON: {"schema": {"$ref": REFERENCE.format(model="InferAnswer")}}, BINARY: raw},
            },
            **problems(400, 401, 404, 408, 413, 415, 422, 429, 431, 500, 503),
        },
    }
    return operation, schemas_of((InferRequest, "validation"), (InferAnswer, "serialization"))


def _ready(live: Live, trusted_seconds: float) -> ModelReady:
    reason = live.unavailable(trusted_seconds)
    if reason is not None:
        raise not_ready(f"{live.name} {live.version}: {reason}.")
    return ModelReady(name=live.name, ready=True)


def _metadata(live: Live, versions: list[str]) -> ModelMetadata:
    manifest = live.detector.manifest
    inputs = [TensorMetadata(name=feature.name, datatype=_datatype(feature), shape=[-1]) for feature in manifest.features]
    shapes = {"contributions": [-1, len(manifest.terms)]}
    outputs = [
        TensorMetadata(name=name, datatype=OUTPUT_DATATYPES.get(name, "FP32"), shape=shapes.get(name, [-1]))
        for name in OUTPUTS + MORE_OUTPUTS
    ]
    columns = [column for feature in manifest.features for column in _columns(feature)]
    x = {"datatype": "FP32", "shape": [-1, manifest.width], "columns": columns}
    parameters = {TENSOR: x, "contributions": list(manifest.terms)}
    return ModelMetadata(
        name=live.name, versions=versions, platform="onnxruntime_onnx", inputs=inputs, outputs=outputs, parameters=parameters
    )


def _datatype(feature: Feature) -> str:
    if feature.kind == "categorical":
        return "INT64" if feature.integer else "BYTES"
    return DATATYPES[feature.kind]


def _columns(feature: Feature) -> list[str]:
    return [f"{feature.name}.{part}" for part in DATETIME_PARTS] if feature.width > 1 else [feature.name]
