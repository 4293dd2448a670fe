"""Open Inference Protocol v2, asked by clients of others: tritonclient with its binary tensors, and open-inference-openapi."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.app import create_app
from service.manifest import Feature
from service.settings import Settings
from tests.service.client import Client, check_problem
from tests.service.conftest import Serve
from tests.service.serving import serving
from tests.service.test_scoring import records
from tests.service.tiny_bundle import CALIBRATION, FEATURES, GOOD, ODD, publish

INFER = "/v2/models/tiny/infer"
VERSION = "20260101T000000Z-made01"
LENGTH = "inference-header-content-length"
WIDTH = sum(feature.width for feature in FEATURES)
DTYPES = {"amount": "FP64", "count": "INT32", "country": "BYTES", "level": "INT64", "online": "BOOL", "at": "BYTES"}
MADE = [{**GOOD, "amount": i / 7, "count": i % 9, "online": i % 2 == 0} for i in range(40)] + [ODD]


def tensor(name: str, datatype: str, shape: list[int], data: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data, **more}


def columns(made: list[Any]) -> list[dict[str, Any]]:
    return [tensor(name, DTYPES[name], [len(made)], [record[name] for record in made]) for name in DTYPES]


def expected(service: Client, made: list[Any], **more: Any) -> list[Any]:
    results: list[Any] = service.score({"records": made, "explain": "all", **more})["results"]
    return results


def x_of(service: Client, made: list[Any]) -> np.ndarray[Any, Any]:
    return service.app.registry.default().reader.read(json.dumps({"records": made}).encode()).x


def binary(inputs: list[dict[str, Any]], parts: list[bytes], **more: Any) -> dict[str, Any]:
    """httpx's arguments for a request whose inputs' data are these bytes."""
    for each, raw in zip(inputs, parts, strict=True):
        del each["data"]
        each["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": inputs, **more}).encode()
    return {"content": head + b"".join(parts), "headers": {LENGTH: str(len(head)), "content-type": "application/octet-stream"}}


def outputs_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output["data"] for output in answer.json()["outputs"]}


@pytest.fixture(scope="module")
def address(bundle_dir: Path) -> Iterator[str]:
    app = create_app(Settings(models_dir=bundle_dir, reload_seconds=0.0, provider="cpu", log_requests=False))
    with serving(app) as url:
        yield url


@pytest.fixture(scope="module")
def triton(address: str) -> Iterator[Any]:
    from tritonclient import http

    with http.InferenceServerClient(address.removeprefix("http://")) as client:
        yield client


def triton_inputs(made: list[Any], as_bytes: bool) -> list[Any]:
    from tritonclient import http, utils

    inputs = []
    for name, datatype in DTYPES.items():
        values = np.array([record[name] for record in made], utils.triton_to_np_dtype(datatype))
        inputs.append(http.InferInput(name, [len(made)], datatype))
        inputs[-1].set_data_from_numpy(values, binary_data=as_bytes)
    return inputs


def test_triton_finds_what_it_looks_for(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny", VERSION)
    assert not triton.is_model_ready("large")
    assert not triton.is_model_ready("tiny", "20250101T000000Z-made01")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    told = triton.get_model_metadata("tiny")
    assert told == triton.get_model_metadata("tiny", VERSION)
    assert [(each["name"], each["datatype"]) for each in told["inputs"]] == [*{**DTYPES, "count": "FP64"}.items()]
    assert {each["name"]: each["shape"] for each in told["outputs"]}["contributions"] == [-1, len(FEATURES)]
    assert told["parameters"]["x"]["shape"] == [-1, WIDTH]
    assert told["parameters"]["x"]["columns"][-3:] == ["at.hour", "at.weekday", "at.month"]
    assert len(told["parameters"]["x"]["columns"]) == WIDTH


@pytest.mark.parametrize("as_bytes", [True, False])
@pytest.mark.parametrize("compressed", [None, "gzip"])
def test_triton_gets_the_scores_of_score(service: Client, triton: Any, as_bytes: bool, compressed: str | None) -> None:
    from tritonclient import http

    names = ("score", "p_value", "is_anomaly", "elbo", "reconstruction_error")
    outputs = [http.InferRequestedOutput(name, binary_data=as_bytes) for name in (*names, "contributions")]
    answer = triton.infer(
        "tiny",
        triton_inputs(MADE, as_bytes),
        outputs=outputs,
        request_id="seven",
        priority=1,
        parameters={"alpha": 0.05},
        request_compression_algorithm=compressed,
    )
    told = answer.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("seven", "tiny", VERSION)
    assert told["parameters"]["alpha"] == 0.05
    results = expected(service, MADE, alpha=0.05)
    for name in names:
        got = answer.as_numpy(name)
        assert got.tolist() == np.array([result[name] for result in results], got.dtype).tolist()
    terms = [feature.name for feature in FEATURES]
    for row, result in zip(answer.as_numpy("contributions"), results, strict=True):
        parts = {each["feature"]: np.float32(each["contribution"]) for each in result["contributions"]}
        assert row.tolist() == [parts[term] for term in terms]


def test_triton_gets_three_outputs_in_bytes_unless_it_asks(service: Client, triton: Any) -> None:
    answer = triton.infer("tiny", triton_inputs(MADE, True), model_version=VERSION)
    assert [(output["name"], output["datatype"]) for output in answer.get_response()["outputs"]] == [
        ("score", "FP32"),
        ("p_value", "FP64"),
        ("is_anomaly", "BOOL"),
    ]
    results = expected(service, MADE)
    assert answer.as_numpy("score").tolist() == [np.float32(result["score"]) for result in results]
    assert answer.as_numpy("is_anomaly").tolist() == [result["is_anomaly"] for result in results]


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_triton_sends_x(service: Client, triton: Any, datatype: str) -> None:
    from tritonclient import http, utils

    made = [*MADE, {}, {"amount": 3}, {"country": "de"}]
    x = x_of(service, made)
    assert np.isnan(x).any()
    given = http.InferInput("x", list(x.shape), datatype)
    given.set_data_from_numpy(x.astype(utils.triton_to_np_dtype(datatype)))
    answer = triton.infer("tiny", [given])
    assert answer.as_numpy("score").tolist() == [np.float32(result["score"]) for result in expected(service, made)]


def test_triton_shows_what_is_wrong_and_where(triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match=r"inputs\.at\[40\]: not a datetime") as raised:
        triton.infer("tiny", triton_inputs([*MADE[:-1], {**ODD, "at": "s3cr3t"}], True))
    assert raised.value.status() == "422"
    assert "s3cr3t" not in str(raised.value)
    with pytest.raises(InferenceServerException, match="No model of this name") as raised:
        triton.infer("large", triton_inputs(MADE, True))
    assert raised.value.status() == "404"
    with pytest.raises(InferenceServerException, match="No model of this name"):
        triton.get_model_metadata("large")


@pytest.mark.filterwarnings("ignore")  # the client is made with pydantic's first interface
def test_the_working_group_s_own_client_is_served(service: Client, address: str) -> None:
    from open_inference.openapi.client import OpenInferenceClient
    from open_inference.openapi.errors import NotFoundError
    from open_inference.openapi.types import InferenceRequest

    with httpx.Client() as http:
        client = OpenInferenceClient(base_url=address, httpx_client=http)
        client.check_server_liveness()
        client.check_server_readiness()
        client.check_model_readiness("tiny")
        client.check_model_version_readiness("tiny", VERSION)
        assert client.read_server_metadata().name == "tabular-anomaly-service"
        assert [each.name for each in client.read_model_metadata("tiny").inputs] == [*DTYPES]
        inputs = [{**each, "datatype": "FP32"} if each["name"] == "online" else each for each in columns(MADE)]
        request = InferenceRequest.parse_obj({"id": "a", "inputs": inputs})  # which writes all numbers, true too, as floats
        answer = client.model_infer("tiny", request=request)
        assert [output.name for output in answer.outputs] == ["score", "p_value", "is_anomaly"]
        assert answer.outputs[0].data.__root__ == [result["score"] for result in expected(service, MADE)]
        with pytest.raises(NotFoundError):
            client.check_model_readiness("large")


@given(st.lists(records, min_size=1, max_size=6), st.booleans())
@settings(max_examples=40)
def test_any_record_has_the_same_score_as_columns_and_as_x(service: Client, made: list[Any], wide: bool) -> None:
    results = expected(service, made)
    n = len(made)
    datatypes = {**DTYPES, "amount": "FP64", "count": "FP64", "level": "FP32"}
    inputs = [
        tensor(name, datatype, [n, 1] if wide else [n], [record.get(name) for record in made])
        for name, datatype in datatypes.items()
        if any(name in record for record in made)
    ]
    if inputs:
        assert outputs_of(service.post(INFER, json={"inputs": inputs}))["score"] == [result["score"] for result in results]
    x = x_of(service, made)
    answer = service.post(INFER, **binary([tensor("x", "FP32", list(x.shape), [])], [x.tobytes()]))
    assert outputs_of(answer)["score"] == [result["score"] for result in results]


def test_data_may_be_nested_and_features_left_out(service: Client) -> None:
    made = [{"amount": 1.5}, {"amount": None}, {"amount": 3}]
    want = [result["score"] for result in expected(service, made)]
    for shape, data in [([3], [1.5, None, 3]), ([3, 1], [1.5, None, 3]), ([3, 1], [[1.5], [None], [3]])]:
        assert outputs_of(service.post(INFER, json={"inputs": [tensor("amount", "FP32", shape, data)]}))["score"] == want
    x = [[None if np.isnan(value) else value for value in row] for row in x_of(service, made).tolist()]
    for data in (x, [value for row in x for value in row]):
        assert outputs_of(service.post(INFER, json={"inputs": [tensor("x", "FP32", [3, WIDTH], data)]}))["score"] == want


def test_fdr_and_the_head_of_an_answer(service: Client) -> None:
    answer = service.post(INFER, json={"inputs": columns(MADE), "parameters": {"fdr": 0.2}, "outputs": [{"name": "is_anomaly"}]})
    assert outputs_of(answer) == {"is_anomaly": [result["is_anomaly"] for result in expected(service, MADE, fdr=0.2)]}
    assert {"x-request-id", "server-timing"} <= answer.headers.keys()
    assert LENGTH not in answer.headers
    head = service.score({"records": [GOOD]})
    assert answer.json()["parameters"] == {name: head[name] for name in ("score_kind", "alpha", "threshold")}


def test_columns_that_training_left_out_are_not_looked_at(serve: Serve, tmp_path: Path) -> None:
    publish(tmp_path, dropped=("batch",))
    client = serve(models_dir=tmp_path)
    amount, batch = tensor("amount", "FP32", [2], [1, 2]), tensor("batch", "BYTES", [2], ["a", "b"])
    alone, both = (outputs_of(client.post(INFER, json={"inputs": inputs})) for inputs in ([amount], [amount, batch]))
    assert alone == both


def test_a_feature_called_x_is_a_column_where_it_looks_like_one(serve: Serve, tmp_path: Path) -> None:
    publish(
        tmp_path, features=(Feature(name="x", kind="numeric", low=0, high=9), Feature(name="y", kind="numeric", low=0, high=9))
    )
    client = serve(models_dir=tmp_path)
    column = outputs_of(client.post(INFER, json={"inputs": [tensor("x", "FP32", [2, 1], [1, 2])]}))
    assert column["score"] == [result["score"] for result in expected(client, [{"x": 1}, {"x": 2}])]
    both = outputs_of(client.post(INFER, json={"inputs": [tensor("x", "FP32", [1, 2], [1, 2])]}))
    assert both["score"] == [result["score"] for result in expected(client, [{"x": 1, "y": 2}])]


def test_it_is_counted_as_score_is(service: Client) -> None:
    metrics, counts = service.app.metrics, service.app.registry.default().counts
    route = "/v2/models/{name}/infer"
    before = (metrics.requests[route, "POST", 200], counts.records, counts.anomalies, sum(metrics.stages["total"].counts))
    outputs_of(service.post(INFER, json={"inputs": columns(MADE)}))
    after = (metrics.requests[route, "POST", 200], counts.records, counts.anomalies, sum(metrics.stages["total"].counts))
    flagged = sum(result["is_anomaly"] for result in expected(service, MADE))
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, len(MADE), flagged, 1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**20) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "alpha", "parameters"]), inner),
    max_leaves=6,
)


@given(
    st.sampled_from(["id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data"]),
    json_values,
    st.binary(max_size=9),
)
@settings(max_examples=200)
def test_whatever_is_sent_is_an_answer_or_a_problem(service: Client, member: str, value: Any, tail: bytes) -> None:
    own = tensor("amount", "FP32", [1], [1])
    request = {"inputs": [own], "outputs": [{"name": "score"}], "parameters": {}}
    if tail:
        own["parameters"] = {"binary_data_size": len(tail)}
        del own["data"]
    (own if member in ("name", "shape", "datatype", "data") else request)[member] = value
    head = json.dumps(request).encode()
    answer = service.post(INFER, content=head + tail, headers={LENGTH: str(len(head))})
    assert answer.status_code in {200, 400, 413, 422}, answer.text
    assert answer.status_code == 200 or answer.json()["error"]
    assert service.app.permits.taken == 0


AMOUNT = tensor("amount", "FP32", [1], [1])
BAD: list[tuple[Any, int, str, list[str]]] = [
    ([], 422, "invalid_request", []),
    ({}, 422, "invalid_request", ["inputs"]),
    ({"inputs": []}, 422, "invalid_request", ["inputs"]),
    ({"inputs": 5}, 422, "invalid_request", ["inputs", "inputs"]),
    ({"inputs": [AMOUNT], "alpha": 0.1}, 422, "invalid_request", ["alpha"]),
    ({"inputs": [AMOUNT], "id": 5}, 422, "invalid_request", ["id"]),
    ({"inputs": [AMOUNT], "parameters": {"alhpa": 0.1}}, 422, "invalid_request", ["parameters.alhpa"]),
    ({"inputs": [AMOUNT], "parameters": {"alpha": "0.1"}}, 422, "invalid_request", ["alpha"]),
    ({"inputs": [AMOUNT], "parameters": {"alpha": 0.5 / (CALIBRATION + 1)}}, 422, "unsupported_alpha", ["alpha"]),
    ({"inputs": [AMOUNT], "parameters": 5}, 422, "invalid_request", ["parameters"]),
    ({"inputs": [AMOUNT], "outputs": [{"name": "loss"}]}, 422, "invalid_request", ["outputs[0].name"]),
    ({"inputs": [AMOUNT], "outputs": [{"name": "elbo"}] * 2}, 422, "invalid_request", ["outputs[1].name"]),
    (
        {"inputs": [AMOUNT], "outputs": [{"name": "elbo", "parameters": {"classification": 1}}]},
        422,
        "invalid_request",
        ["outputs[0].parameters.classification"],
    ),
    ({"inputs": [AMOUNT, AMOUNT]}, 422, "invalid_request", ["inputs[1].name"]),
    ({"inputs": [{**AMOUNT, "datatype": "BF16"}]}, 422, "invalid_request", ["inputs[0].datatype"]),
    ({"inputs": [{**AMOUNT, "shape": [0]}]}, 422, "invalid_request", ["inputs[0].shape"]),
    ({"inputs": [{**AMOUNT, "shape": [True]}]}, 422, "invalid_request", ["inputs[0].shape"]),
    ({"inputs": [{**AMOUNT, "shape": [1, 1, 1]}]}, 422, "invalid_request", ["inputs[0].shape"]),
    (
        {"inputs": [{**AMOUNT, "parameters": {"shared_memory_region": "a"}}]},
        422,
        "invalid_request",
        ["inputs[0].parameters.shared_memory_region"],
    ),
    (
        {"inputs": [{**AMOUNT, "parameters": {"binary_data_size": 4}}]},
        422,
        "invalid_request",
        ["inputs[0].parameters.binary_data_size"],
    ),
    ({"inputs": [AMOUNT, tensor("count", "INT8", [2], [1, 2])]}, 422, "invalid_request", ["inputs"]),
    ({"inputs": [{**AMOUNT, "shape": [10**12]}]}, 413, "too_many_records", []),
    ({"inputs": [{**AMOUNT, "name": "amounts"}]}, 422, "invalid_records", ["inputs.amounts"]),
    ({"inputs": [{**AMOUNT, "datatype": "BYTES"}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "datatype": "BOOL"}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "datatype": "INT8", "data": [1.5]}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "datatype": "INT8", "data": [128]}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "datatype": "UINT64", "data": [-1]}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "data": ["s3cr3t"]}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "data": [True]}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "data": [1, 2]}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "data": 1}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "shape": [2, 1], "data": [[1, 2]]}]}, 422, "invalid_records", ["inputs.amount"]),
    ({"inputs": [{**AMOUNT, "data": [1e39]}]}, 422, "invalid_records", ["inputs.amount[0]"]),
    ({"inputs": [{**AMOUNT, "data": [10**400]}]}, 422, "invalid_records", ["inputs.amount[0]"]),
    ({"inputs": [tensor("level", "FP32", [2], [10, 10.5])]}, 422, "invalid_records", ["inputs.level[1]"]),
    ({"inputs": [tensor("online", "INT8", [2], [1, 2])]}, 422, "invalid_records", ["inputs.online[1]"]),
    ({"inputs": [tensor("at", "BYTES", [1], ["soon"])]}, 422, "invalid_records", ["inputs.at[0]"]),
    ({"inputs": [tensor("x", "INT32", [1, WIDTH], [0] * WIDTH)]}, 422, "invalid_records", ["inputs.x"]),
    ({"inputs": [tensor("x", "FP32", [1, 3], [0] * 3)]}, 422, "invalid_records", ["inputs.x"]),
    (
        {"inputs": [tensor("amount", "FP32", [2, 1], [3.4e38, 1]), tensor("count", "FP32", [2], [3.4e38, 1])]},
        422,
        "not_scorable",
        ["records[0]"],
    ),
]


@pytest.mark.parametrize(("body", "status", "code", "locs"), BAD)
def test_a_bad_request_is_told_what_is_wrong(service: Client, body: Any, status: int, code: str, locs: list[str]) -> None:
    answer = service.post(INFER, json=body)
    document = check_problem(answer, status, code)
    assert [error["loc"] for error in document.get("errors", [])] == locs
    assert document["error"].startswith(document["detail"])
    assert "s3cr3t" not in answer.text
    assert service.app.permits.taken == 0


def test_an_id_of_half_a_character_is_refused(service: Client) -> None:
    """It could not be told back."""
    document = check_problem(
        service.post(INFER, content=json.dumps({"inputs": [AMOUNT], "id": "\ud800"})), 422, "invalid_request"
    )
    assert [error["loc"] for error in document["errors"]] == ["id"]


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [
        (0, np.inf, "amount"),
        (2, 4, "country"),
        (2, -1, "country"),
        (3, 0.5, "level"),
        (4, 0.5, "online"),
        (5, 25, "at"),
        (6, 7, "at"),
        (7, 0, "at"),
        (7, np.nan, "at"),
    ],
)
def test_x_holds_only_what_an_encoder_makes(service: Client, column: int, value: float, name: str) -> None:
    x = x_of(service, [GOOD, GOOD])
    x[1, column] = value
    answer = service.post(INFER, **binary([tensor("x", "FP32", [2, WIDTH], [])], [x.tobytes()]))
    assert [error["loc"] for error in check_problem(answer, 422, "invalid_records")["errors"]] == [f"inputs.x[1].{name}"]


@pytest.mark.parametrize(
    ("datatype", "raw", "name"),
    [
        ("FP32", b"\0" * 7, "amount"),
        ("BOOL", b"\0\2", "online"),
        ("BYTES", b"\1\0\0\0a", "country"),
        ("BYTES", b"\1\0\0\0a\1\0\0\0b\1\0\0\0c", "country"),
        ("BYTES", b"\1\0\0\0a\xff\xff\xff\xffb", "country"),
        ("BYTES", b"\1\0\0\0a\1\0", "country"),
        ("BYTES", b"\1\0\0\0a\1\0\0\0\xff", "country"),
    ],
)
def test_bytes_that_are_no_tensor_are_refused(service: Client, datatype: str, raw: bytes, name: str) -> None:
    answer = service.post(INFER, **binary([tensor(name, datatype, [2], [])], [raw]))
    assert [error["loc"] for error in check_problem(answer, 422, "invalid_records")["errors"]] == [f"inputs.{name}"]


@pytest.mark.parametrize("length", ["x", "-1", "1" * 30, "999999", ""])
def test_a_wrong_length_of_the_json_is_refused(service: Client, length: str) -> None:
    check_problem(service.post(INFER, json={"inputs": [AMOUNT]}, headers={LENGTH: length}), 400, "invalid_body")


def test_bytes_that_belong_to_no_input_are_refused(service: Client) -> None:
    sent = binary([tensor("amount", "FP32", [1], [])], [b"\0" * 4])
    assert service.post(INFER, **sent).status_code == 200
    check_problem(service.post(INFER, **{**sent, "content": sent["content"] + b"\0"}), 400, "invalid_body")
    check_problem(service.post(INFER, **{**sent, "content": sent["content"][:-1]}), 400, "invalid_body")


def test_json_is_read_as_strictly_as_that_of_score(service: Client) -> None:
    for content, code in [
        (b'{"inputs": [NaN]}', "invalid_json"),
        (b'{"id": "a", "id": "a"}', "duplicate_key"),
        (b"", "invalid_json"),
    ]:
        check_problem(service.post(INFER, content=content), 400, code)
    check_problem(service.post(INFER, content=b"{}", headers={"content-type": "text/csv"}), 415, "unsupported_media_type")
    check_problem(service.post(INFER, content=b"{}", headers={"content-encoding": "deflate"}), 415, "unsupported_encoding")
    check_problem(service.post(INFER, content=b"{}", headers={"content-encoding": "gzip"}), 400, "invalid_encoding")


def test_limits_and_keys_are_those_of_score(serve: Serve) -> None:
    client = serve(max_body_bytes=2000, max_records=3, api_keys=("secret",), queue_rows=1)
    key = {"x-api-key": "secret"}
    request = {"inputs": columns([GOOD] * 3)}
    check_problem(client.post(INFER, json=request), 401, "unauthorized")
    assert client.post(INFER, json=request, headers=key).status_code == 200
    check_problem(client.post(INFER, json={"inputs": columns([GOOD] * 4)}, headers=key), 413, "too_many_records")
    bomb = gzip.compress(b" " * 100_000)
    check_problem(client.post(INFER, content=bomb, headers={**key, "content-encoding": "gzip"}), 413, "body_too_large")
    check_problem(client.post(INFER, content=b" " * 2001, headers=key), 413, "body_too_large")
    client.app.permits.take(1)
    check_problem(client.post(INFER, json=request, headers=key), 429, "queue_full")
    client.app.permits.give_back(1)
    for path in ("/v2/models/tiny", f"/v2/models/tiny/versions/{VERSION}", f"/v2/models/tiny/versions/{VERSION}/ready"):
        assert "error" in check_problem(client.get(path), 401, "unauthorized")
        assert client.get(path, headers=key).status_code == 200
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
        assert client.get(path).status_code == 200


def test_paths_and_methods_that_are_not_there(service: Client) -> None:
    request = {"inputs": [AMOUNT]}
    check_problem(service.post("/v2/models/large/infer", json=request), 404, "model_not_found")
    check_problem(service.post("/v2/models/tiny/versions/none/infer", json=request), 404, "version_not_found")
    for path in ("/v2/infer", "/v2/models//infer", "/models/tiny/infer", "/v2/models/tiny/a/b/infer"):
        check_problem(service.post(path, json=request), 404, "not_found")
    assert check_problem(service.get(INFER), 405, "method_not_allowed")["error"]


def test_a_model_that_fails_is_not_ready(serve: Serve, tmp_path: Path) -> None:
    client = serve(models_dir=tmp_path, model="tiny")
    assert client.get("/v2/health/live").json() == {"live": True}
    check_problem(client.get("/v2/health/ready"), 503, "not_ready")
    check_problem(client.get("/v2/models/tiny/ready"), 503, "not_ready")
    client.app.draining = True
    assert client.get("/v2/health/live").status_code == 200
    check_problem(client.post(INFER, json={"inputs": [AMOUNT]}), 503, "shutting_down")
