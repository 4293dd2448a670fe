"""Every row of the interface's error table that a request's content can bring about, on every way that JSON can be wrong."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.errors import MAX_ERRORS
from service.validation import MAX_DEPTH
from tests.service.client import Client, check_problem
from tests.service.conftest import Serve
from tests.service.tiny_bundle import GOOD

SECRET = "s3cr3t-value"


def records(*wrong: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"records": [GOOD, *wrong], **more}).encode()


NOT_JSON = {
    "nothing": (b"", "invalid_json"),
    "half": (b'{"records": [', "invalid_json"),
    "more after it": (b'{"records": [{}]} x', "invalid_json"),
    "bad UTF-8 in a text": (b'{"records": [{"country": "\xff"}]}', "invalid_json"),
    "bad UTF-8 in a key": (b'{"records": [{"\xff": 1}]}', "invalid_json"),
    "an encoded surrogate": (b'{"records": [{"country": "\xed\xa0\x80"}]}', "invalid_json"),
    "a BOM": (b'\xef\xbb\xbf{"records": [{}]}', "invalid_json"),
    "UTF-16": ('{"records": [{}]}'.encode("utf-16"), "invalid_json"),
    "NaN": (b'{"records": [{"amount": NaN}]}', "invalid_json"),
    "Infinity": (b'{"records": [{"amount": Infinity}]}', "invalid_json"),
    "-Infinity": (b'{"records": [{"amount": -Infinity}]}', "invalid_json"),
    "a control character": (b'{"records": [{"country": "a\x00"}]}', "invalid_json"),
    "a number that begins with 0": (b'{"records": [{"amount": 01}]}', "invalid_json"),
    "single quotes": (b"{'records': [{}]}", "invalid_json"),
    "a trailing comma": (b'{"records": [{"amount": 1,}]}', "invalid_json"),
    "a key twice in a record": (b'{"records": [{"amount": 1, "amount": 1}]}', "duplicate_key"),
    "a key twice, once escaped": (b'{"records": [{"amount": 1, "\\u0061mount": 1}]}', "duplicate_key"),
    "a key twice, of half a character": (b'{"records": [{"\\ud800": 1, "\\ud800": 2}]}', "duplicate_key"),
    "a key twice, another left out": (b'{"records": [{"amount": 1, "amount": 2, "count": 1, "level": 10}]}', "duplicate_key"),
    "a key twice beside texts with colons": (
        b'{"records": [{"at": "2026-01-01T10:00:00", "country": "a:b", "country": "c:d"}]}',
        "duplicate_key",
    ),
    "a key twice beside an escaped colon": (
        b'{"records": [{"country": "\\u003a", "online": true, "online": true}]}',
        "duplicate_key",
    ),
    "records twice": (b'{"records": [{}], "records": [{}]}', "duplicate_key"),
    "alpha twice": (b'{"records": [{}], "alpha": 0.1, "alpha": 0.1}', "duplicate_key"),
    "a column twice": (b'{"columns": {"amount": [1], "amount": [1]}}', "duplicate_key"),
    "too deep": (b'{"records": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
    "deep in a value": (b'{"records": [{"amount": ' + b'{"a":' * 40 + b"1" + b"}" * 40 + b"}]}", "too_deep"),
}

LONE = '{"records": [{"country": "\\ud800"}], "explain": "all"}'
WRONG_RECORDS: dict[str, tuple[bytes, dict[str, str]]] = {
    "text for a number": (records({"amount": SECRET}), {"records[1].amount": "number"}),
    "a number in quotes": (records({"amount": "1"}), {"records[1].amount": "number"}),
    "true for a number": (records({"count": True}), {"records[1].count": "number"}),
    "a list for a number": (records({"amount": [1]}), {"records[1].amount": "number"}),
    "an object for a number": (records({"amount": {}}), {"records[1].amount": "number"}),
    "a number for a text category": (records({"country": 271828}), {"records[1].country": "text"}),
    "true for a text category": (records({"country": True}), {"records[1].country": "text"}),
    "text for a number category": (records({"level": SECRET}), {"records[1].level": "number"}),
    "a fraction for a number category": (records({"level": 10.5}), {"records[1].level": "number"}),
    "true for a number category": (records({"level": True}), {"records[1].level": "number"}),
    "a number for a boolean": (records({"online": 1}), {"records[1].online": "true or false"}),
    "text for a boolean": (records({"online": "true"}), {"records[1].online": "true or false"}),
    "a bad datetime": (records({"at": SECRET}), {"records[1].at": "datetime"}),
    "a number for a datetime": (records({"at": 1700000000}), {"records[1].at": "datetime"}),
    "an unknown feature": (records({"amounts": 271828}), {"records[1].amounts": "no such feature"}),
    "a number above float32": (b'{"records": [{"amount": 1e39}]}', {"records[0].amount": "float32"}),
    "a number below float32": (b'{"records": [{"amount": -1e39}]}', {"records[0].amount": "float32"}),
    "a number above float64": (b'{"records": [{"amount": 1e400}]}', {"records[0].amount": "float32"}),
    "a whole number above float32": (b'{"records": [{"amount": 1' + b"0" * 39 + b"}]}", {"records[0].amount": "float32"}),
    "a whole number above float64": (b'{"records": [{"amount": 1' + b"0" * 400 + b"}]}", {"records[0].amount": "float32"}),
    "a whole number of 5000 digits": (b'{"records": [{"amount": -1' + b"0" * 5000 + b"}]}", {"records[0].amount": "float32"}),
    "the same in a column": (b'{"columns": {"amount": [1, 2, 1e39]}}', {"columns.amount[2]": "float32"}),
    "text in a column": (b'{"columns": {"amount": [1, "x"], "count": [1, 2]}}', {"columns.amount[1]": "number"}),
    "all that is wrong with columns": (
        b'{"columns": {"amount": ["a", 1, "b"], "zz": [1, 2], "online": [1, true], "country": "de"}}',
        {
            "columns.zz": "no such feature",
            "columns.country": "must be a list",
            "columns.amount[0]": "not a number",
            "columns.online[0]": "not true or false",
            "columns.amount[2]": "not a number",
        },
    ),
    "an unknown column": (b'{"columns": {"amounts": [1]}}', {"columns.amounts": "no such feature"}),
    "a column that is no list": (b'{"columns": {"amount": 1}}', {"columns.amount": "list"}),
    "a column that is null": (b'{"columns": {"amount": null}}', {"columns.amount": "list"}),
    "a record that is no object": (b'{"records": [{}, 5]}', {"records[1]": "object"}),
    "a record that is null": (b'{"records": [null]}', {"records[0]": "object"}),
    "several, in the order of the records": (
        b'{"records": [{"at": "x", "zz": 1}, 5, {"amount": "1", "online": 2}]}',
        {"records[0].zz": "", "records[0].at": "", "records[1]": "", "records[2].amount": "", "records[2].online": ""},
    ),
}

WRONG_REQUESTS: dict[str, tuple[bytes, list[str]]] = {
    "no object": (b"[]", []),
    "null": (b"null", []),
    "neither records nor columns": (b"{}", ["records"]),
    "both": (b'{"records": [{}], "columns": {"amount": [1]}}', ["records"]),
    "records null": (b'{"records": null}', ["records"]),
    "no records": (b'{"records": []}', ["records"]),
    "records no list": (b'{"records": {}}', ["records"]),
    "no columns": (b'{"columns": {}}', ["columns"]),
    "empty columns": (b'{"columns": {"amount": []}}', ["columns"]),
    "columns no object": (b'{"columns": []}', ["columns"]),
    "columns of different length": (b'{"columns": {"amount": [1], "count": [1, 2]}}', ["columns"]),
    "an unknown member": (b'{"records": [{}], "explained": "all"}', ["explained"]),
    "two wrong members": (b'{"records": [{}], "alpha": "a", "explain": 1}', ["alpha", "explain"]),
    "an unknown explain": (b'{"records": [{}], "explain": "some"}', ["explain"]),
    "explain null": (b'{"records": [{}], "explain": null}', ["explain"]),
    "explain a list": (b'{"records": [{}], "explain": []}', ["explain"]),
    **{
        f"{name} {value}": (b'{"records": [{}], "%b": %b}' % (name.encode(), value.encode()), [name])
        for name in ("alpha", "fdr")
        for value in ("0", "1", "-0.1", "1.5", '"0.1"', "true", "[]", "1e400")
    },
}


@pytest.mark.parametrize("case", NOT_JSON)
def test_what_is_no_json_is_a_400(service: Client, case: str) -> None:
    body, code = NOT_JSON[case]
    check_problem(service.post("/score", content=body), 400, code)


@pytest.mark.parametrize("case", WRONG_RECORDS)
def test_records_that_do_not_fit_are_a_422_that_names_each(service: Client, case: str) -> None:
    body, expected = WRONG_RECORDS[case]
    answer = service.post("/score", content=body)
    document = check_problem(answer, 422, "invalid_records")
    assert [error["loc"] for error in document["errors"]] == list(expected)
    for error in document["errors"]:
        assert expected[error["loc"]] in error["message"]
    assert SECRET not in answer.text
    assert "271828" not in answer.text


@pytest.mark.parametrize("case", WRONG_REQUESTS)
def test_requests_that_do_not_fit_are_a_422(service: Client, case: str) -> None:
    body, locs = WRONG_REQUESTS[case]
    document = check_problem(service.post("/score", content=body), 422, "invalid_request")
    assert [error["loc"] for error in document.get("errors", [])] == locs


@pytest.mark.parametrize(
    ("digits", "status"),
    [
        *[(digits, 200) for digits in ("20", "2e1", "21", "9007199254740993", "-1" + "0" * 300)],
        *[(digits, 422) for digits in ("1" + "0" * 309, "-1" + "0" * 399, "1" + "0" * 401, "1e400")],
    ],
    ids=lambda value: f"{value[:3]}_{len(value)}" if isinstance(value, str) else None,
)
@pytest.mark.parametrize("form", ['{"records":[{"level":%s,"country":"%s"}]}', '{"columns":{"level":[%s],"country":["%s"]}}'])
def test_a_whole_number_is_the_same_category_however_it_is_read(service: Client, form: str, digits: str, status: int) -> None:
    answers = [service.post("/score", content=form % (digits, colon)) for colon in (":", "\\u003a")]  # read fast, and slowly
    told = [{name: value for name, value in answer.json().items() if name != "request_id"} for answer in answers]
    assert [answer.status_code for answer in answers] == [status, status]
    assert told[0] == told[1]
    if status == 422:
        assert told[0]["errors"][0]["message"] == "does not fit float32 (infinite or too large)"


@pytest.mark.parametrize("path", ["/score", "/models/tiny/score", "/v2/models/tiny/infer"])
@pytest.mark.parametrize(("query", "locs"), [("alpha=0.1", ["alpha"]), ("explain=all&x", ["explain", "x"])])
def test_a_query_beside_a_body_that_has_room_for_parameters_is_a_422(
    service: Client, path: str, query: str, locs: list[str]
) -> None:
    tensors = {"inputs": [{"name": "amount", "datatype": "FP64", "shape": [1], "data": [1]}]}
    body = tensors if path.startswith("/v2") else {"records": [{"amount": 1}]}
    assert service.post(path, json=body).status_code == 200
    document = check_problem(service.post(f"{path}?{query}", json=body), 422, "invalid_request")
    assert [error["loc"] for error in document["errors"]] == locs
    assert "error" in document or not path.startswith("/v2")


def test_up_to_100_errors_are_named(service: Client) -> None:
    for wrong, times in (({"amount": "x"}, 250), ({"zz": 1}, 250), ({"amount": "x", "count": "x", "level": "x"}, MAX_ERRORS)):
        document = check_problem(service.post("/score", json={"records": [wrong] * times}), 422, "invalid_records")
        assert len(document["errors"]) == MAX_ERRORS == 100
        assert document["detail"].startswith("100 or more")


@pytest.mark.parametrize(
    "body",
    [
        LONE.encode(),
        LONE.replace("all", "none").encode(),
        b'{"records": [{"country": "\\u00e9"}]}',
        b'{"records": [{"country": "a\\\\b:\\"c"}]}',
        b'{"records": [{"\\u0061mount": 1}]}',
        b' {"records" : [ { "amount" : -0.0 } ] }\n',
        b'{"records": [{"amount": 123456789012345678901234567890}], "explain": "all"}',
        b'{"records": [{}], "alpha": null, "fdr": null}',
        b'{"records": [{"level": 123456789012345678901234567890}], "explain": "all"}',
        b'{"records": [{"amount": 3.4028234e38}]}',
    ],
)
def test_odd_but_valid_requests_are_answered(service: Client, body: bytes) -> None:
    json.loads(service.post("/score", content=body).raise_for_status().content)


@pytest.mark.parametrize(("more", "status", "code"), [(0, 422, "invalid_records"), (1, 400, "too_deep")])
def test_the_depth_that_a_body_may_have(service: Client, more: int, status: int, code: str) -> None:
    levels = MAX_DEPTH - 3 + more
    body = b'{"records": [{"amount": ' + b"[" * levels + b"]" * levels + b"}]}"
    check_problem(service.post("/score", content=body), status, code)


def test_columns_that_the_fast_way_leaves_are_explained_as_records_are(service: Client) -> None:
    """Half a character keeps a request from the fast way, and is an unknown category."""
    columns = b'{"columns": {"country": ["\\ud800", "de"], "amount": [1, 100000]}, "explain": "all"}'
    records = b'{"records": [{"country": "\\ud800", "amount": 1}, {"country": "de", "amount": 100000}], "explain": "all"}'
    told, each = service.score(columns)["results"], service.score(records)["results"]
    for name in ("score", "contributions"):
        assert told[name] == [one[name] for one in each]


def test_an_unsupported_alpha_tells_the_smallest(service: Client) -> None:
    document = check_problem(service.post("/score", json={"records": [{}], "alpha": 0.004}), 422, "unsupported_alpha")
    assert document["smallest_alpha"] == 1 / 200
    assert document["errors"][0]["loc"] == "alpha"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "application/jsonx", "multipart/form-data; boundary=x", "json"]
)
def test_other_content_types_are_a_415(service: Client, kind: str) -> None:
    check_problem(
        service.post("/score", content=b'{"records": [{}]}', headers={"content-type": kind}), 415, "unsupported_media_type"
    )


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", " application/json "])
def test_json_may_be_written_otherwise(service: Client, kind: str) -> None:
    assert service.post("/score", content=b'{"records": [{}]}', headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
def test_other_encodings_are_a_415(service: Client, encoding: str) -> None:
    answer = service.post("/score", content=b'{"records": [{}]}', headers={"content-encoding": encoding})
    check_problem(answer, 415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"no gzip", 400, "invalid_encoding"),
        (b"", 400, "invalid_encoding"),
        (gzip.compress(b'{"records": [{}]}')[:-4], 400, "invalid_encoding"),
        (gzip.compress(b'{"records": [{}]}') + b"x", 400, "invalid_encoding"),
        (gzip.compress(b" " * (20 << 20)), 413, "body_too_large"),
        (gzip.compress(b"no json"), 400, "invalid_json"),
    ],
    ids=["other", "nothing", "cut short", "more behind", "too much", "no json"],
)
def test_bad_gzip(service: Client, body: bytes, status: int, code: str) -> None:
    check_problem(service.post("/score", content=body, headers={"content-encoding": "gzip"}), status, code)
    assert service.app.permits.taken == 0


def test_bodies_above_the_limit_are_a_413(serve: Serve) -> None:
    client = serve(max_body_bytes=2000)
    check_problem(client.post("/score", content=b" " * 2001), 413, "body_too_large")

    async def chunks() -> Any:
        for _ in range(100):
            yield b" " * 1000

    check_problem(client.post("/score", content=chunks()), 413, "body_too_large")
    assert client.post("/score", json={"records": [GOOD]}).status_code == 200


def test_more_records_than_the_limit_are_a_413(serve: Serve) -> None:
    client = serve(max_records=2)
    assert client.post("/score", json={"records": [{}] * 2}).status_code == 200
    check_problem(client.post("/score", json={"records": [{}] * 3}), 413, "too_many_records")
    check_problem(client.post("/score", json={"columns": {"amount": [1] * 3}}), 413, "too_many_records")
    check_problem(client.post("/score", json={"records": [{"amount": "x"}] * 3}), 413, "too_many_records")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("more", "status"), [(b"", 200), (b" ", 413)])
def test_a_body_may_be_as_long_as_the_limit_and_no_longer(serve: Serve, zipped: bool, more: bytes, status: int) -> None:
    body = json.dumps({"records": [GOOD]}).encode()
    sent = gzip.compress(body + more) if zipped else body + more
    headers = {"content-type": "application/json"} | ({"content-encoding": "gzip"} if zipped else {})

    async def parts() -> AsyncIterator[bytes]:
        yield sent[:5]
        yield sent[5:]

    answer = serve(max_body_bytes=len(body)).post("/score", content=parts(), headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("body", [{"records": [GOOD, {"amount": "x"}]}, {"columns": {"amount": [1, "x"]}}])
def test_as_many_records_as_may_be_are_not_too_many_because_one_is_wrong(serve: Serve, body: Any) -> None:
    check_problem(serve(max_records=2).post("/score", json=body), 422, "invalid_records")
    check_problem(serve(max_records=1).post("/score", json=body), 413, "too_many_records")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/score", "POST"),
        ("PUT", "/score", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/health/live", "GET, HEAD"),
        ("PUT", "/models/tiny/report", "GET, HEAD, POST"),
        ("DELETE", "/models/tiny", "GET, HEAD"),
        ("GET", "/models/tiny/score", "POST"),
        ("GET", "/models/tiny/reload", "POST"),
    ],
)
def test_other_methods_are_a_405(service: Client, method: str, path: str, allow: str) -> None:
    answer = service.request(method, path)
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allow


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nothing", "not_found"),
        ("POST", "/nothing", "not_found"),
        ("POST", "/models/other/score", "model_not_found"),
        ("POST", "/models/..%2F..%2Fetc/score", "not_found"),
        ("POST", "/models/.../score", "model_not_found"),
        ("POST", "/models/tiny/versions/1/score", "version_not_found"),
        ("POST", "/models/tiny/versions/%2E%2E/score", "version_not_found"),
        ("POST", "/models/tiny/versions/CURRENT/score", "version_not_found"),
        ("POST", "/models/other/versions/1/score", "model_not_found"),
        ("POST", "/models/.../versions/1/score", "model_not_found"),
        ("GET", "/models/other", "model_not_found"),
        ("GET", "/models/%00", "model_not_found"),
        ("POST", "/models//score", "not_found"),
    ],
)
def test_what_is_not_there_is_a_404(service: Client, method: str, path: str, code: str) -> None:
    check_problem(service.request(method, path, content=b'{"records": [{}]}'), 404, code)


def test_a_fault_of_ours_is_a_500_that_tells_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    client = serve()
    live = client.app.registry.default()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(live.detector, "score", fail)
    answer = client.post("/score", json={"records": [GOOD]})
    check_problem(answer, 500, "internal_error")
    assert SECRET not in answer.text
    monkeypatch.setattr(client.app.registry, "names", fail)
    check_problem(client.get("/models"), 500, "internal_error")
    client.close()
    client.close = lambda: None  # type: ignore[method-assign]
    assert SECRET not in capfd.readouterr().err


def test_a_score_that_is_not_finite_is_never_given(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()
    document = check_problem(
        client.post("/score", json={"records": [{}, {"amount": 3.4e38, "count": 3.4e38}]}), 422, "not_scorable"
    )
    assert [error["loc"] for error in document["errors"]] == ["records[1]"]
