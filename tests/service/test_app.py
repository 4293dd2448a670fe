"""The application as a whole: its document, its imports, its answers when nobody scores."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import jsonschema
import pytest
from pydantic import TypeAdapter

from service.errors import CODES
from service.schemas import ColumnResults, RecordResult
from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.tiny_bundle import GOOD, ODD

HEAVY = {"torch", "pandas", "sklearn", "matplotlib", "onnx", "pyarrow", "training"}


def test_the_service_imports_nothing_heavy() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import sys, service.app; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name.split(".")[0] for name in told} & HEAVY == set()


def test_importing_reads_no_setting() -> None:
    program = "import os; os.environ['ANOMALY_PORT'] = 'x'; import service.app, service.__main__"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_openapi_describes_scoring_by_the_features_of_the_model(service: Client) -> None:
    document = service.get("/openapi.json").raise_for_status().json()
    schemas = document["components"]["schemas"]
    assert schemas["Record"]["properties"].keys() == GOOD.keys()
    assert schemas["Record"]["additionalProperties"] is False
    for path, request in (
        ("/score", "ScoreRequest"),
        ("/models/{name}/score", "ScoreAnyRequest"),  # of another model than the default one, maybe
        ("/models/{name}/versions/{version}/score", "ScoreAnyRequest"),
    ):
        operation = document["paths"][path]["post"]
        assert {"200", "400", "401", "404", "408", "413", "415", "422", "429", "431", "500", "503"} <= operation[
            "responses"
        ].keys()
        assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{request}"}
        assert {"alpha", "fdr", "explain"} <= {parameter["name"] for parameter in operation["parameters"]}
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    assert set(schemas["ProblemDocument"]["properties"]["code"]["enum"]) == set(CODES)
    assert all(re.fullmatch("[a-z0-9_]{3,32}", each) for each in ids), ids
    references = {text.split('"')[0] for text in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references <= schemas.keys()
    for folder in ("http://host/", "https://host/behind/a/prefix/"):  # which a proxy strips
        assert [urljoin(f"{folder}openapi.json", server["url"]) for server in document["servers"]] == [folder]


@pytest.mark.parametrize(
    ("settings", "told"), [({}, True), ({"api_keys": ("key",)}, False), ({"api_keys": ("key",), "docs_need_key": True}, True)]
)
def test_openapi_tells_values_of_the_training_table_only_to_those_who_may_score(
    serve: Serve, settings: dict[str, Any], told: bool
) -> None:
    client = serve(**settings)
    manifest = client.app.registry.default().detector.manifest
    document = client.get("/openapi.json", headers={"x-api-key": "key"}).raise_for_status().json()
    record = document["components"]["schemas"]["Record"]["properties"]
    text = json.dumps(list(record.values()))
    values = [f"{feature.low:g} to" for feature in manifest.features if feature.low is not None]
    values += [f'"{category}"' for feature in manifest.features for category in feature.categories if isinstance(category, str)]
    assert len(values) > 2
    assert [value in text for value in values] == [told] * len(values)
    assert record.keys() == GOOD.keys()


def test_answers_are_what_the_document_says(service: Client) -> None:
    rows: Any = service.score({"records": [GOOD, ODD]})["results"]
    columns = service.score({"columns": {"amount": [1.0, 1e6]}})["results"]
    TypeAdapter(list[RecordResult]).validate_python(rows, strict=True)
    ColumnResults.model_validate(columns, strict=True)


def test_what_is_sent_and_what_comes_fits_the_document(serve: Serve, tmp_path: Path) -> None:
    """As a generated client reads it: by the schema of the operation's status and content type, or of any other error."""
    client = serve(admin_keys=("root",))
    document = client.get("/openapi.json").json()
    for schema in schemas_within(document):
        if "default" in schema:
            fits(document, schema, schema["default"])
    columns = {"columns": {"amount": [1.0, 1e6], "country": ["de", None]}}
    for path, body in (
        ("/score", {"records": [GOOD, {}]}),
        ("/score", {"records": [GOOD, ODD], "alpha": 0.1}),
        ("/score", {**columns, "explain": "all"}),
        ("/models/{name}/score", columns),
    ):
        sent = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        fits(document, sent, body)
        answer = client.post(path.format(name="tiny"), json=body)
        assert answer.status_code == 200
        fits_its_operation(document, path, answer)
    for body in ({}, {"records": [GOOD], **columns}, {"records": [{"zz": 1}]}, {"records": []}, {"records": [GOOD], "alpha": 1}):
        with pytest.raises(jsonschema.ValidationError):
            fits(document, document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["schema"], body)
        fits_its_operation(document, "/score", client.post("/score", json=body))
    for path, item in document["paths"].items():
        if "get" in item:
            version = client.app.registry.default().version
            for name in ("tiny", "none"):
                fits_its_operation(document, path, client.get(path.format(name=name, version=version)))
    fits_its_operation(document, "/score", client.post("/score", json={"records": [GOOD], "alpha": 1e-6}))
    fits_its_operation(document, "/models/{name}/reload", client.post("/models/tiny/reload"))
    nothing = serve(models_dir=tmp_path)
    for path in ("/health", "/health/ready", "/v2/health/ready", "/models/{name}"):
        answer = nothing.get(path.format(name="tiny"))
        assert answer.status_code >= 400
        fits_its_operation(document, path, answer)


