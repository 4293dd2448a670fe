"""The log: one line a request, which no client can forge."""

import json
from pathlib import Path

import pytest

from tests.service.conftest import Serve
from tests.service.tiny_bundle import GOOD

CapFd = pytest.CaptureFixture[str]
EVIL = '/x%0A{"event":"forged"}%1b[31m%22'


def lines(serve: Serve, capfd: CapFd, log_format: str) -> list[str]:
    client = serve(log_requests=True, log_format=log_format)
    client.post("/score", json={"records": [GOOD]}, headers={"x-request-id": "mine"})
    client.post("/score", json={"records": [{"amount": "s3cr3t"}]}, headers={"x-api-key": "hidden"})
    client.get(EVIL)
    client.get("/health")
    client.app.requests.close()
    return [line for line in capfd.readouterr().err.splitlines() if "request_id" in line]


def test_json_lines(serve: Serve, capfd: CapFd) -> None:
    told = [json.loads(line) for line in lines(serve, capfd, "json")]
    assert [(line["method"], line["path"][:7], line["status"]) for line in told] == [
        ("POST", "/score", 200),
        ("POST", "/score", 422),
        ("GET", '/x\n{"ev', 404),
        ("GET", "/health", 200),
    ]
    first = told[0]
    assert (first["request_id"], first["model"], first["records"], first["anomalies"]) == ("mine", "tiny", 1, 0)
    assert first["ms"] > 0
    assert first["time"].endswith("Z")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_lines_hold_no_values_and_no_control_characters(serve: Serve, capfd: CapFd, log_format: str) -> None:
    told = lines(serve, capfd, log_format)
    assert len(told) == 4
    text = "".join(told)
    assert "s3cr3t" not in text
    assert "hidden" not in text
    assert "12.5" not in text
    assert all(" " <= character <= "~" for character in text)


def test_events_are_lines_of_the_same_form(serve: Serve, capfd: CapFd, tmp_path: Path) -> None:
    serve(models_dir=tmp_path)
    event = json.loads(capfd.readouterr().err.splitlines()[0])
    assert (event["level"], event["event"][:10]) == ("warning", "no API key")


def test_a_reader_of_the_log_that_is_gone_stops_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(log_requests=True)

    def gone(*_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("service.log.os.write", gone)
    for _ in range(3):
        client.score({"records": [GOOD]})
    client.app.requests.close()
    assert client.app.requests.dropped == 3
