"""The page for people, what it asks for, and /docs: over HTTP. In a browser: tests/browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import activity
from service.activity import Activity, shares
from service.bundle import read_bundle
from service.latest import KEPT
from service.metrics import Metrics, ModelCounts
from service.page import example
from service.settings import Settings
from tests.service.client import Client, check_problem
from tests.service.conftest import Serve
from tests.service.tiny_bundle import FEATURES, GOOD, ODD, publish


def told(client: Client) -> dict[str, Any]:
    answer = client.get("/models/tiny/activity")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def test_the_page_is_whole_and_only_its_own_script_and_style_may_run(service: Client) -> None:
    answer = service.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for tag, name in (("script", "script-src"), ("style", "style-src")):
        (own,) = re.findall(f"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert policy[name] == f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'"
    loaded = re.findall(r"""(?:src|href|action)=["'](?!data:|#|docs|metrics)[^"']*""", answer.text)
    assert loaded == []
    assert not re.search(r"\son\w+=|style=|innerHTML|https?://(?!www\.w3\.org)", answer.text)


def test_without_a_key_there_is_the_shell_and_no_data(serve: Serve) -> None:
    client = serve(api_keys=("k1",))
    shell = client.get("/")
    assert shell.status_code == 200
    assert "tiny" not in shell.text
    for path in ("activity", "example", "report"):
        check_problem(client.get(f"/models/tiny/{path}"), 401, "unauthorized")
        assert client.get(f"/models/tiny/{path}", headers={"X-API-Key": "k1"}).status_code == 200


def test_the_hour_is_what_was_scored(serve: Serve) -> None:
    client = serve()
    client.score({"records": [GOOD, ODD, GOOD]})
    client.app.activity.tick()
    client.score({"records": [GOOD]})
    client.post("/score", content=b"x")
    hour = told(client)
    assert (hour["records"], hour["anomalies"]) == ([3, 1], [1, 0])
    assert (hour["requests"], hour["errors"]) == ([1, 1], [0, 1])
    assert sum(hour["scores"]["counts"]) == sum(hour["p_values"]["counts"]) == 4
    assert sum(hour["scores"]["expected"]) == pytest.approx(1, abs=1e-4)
    assert all(0 < low <= high for low, high in zip(hour["p50_ms"], hour["p99_ms"], strict=True))
    assert (hour["model"], hour["alpha"], hour["workers"], hour["values"]) == ("tiny", 0.01, 1, False)


def test_a_slot_without_requests_has_no_time(serve: Serve) -> None:
    assert told(serve())["p99_ms"] == [None]


def test_the_ring_is_as_long_as_an_hour_and_no_longer() -> None:
    ring = Activity(Metrics())
    for _ in range(activity.SLOTS + 5):
        ring.tick()
    assert len(ring.document("any")["seconds"]) == activity.SLOTS + 1
    assert activity.SLOTS * activity.SLOT_SECONDS == 3600


def test_what_a_version_counted_before_it_was_swapped_out_is_not_counted_again_after_a_rollback() -> None:
    """Of several workers each keeps the counts of versions that it had."""
    metrics = Metrics()
    metrics.retained = 2
    ring = Activity(metrics)
    first = metrics.counts("tiny", "first")
    first.count(np.ones(10, np.float32), np.ones(10), 0, {})
    ring.tick()
    metrics.counts("tiny", "second")
    metrics.forget("tiny", "first")
    ring.tick()
    first.count(np.ones(3, np.float32), np.ones(3), 0, {})  # a request that had begun with it
    ring.tick()
    assert metrics.counts("tiny", "first") is first
    metrics.forget("tiny", "second")
    assert ring.document("tiny")["records"] == [10, 0, 3, 0]


def test_what_a_version_counted_stays_when_it_is_swapped_out() -> None:
    metrics, old, new = Metrics(), ModelCounts(), ModelCounts()
    ring = Activity(metrics)
    metrics.models["m", "1"] = old
    old.count(np.ones(2, np.float32), np.ones(2), 1, {})
    ring.tick()
    old.count(np.ones(3, np.float32), np.ones(3), 0, {})
    metrics.forget("m", "1")
    metrics.models["m", "2"] = new
    new.count(np.ones(4, np.float32), np.ones(4), 2, {})
    ring.tick()
    assert ring.document("m")["records"] == [2, 7, 0]
    assert ring.document("m")["anomalies"] == [1, 2, 0]


def test_quantiles_of_time_are_inside_their_bucket() -> None:
    metrics = Metrics()
    ring = Activity(metrics)
    for seconds in [0.0007] * 98 + [0.04, 99.0]:
        metrics.stages["total"].observe(np.array([seconds]))
    hour = ring.document("any")
    assert 0.5 < hour["p50_ms"][0] < 1
    assert 25 <= hour["p99_ms"][0] <= 50


def test_shares_are_by_bucket() -> None:
    assert shares(np.array([0.1, 1.0, 1.5, 9.0]), (1.0, 2.0)) == [0.5, 0.25, 0.25]


def test_flagged_records_are_kept_with_reasons_but_without_values(serve: Serve) -> None:
    client = serve()
    answer = client.score({"records": [GOOD, ODD]})
    (kept,) = told(client)["latest"]
    result = answer["results"][1]
    assert (kept["score"], kept["p_value"], kept["severity"]) == (result["score"], result["p_value"], result["severity"])
    assert kept["contributions"] == [
        {"feature": one["feature"], "contribution": one["contribution"]} for one in result["contributions"]
    ]


def test_values_are_there_where_the_setting_asks_for_them(serve: Serve) -> None:
    client = serve(page_values=True)
    answer = client.score({"records": [GOOD, ODD, GOOD], "explain": "all"})
    (kept,) = told(client)["latest"]
    shown = {one["feature"]: (one["value"], one["expected"]) for one in kept["contributions"]}
    meant = {one["feature"]: (one["value"], one["expected"]) for one in answer["results"][1]["contributions"]}
    meant["country"] = (None, meant["country"][1])  # a category that training did not see
    meant["at"] = ("Monday 14:30, March", meant["at"][1])
    assert shown == meant


@pytest.mark.parametrize("body", [{"records": [ODD], "explain": "none"}, {"columns": {"amount": [1e6]}, "explain": "none"}])
def test_a_record_whose_request_asks_for_no_reasons_is_counted_and_not_listed(serve: Serve, body: dict[str, Any]) -> None:
    client = serve()
    client.score(body)
    document = told(client)
    assert (document["anomalies"], document["latest"]) == ([1], [])


def test_of_columns_and_of_an_fdr_set_the_flagged_are_listed_with_their_own_reasons(serve: Serve) -> None:
    client = serve()
    for body in ({"columns": {"amount": [1.0, 1e5, 2.0, 1e6]}}, {"records": [ODD, GOOD, ODD], "fdr": 0.05, "explain": "all"}):
        client.score(body)
    latest = told(client)["latest"]
    assert len(latest) == 4
    for record in latest:
        assert sum(one["contribution"] for one in record["contributions"]) == pytest.approx(record["score"], rel=1e-5)


def test_a_record_without_a_finite_score_is_not_listed(serve: Serve) -> None:
    client = serve()
    check_problem(
        client.post("/score", json={"records": [{**ODD, "amount": 3e38, "count": 300000000000000000000000000000000000000}]}),
        422,
        "not_scorable",
    )
    assert told(client)["latest"] == []


def test_the_latest_come_first_and_only_some_are_kept(serve: Serve) -> None:
    client = serve()
    client.score({"records": [ODD] * (KEPT + 20)})
    client.score({"records": [ODD]})
    latest = told(client)["latest"]
    assert len(latest) == KEPT
    places = [record["place"] for record in latest]
    assert places == sorted(places, reverse=True)


def test_a_page_that_is_off_keeps_nothing(serve: Serve) -> None:
    client = serve(page=False)
    client.score({"records": [ODD]})
    for path in ("/", "/models/tiny/activity"):
        check_problem(client.get(path), 404, "not_found")
    assert client.app.registry.default().latest.documents() == []


def test_an_unknown_model_has_no_activity(service: Client) -> None:
    check_problem(service.get("/models/nope/activity"), 404, "model_not_found")


def test_the_example_can_be_scored_as_it_is(service: Client) -> None:
    document = service.get("/models/tiny/example").json()
    assert list(document["record"]) == [feature.name for feature in FEATURES]
    service.score({"records": [document["record"]]})


@pytest.mark.parametrize("month", range(1, 13))
def test_an_example_datetime_has_the_hour_weekday_and_month_that_are_expected(service: Client, month: int) -> None:
    manifest = service.app.registry.default().detector.manifest
    columns = np.array([1, 2, 0, 0, 1, 13.75, month % 7, month], np.float32)
    moment = np.datetime64(example(manifest, columns)["at"])
    assert moment.astype("M8[M]").astype(int) % 12 + 1 == month
    assert (moment.astype("M8[D]").astype(int) + 3) % 7 == month % 7
    assert str(moment).endswith("T13:45:00")


def test_the_report_comes_with_a_policy_and_its_bytes_are_checked(models_dir: Path) -> None:
    client = Client(Settings(models_dir=models_dir, provider="cpu", reload_seconds=0))
    answer = client.get("/models/tiny/report")
    assert answer.content == b"report.html"
    assert "script-src" not in answer.headers["content-security-policy"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    (next(models_dir.glob("tiny/2*")) / "report.html").write_bytes(b"<script>")
    check_problem(client.get("/models/tiny/report"), 503, "not_ready")
    client.close()


def test_a_report_is_checked_against_the_manifest_that_was_verified_when_it_was_loaded(tmp_path: Path) -> None:
    """Whoever may write to the folder could else put another manifest beside another report, which no trusted key signed."""
    publish(tmp_path, version="first")  # no name that the manifest's hash is part of
    client = Client(Settings(models_dir=tmp_path, provider="cpu", reload_seconds=0))
    bundle = tmp_path / "tiny" / "first"
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "report.html").write_bytes(b"pay here")
    manifest["files"]["report.html"] = {"sha256": hashlib.sha256(b"pay here").hexdigest(), "bytes": 8}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert read_bundle(bundle, ["report.html"]).files == {"report.html": b"pay here"}
    check_problem(client.get("/models/tiny/report"), 503, "not_ready")
    client.close()


def test_a_browser_asks_for_the_report_with_its_key_in_a_form(serve: Serve) -> None:
    client = serve(api_keys=("k1 ö",))
    path = "/models/tiny/report"
    assert client.post(path, data={"key": "k1 ö"}).status_code == 200
    check_problem(client.post(path, data={"key": "k2"}), 401, "unauthorized")
    check_problem(client.post(path), 401, "unauthorized")
    check_problem(client.post(path, data={"key": "x" * 5000}), 413, "body_too_large")


def test_docs_load_nothing_from_elsewhere(service: Client) -> None:
    page = service.get("/docs")
    policy = page.headers["content-security-policy"]
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 3
    for path in linked:
        assert "//" not in path
        asset = service.get(f"/{path}")
        assert asset.status_code == 200, path
        assert len(asset.content) > 1000
    (own,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(own.encode()).digest()).decode() in policy
    check_problem(service.get("/docs/passwd"), 404, "not_found")