def fits_its_operation(document: Any, path: str, answer: httpx.Response) -> None:
    told = document["paths"][path][answer.request.method.lower()]["responses"]
    content = told.get(str(answer.status_code), told["default"])["content"]
    kind = answer.headers["content-type"].split(";")[0]
    fits(document, content[kind]["schema"], answer.json() if kind.endswith("json") else answer.text)


def fits(document: Any, schema: Any, value: Any) -> None:
    jsonschema.validate(value, {**schema, "components": document["components"]}, jsonschema.Draft202012Validator)


def schemas_within(part: Any) -> Iterator[Any]:
    """Whatever may be a schema."""
    if isinstance(part, dict):
        yield part
        for each in part.values():
            yield from schemas_within(each)
    elif isinstance(part, list):
        for each in part:
            yield from schemas_within(each)


def test_the_document_says_what_asks_for_a_key(serve: Serve) -> None:
    client, open_to_all = serve(api_keys=("key",), admin_keys=("root",)), serve()
    version, keys = client.app.registry.default().version, [{"bearer": []}, {"apiKey": []}]
    document, without = (each.get("/openapi.json").json()["paths"] for each in (client, open_to_all))
    for path, item in document.items():
        for method, operation in item.items():
            answer = client.request(method.upper(), path.format(name="tiny", version=version), headers={"content-type": "text/x"})
            assert operation["security"] == (keys if answer.status_code == 401 else []), path
            assert without[path][method]["security"] == ([{}, *keys] if answer.status_code == 401 else []), path


def test_a_version_is_told_as_the_served_one_is(service: Client) -> None:
    served = service.get("/models/tiny").json()
    told = service.get(f"/models/tiny/versions/{served['version']}").raise_for_status().json()
    assert told == served
    assert service.get("/models/tiny/versions/20200101T000000Z-000000").status_code == 404


def test_models_tells_names_versions_features_and_metrics(service: Client) -> None:
    [summary] = service.get("/models").raise_for_status().json()["models"]
    detail = service.get("/models/tiny").raise_for_status().json()
    assert summary.items() <= detail.items()
    assert (summary["name"], summary["default"], summary["ready"]) == ("tiny", True, True)
    assert [feature["name"] for feature in detail["features"]] == list(GOOD)
    assert detail["threshold"] == service.score({"records": [GOOD]})["threshold"]
    assert (detail["smallest_alpha"], detail["calibration_records"]) == (1 / 200, 199)
    assert (detail["metrics"], detail["training"]) == ({"auroc": 0.9}, {"seed": 0})


def test_every_answer_has_a_request_id(service: Client) -> None:
    for path in ("/health", "/health/live", "/metrics", "/models", "/docs", "/openapi.json", "/nothing"):
        assert service.get(path, headers={"x-request-id": "abc"}).headers["x-request-id"] == "abc"
        assert service.get(path).headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "kind", "body", "status"),
    [
        ("/score", "application/json", {"records": [GOOD]}, 200),
        ("/score", "application/x-ndjson", GOOD, 200),
        ("/score", "application/json", None, 400),
        ("/score", "application/x-ndjson", None, 422),
        ("/v2/models/tiny/infer", "application/json", None, 400),
        ("/models/tiny/reload", "application/json", None, 403),
    ],
)
def test_a_server_may_leave_out_what_asgi_lets_it(service: Client, path: str, kind: str, body: Any, status: int) -> None:
    """`body` and `more_body` of a request have defaults; Starlette's test client sends it without."""
    told: list[Any] = []
    coming = [{"type": "http.request", **({} if body is None else {"body": json.dumps(body).encode()})}]

    async def receive() -> dict[str, Any]:
        if not coming:
            await asyncio.Event().wait()  # the client stays
        return coming.pop()

    async def send(message: Any) -> None:
        told.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": path}
    scope |= {"raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": [(b"content-type", kind.encode())]}
    service.run(service.app({**scope, "client": None, "server": None}, receive, send))
    assert told[0]["status"] == status, told


def test_who_starts_the_application_by_name_is_told_in_a_line_what_is_wrong() -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app", "--port", "0"]
    for name, value in (("ANOMALY_FOO", "1"), ("ANOMALY_API_KEYS_FILE", "/none")):
        ended = subprocess.run(command, env={**os.environ, name: value}, capture_output=True, text=True, check=False, timeout=60)
        (line,) = ended.stderr.splitlines()
        assert (ended.returncode, name in line or value in line) == (2, True)
