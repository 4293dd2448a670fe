"""What Prometheus sees."""

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.errors import CODES
from service.manifest import CURRENT
from service.metrics import COMPARISONS, Histogram, Metrics, outcome
from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.tiny_bundle import GOOD, ODD


def samples(client: Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(client: Client, name: str, **labels: str) -> float:
    return samples(client)[name, frozenset(labels.items())]


def test_records_scores_and_requests_are_counted(serve: Serve) -> None:
    client = serve()
    client.score({"records": [GOOD, ODD, GOOD]})
    client.score({"columns": {"amount": [1.0]}})
    client.post("/score", content=b"x")
    client.get("/no/such/path")
    client.request("BREW", "/score")
    model = {"model": "tiny", "version": client.app.registry.default().version}
    assert value(client, "anomaly_records_total", outcome="normal", **model) == 3
    assert value(client, "anomaly_records_total", outcome="anomaly", **model) == 1
    assert value(client, "anomaly_score_count", **model) == 4
    assert value(client, "anomaly_p_value_bucket", le="0.005", **model) == 1
    assert value(client, "anomaly_warnings_total", code="unknown_category", **model) == 1
    assert value(client, "anomaly_request_seconds_count", stage="inference") == 2
    assert value(client, "anomaly_requests_total", route="/score", method="POST", status="200") == 2
    assert value(client, "anomaly_requests_total", route="/score", method="POST", status="400") == 1
    assert value(client, "anomaly_requests_total", route="other", method="GET", status="404") == 1
    assert value(client, "anomaly_requests_total", route="/score", method="OTHER", status="405") == 1
    assert value(client, "anomaly_errors_total", code="invalid_json") == 1
    assert value(client, "anomaly_reloads_total", model="tiny", result="loaded") == 1
    assert value(client, "anomaly_queue_rows") == 0
    assert value(client, "anomaly_model_requests_total", outcome="answered", **model) == 2
    assert value(client, "anomaly_model_requests_total", outcome="refused", **model) == 1
    assert value(client, "anomaly_batches_total", outcome="scored", **model) == 2
    assert value(client, "anomaly_batches_total", outcome="failed", **model) == 0
    info = {**model, "score_kind": "reconstruction", "provider": "CPUExecutionProvider"}
    assert value(client, "anomaly_model_info", **info) == 1


def test_what_an_alert_waits_for_is_told_before_it_happens(serve: Serve) -> None:
    """Of a counter that first appears at 1, Prometheus sees no increase."""
    client = serve()
    told = samples(client)
    errors = {dict(labels)["code"]: n for (name, labels), n in told.items() if name == "anomaly_errors_total"}
    assert errors == dict.fromkeys(CODES, 0)
    reloads = {labels: n for (name, labels), n in told.items() if name == "anomaly_reloads_total"}
    assert reloads == {
        frozenset({("model", "tiny"), ("result", "loaded")}): 1,
        frozenset({("model", "tiny"), ("result", "refused")}): 0,
    }


def test_a_model_that_was_only_ever_refused_is_told(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / CURRENT).write_text("no-such-version")
    client = serve(models_dir=tmp_path)
    assert value(client, "anomaly_reloads_total", model="broken", result="refused") == 1
    assert value(client, "anomaly_reloads_total", model="broken", result="loaded") == 0


def test_a_run_that_fails_is_counted(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(client.app.registry.default().detector, "score", broken)
    client.post("/score", json={"records": [GOOD]})
    model = {"model": "tiny", "version": client.app.registry.default().version}
    assert value(client, "anomaly_batches_total", outcome="failed", **model) == 1
    assert value(client, "anomaly_model_requests_total", outcome="failed", **model) == 1
    assert value(client, "anomaly_records_total", outcome="normal", **model) == 0


def test_labels_do_not_grow_with_what_clients_send(serve: Serve) -> None:
    client = serve()

    def series() -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return set(samples(client))

    def ask(i: int) -> None:
        client.get(f"/path-{i}")
        client.post(f"/models/m{i}/score", json={"records": [{}]})
        client.get(f"/models/m{i}")
        client.request(f"M{i}", "/score")
        client.post("/score", json={"records": [{f"feature-{i}": i}]})

    ask(0)
    client.get("/metrics")
    before = series()
    for i in range(1, 30):
        ask(i)
    assert series() - before == set()


def test_a_histogram_counts_as_prometheus_does() -> None:
    values = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 9.0])
    one, many = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for number in values:
        one.observe(np.array([number]))
    many.observe(values)
    assert one.buckets() == many.buckets() == [("1", 3), ("2", 5), ("+Inf", 6)]
    assert one.sum == many.sum == values.sum()


def test_what_waits_to_be_counted_is_bounded_and_none_of_it_is_lost() -> None:
    histogram, metrics, random = Histogram((0.25, 0.5)), Metrics(), np.random.default_rng(0)
    values = random.random((1_000, 3))
    for row in values:
        histogram.observe(row)
        metrics.observe(*row, 1.0)
        assert max(len(waiting) for one in (histogram, metrics) for waiting in vars(one).values() if type(waiting) is list) <= 256
    below = [[int((part <= bound).sum()) for bound in (0.25, 0.5, 1.0)] for part in (values, values[:, 0])]
    assert [count for _, count in histogram.buckets()] == below[0]
    assert histogram.sum == pytest.approx(values.sum())
    told = dict(metrics.stages["parse"].buckets())
    assert [told[bound] for bound in ("0.25", "0.5", "1")] == below[1]
    assert metrics.stages["total"].sum == 1_000


def test_a_histogram_that_is_told_while_another_thread_observes_loses_nothing() -> None:
    histogram = Histogram((0.5,))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread = threading.Thread(target=lambda: [histogram.observe(np.ones(2)) for _ in range(20_000)])
        thread.start()
        while thread.is_alive():
            assert histogram.counts[1] <= 40_000
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert histogram.counts == [0, 40_000]


def test_without_workers_a_version_that_is_no_longer_loaded_leaves_the_text() -> None:
    metrics = Metrics()
    metrics.counts("tiny", "v1")
    assert b"v1" in metrics.text()
    metrics.forget("tiny", "v1")
    assert not metrics.retired
    assert b"v1" not in metrics.text()


def test_the_last_versions_and_comparisons_stay() -> None:
    metrics = Metrics()
    metrics.retained = 2
    for i in range(COMPARISONS + 3):
        metrics.counts("tiny", f"v{i}")
        metrics.forget("tiny", f"v{i}")
        metrics.comparison("tiny", f"v{i}", "s")
    versions = [f"v{i}" for i in range(COMPARISONS + 3)]
    assert [version for _, version in metrics.retired] == versions[-2:]
    assert [version for _, version, _ in metrics.comparisons] == versions[3:]


@pytest.mark.parametrize(
    ("status", "told"),
    [(200, "answered"), (422, "refused"), (429, "refused"), (499, "gone"), (503, "failed"), (101, "failed")],
)
def test_the_outcome_of_a_request(status: int, told: str) -> None:
    assert outcome(status) == told
