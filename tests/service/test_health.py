"""Health is evidence: a score was given, or /health gets one, or it says that it could not."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.tiny_bundle import GOOD, publish


def fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("broken")


def check_unavailable(client: Client, path: str = "/health") -> str:
    answer = client.get(path)
    document = answer.json()
    assert (answer.status_code, document["status"]) == (503, "unavailable")
    assert document["detail"] == document["reason"]
    assert answer.headers["retry-after"]
    assert answer.headers["content-type"] == "application/problem+json"
    return str(document["reason"])


def test_health_names_what_serves(service: Client) -> None:
    document = service.get("/health").raise_for_status().json()
    assert (document["status"], document["model"], document["provider"]) == ("ok", "tiny", "CPUExecutionProvider")
    assert document["version"] == service.score({"records": [GOOD]})["version"]
    assert document["uptime_s"] >= 0
    assert service.get("/health/live").json() == {"status": "live"}
    assert service.get("/health/ready").json() == {"status": "ready"}


def test_health_asks_the_model_when_no_score_was_given_lately(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(health_seconds=0.0)
    live = client.app.registry.default()
    asked = []
    real = live.detector.score
    monkeypatch.setattr(live.detector, "score", lambda *args, **more: asked.append(1) or real(*args, **more))
    assert client.get("/health").status_code == 200
    assert asked == [1]


def test_health_trusts_a_score_of_seconds_ago(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(health_seconds=3600.0)
    client.score({"records": [GOOD]})
    monkeypatch.setattr(client.app.registry.default().detector, "score", fail)
    assert client.get("/health").status_code == 200


def test_a_model_that_fails_is_known_at_once_and_until_it_scores_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(health_seconds=3600.0)
    with monkeypatch.context() as broken:
        broken.setattr(client.app.registry.default().detector, "score", fail)
        assert client.post("/score", json={"records": [GOOD]}).status_code == 500
        assert "fails to score" in check_unavailable(client)
        check_unavailable(client, "/health/ready")
        assert client.get("/health/live").status_code == 200
    assert client.get("/health").status_code == 200
    assert client.post("/score", json={"records": [GOOD]}).status_code == 200


def test_a_score_that_succeeds_makes_a_model_ready_again(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(health_seconds=3600.0)

    def ready() -> Any:
        return client.get("/models").json()["models"][0]["ready"]

    with monkeypatch.context() as broken:
        broken.setattr(client.app.registry.default().detector, "score", fail)
        client.post("/score", json={"records": [GOOD]})
        assert ready() is False
    client.score({"records": [GOOD]})
    assert ready() is True


def test_a_model_that_scores_wrong_is_not_healthy(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(health_seconds=0.0)
    live = client.app.registry.default()
    real = live.detector.score
    monkeypatch.setattr(live.detector, "score", lambda x, **more: real(x + 1, **more))
    assert "another score" in check_unavailable(client)


def test_without_a_bundle_the_service_is_live_but_not_ready(serve: Serve, tmp_path: Path) -> None:
    client = serve(models_dir=tmp_path)
    assert client.get("/health/live").status_code == 200
    assert "No model is published" in check_unavailable(client)
    check_unavailable(client, "/health/ready")
    answer = client.post("/score", json={"records": [GOOD]})
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "not_ready", "5")
    assert json.loads(client.get("/openapi.json").text)["paths"]["/score"]


def test_with_several_models_and_no_default_all_are_watched(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, "one")
    publish(tmp_path, "two")
    client = serve(models_dir=tmp_path, health_seconds=0.0)
    document = client.get("/health").raise_for_status().json()
    assert (document["model"], list(document["models"])) == (None, ["one", "two"])
    monkeypatch.setattr(client.app.registry.get("two").detector, "score", fail)
    assert "two" in check_unavailable(client)


def test_a_service_that_shuts_down_is_not_ready(serve: Serve) -> None:
    client = serve()
    client.app.draining = True
    assert "shutting down" in check_unavailable(client, "/health/ready")
    assert client.get("/health/live").status_code == 200
    answer = client.post("/score", json={"records": [GOOD]})
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "shutting_down", "5")


@pytest.mark.parametrize(
    "path", ["/health", "/health/live", "/health/ready", "/v2/health/ready", "/", "/metrics", "/docs", "/models"]
)
def test_head_answers_as_get_does_without_a_body(service: Client, serve: Serve, tmp_path: Path, path: str) -> None:
    for client in (service, serve(models_dir=tmp_path)):
        asked, answer = client.get(path), client.request("HEAD", path)
        assert (answer.status_code, answer.headers["content-type"]) == (asked.status_code, asked.headers["content-type"])
