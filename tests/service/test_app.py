"""The application as a whole: its document, its imports, its answers when nobody scores."""

import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic import TypeAdapter

from service.errors import CODES
from service.schemas import ColumnResults, RecordResult, request_model
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
    for path in ("/score", "/models/{name}/score", "/models/{name}/versions/{version}/score"):
        operation = document["paths"][path]["post"]
        assert {"200", "400", "401", "404", "408", "413", "415", "422", "429", "500", "503"} <= operation["responses"].keys()
        assert operation["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ScoreRequest"}
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    assert set(schemas["ProblemDocument"]["properties"]["code"]["enum"]) == set(CODES)
    references = {text.split('"')[0] for text in json.dumps(document).split("#/components/schemas/")[1:]}
    assert references <= schemas.keys()


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
    request_model(service.app.registry.default().detector.manifest).model_validate({"records": [GOOD, ODD], "alpha": 0.1})


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
