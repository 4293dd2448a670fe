"""A version that serves is watched: what has changed is told in /metrics, /health and at its own route, and nothing else is."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import read_bundle
from service.manifest import Feature, Manifest
from service.watch import LEAST, RECENT_SECONDS, ROWS, VALUES, Watch, Window
from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.test_metrics import samples, value
from tests.service.tiny_bundle import FEATURES, publish, sample
from training.reference import with_reference

DAYS = np.array([f"2026-{month:02}-{day:02}" for month in range(1, 13) for day in range(1, 29)])


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with references of records as `sample` makes them, of which a tenth lacks a boolean."""
    there = tmp_path_factory.mktemp("watched")
    x = sample(FEATURES, 5_000, seed=9)
    x[:500, 4] = np.nan
    publish(there, features=with_reference(FEATURES, x), held_out=True)
    return there


@pytest.fixture(scope="module")
def manifest(folder: Path) -> Manifest:
    return read_bundle(next((folder / "tiny").glob("2*"))).manifest


def scored(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """x and scores, as the tiny graph gives them, of records as the reference's."""
    x = sample(FEATURES, n, seed)
    x[np.random.default_rng(seed).random(n) < 0.1, 4] = np.nan
    return x, np.where(np.isnan(x), np.float32(0.5), x).sum(1, dtype=np.float32)


def looked_at(watch: Watch, clock: Clock, batches: int, seed: int = 0, change: Any = None, n: int = 500) -> None:
    """Watches so many batches, one in ten seconds."""
    for batch in range(batches):
        x, score = scored(n, 1_000 * seed + batch)
        if change is not None:
            change(x)
            score = np.where(np.isnan(x), 0.5, np.abs(x)).sum(1, dtype=np.float32)
        watch.note(x, score)
        clock.now += 10
        watch.digest(judge=True)


def told(watch: Watch) -> set[tuple[str, str | None]]:
    return {(warned.kind, warned.feature) for warned in watch.warnings}


def test_nothing_is_warned_of_where_nothing_changes(manifest: Manifest) -> None:
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    for seed in range(10):
        looked_at(watch, clock, 20, seed)
        assert told(watch) == set()
    assert watch.records == 100_000
    assert watch.warned_at is None


def test_a_change_of_scores_is_warned_of_and_the_warning_ends_after_the_change(manifest: Manifest) -> None:
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    looked_at(watch, clock, 40)
    looked_at(watch, clock, 60, 1, lambda x: np.add(x[:, 0], 8, out=x[:, 0]))
    assert told(watch) == {("values", "amount"), ("p_values", None)}
    first = watch.warned_at
    assert first is not None
    looked_at(watch, clock, 600, 2)
    assert watch.warned_at > first
    assert told(watch) == set()


def test_a_warning_stands_while_the_change_does(manifest: Manifest) -> None:
    """Though the test begins anew each time that it has found something, and few records come."""
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    standing = []
    for _ in range(200):
        looked_at(watch, clock, 1, int(clock.now), lambda x: np.add(x[:, 0], 10, out=x[:, 0]), n=40)
        clock.now += 500
        watch.digest(judge=True)
        standing.append(("p_values", None) in told(watch))
    assert all(standing[standing.index(True) :])
    assert standing.index(True) < 60


def test_what_is_evident_but_small_is_no_warning(manifest: Manifest) -> None:
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    looked_at(watch, clock, 100)
    looked_at(watch, clock, 200, 1, lambda x: np.add(x[:, 0], 0.9, out=x[:, 0]))
    assert watch.warned_at is not None
    assert 0 < watch.recent.distance(watch.ranks.expected) < 0.1
    watch.tolerance = 0.1
    watch.digest(judge=True)
    assert told(watch) == set()


def test_flagged_records_are_left_out_of_the_test_of_p_values(manifest: Manifest) -> None:
    """A third of all records is far beyond the threshold: that is for the flag rate to tell."""
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    looked_at(watch, clock, 60, 1, lambda x: x[::3].__setitem__((slice(None), 0), 900.0))
    assert ("p_values", None) not in told(watch)
    assert watch.evidence < 100
    assert watch.warned_at is None
    assert watch.warnings[0] == ("flagged", None, "34.9 % of the records are flagged, and alpha is 0.01")
    looked_at(watch, clock, 600, 2)
    assert told(watch) == set()


def test_a_flagged_share_is_not_judged_by_a_few_records(manifest: Manifest) -> None:
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    looked_at(watch, clock, 1, 1, lambda x: x.__setitem__((slice(None), 5), 900.0), n=LEAST - 1)
    assert ("flagged", None) not in told(watch)
    looked_at(watch, clock, 1, 2, lambda x: x.__setitem__((slice(None), 5), 900.0), n=10)  # a datetime: no feature tells
    assert ("flagged", None) in told(watch)


def test_recent_records_are_judged_and_old_ones_forgotten(manifest: Manifest) -> None:
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    looked_at(watch, clock, 20, 1, lambda x: x.__setitem__((slice(None), 3), np.nan))
    assert told(watch) >= {("missing", "level")}
    clock.now += 20 * RECENT_SECONDS
    looked_at(watch, clock, 20, 2)
    assert ("missing", "level") not in told(watch)
    assert watch.ever.cells[3, -1] == 10_000
    assert watch.recent.cells[3, -1] == pytest.approx(10_000 * math.exp(-20), rel=0.1)


def test_records_of_unequal_weights_stand_for_fewer() -> None:
    """1,000 of an hour ago weigh 1 / e each: by Kish, all together tell as much as (sum w)^2 / sum w^2 equal ones."""
    window = Window((1, 3), 2, 3600.0, 0.0)
    window.add(np.zeros((1, 3)), np.zeros(2), 1000, 0.0)
    window.add(np.zeros((1, 3)), np.zeros(2), 500, 3600.0)
    weights = np.repeat([np.exp(-1), 1.0], [1000, 500])
    assert window.total == pytest.approx(weights.sum())
    assert window.total * window.weight == pytest.approx(weights.sum() ** 2 / (weights**2).sum())


def test_several_processes_together_warn_falsely_no_more_often(manifest: Manifest) -> None:
    assert [Watch(manifest, processes).warns_at for processes in (1, 4)] == [100, 400]


@pytest.mark.parametrize(("width", "rows"), [(8, ROWS), (256, VALUES // 256), (5_000, 64)])
def test_of_a_wide_table_fewer_records_are_looked_at(manifest: Manifest, width: int, rows: int) -> None:
    features = tuple(Feature(name=f"n{i}", kind="numeric") for i in range(width))
    watch = Watch(manifest.model_copy(update={"features": features}), clock=Clock())
    for _ in range(2_000):
        watch.note(np.zeros((1, width), np.float32), np.zeros(1, np.float32))
    watch.digest()
    assert watch.records == rows


def test_it_judges_by_itself_every_few_seconds(manifest: Manifest) -> None:
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    x, score = scored(500, 0)
    x[:, 3] = np.nan
    watch.note(x, score)
    for second in range(1, 7):
        clock.now += 1.0
        watch.digest()
        assert bool(told(watch)) == (second >= 5)


def test_recent_records_lose_their_weight_while_none_come(manifest: Manifest) -> None:
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    looked_at(watch, clock, 1)
    clock.now += RECENT_SECONDS
    watch.digest(judge=True)
    assert watch.recent.total == pytest.approx(500 / np.e)


def test_too_few_records_of_an_hour_are_judged_with_all_before(manifest: Manifest) -> None:
    clock = Clock()
    watch = Watch(manifest, clock=clock)
    looked_at(watch, clock, 1, n=LEAST - 1)
    assert watch.measures == {}
    looked_at(watch, clock, 1, n=1)
    assert watch.measures
    clock.now += 3 * RECENT_SECONDS
    looked_at(watch, clock, 1, n=1)
    assert watch.recent.total < LEAST
    assert watch.judged_by is watch.ever


def test_memory_is_constant_whatever_comes(manifest: Manifest) -> None:
    """No more than a digest's records wait, of one request or of many, and counts do not grow."""
    watch = Watch(manifest, clock=Clock())
    x, score = scored(10_000, 0)
    watch.note(x, score)
    assert 0 < sum(len(part) for _, part in watch._noted) <= ROWS
    assert watch._noted[0][0].base is None, "a sample must not keep the whole batch"
    watch.digest()
    for row in range(3_000):
        watch.note(x[row : row + 1], score[row : row + 1])
    assert len(watch._noted) == ROWS
    watch.digest()

    def size() -> int:
        return sum(sys.getsizeof(v) for window in (watch.ever, watch.recent) for v in vars(window).values()) + len(watch._noted)

    before = size()
    for seed in range(20):
        watch.note(*scored(5_000, seed))
        watch.digest()
    assert size() == before


def test_a_sample_of_a_large_batch_is_spread_over_it(manifest: Manifest) -> None:
    watch = Watch(manifest, clock=Clock())
    x, score = scored(10_000, 0)
    x[5_000:, 3] = np.nan
    watch.note(x, score)
    watch.digest(judge=True)
    assert watch.ever.cells[3, -1] / watch.records == pytest.approx(0.5, abs=0.01)


def test_records_without_a_finite_score_are_not_counted(manifest: Manifest) -> None:
    watch = Watch(manifest, clock=Clock())
    x, score = scored(10, 0)
    score[3] = np.inf
    watch.note(x, score)
    watch.digest()
    assert watch.records == 9


def columns(n: int, seed: int) -> dict[str, list[Any]]:
    """Records such as those of the reference, as a request has them."""
    random = np.random.default_rng(seed)
    hours = random.uniform(0, 24, n)
    days = random.choice(DAYS, n)
    return {
        "amount": random.uniform(0, 20, n).tolist(),
        "count": random.integers(0, 20, n).tolist(),
        "country": random.choice(["at", "de", "fr"], n).tolist(),
        "level": random.choice([10, 20], n).tolist(),
        "online": [None if lost else bool(yes) for lost, yes in zip(random.random(n) < 0.1, random.random(n) < 0.5, strict=True)],
        "at": [f"{day}T{int(h):02}:{int(h % 1 * 60):02}:00" for day, h in zip(days, hours, strict=True)],
    }


def drift(client: Client) -> Any:
    answer = client.get("/models/tiny/drift")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_records_that_are_as_ever_drift_nowhere(serve: Serve, folder: Path) -> None:
    client = serve(models_dir=folder)
    assert drift(client)["status"] == "unknown"
    assert "Fewer than" in drift(client)["reason"]
    for seed in range(6):
        client.score({"columns": columns(500, seed)})
        document = drift(client)
    assert (document["status"], document["reason"], document["warnings"], document["records"]) == ("ok", None, [], 3_000)
    assert document["judged_by"] == "recent"
    assert document["p_values"]["exact"] is True
    assert document["p_values"]["evidence"] < document["p_values"]["warns_at"] == 100
    assert sum(document["p_values"]["shares"]["recent"]) == pytest.approx(1, abs=0.01)
    at = next(one for one in document["features"] if one["feature"] == "at")
    assert [measure["kind"] for measure in at["measures"]] == ["missing"]
    assert client.get("/health").json()["warnings"] == []
    assert all(number == 0 for (name, _), number in samples(client).items() if name == "anomaly_drift_warnings")


def test_what_has_changed_is_told_by_name_everywhere_but_in_health(serve: Serve, folder: Path) -> None:
    client = serve(models_dir=folder)
    changed = columns(900, 1)
    changed["country"] = ["xx"] * 300 + changed["country"][300:]
    changed["count"] = [None] * 500 + changed["count"][500:]
    changed["amount"] = [2 * amount for amount in changed["amount"]]
    client.score({"columns": changed})
    document = drift(client)
    assert document["status"] == "warning"
    assert document["flagged"]["share"]["recent"] > document["flagged"]["limit"] == 0.1
    assert document["warnings"][0]["kind"] == "flagged"
    assert document["warnings"][0]["reason"] in client.get("/health").json()["warnings"][0]
    found = {(one["kind"], one["feature"]) for one in document["warnings"] if one["feature"]}
    assert found == {("unknown_categories", "country"), ("missing", "count"), ("values", "amount")}
    amount = document["features"][0]["measures"][0]
    assert amount["warned"]
    assert amount["psi"]["recent"] == amount["psi"]["since_loaded"] > amount["limit"]
    count = document["features"][1]["missing_rate"]
    assert (count["training"], count["recent"]) == (0.0, pytest.approx(5 / 9, abs=1e-3))

    health = client.get("/health")
    assert (health.status_code, health.json()["status"], client.get("/health/ready").status_code) == (200, "ok", 200)
    assert "3 of 6 features drifted" in health.json()["warnings"][0]
    assert "country" not in health.text, "names of features need a key"
    labels = {"model": "tiny", "version": document["version"]}
    assert value(client, "anomaly_drift_warnings", kind="missing", **labels) == 1
    assert value(client, "anomaly_drift_psi", feature="country", kind="unknown_categories", **labels) > 0.2
    assert value(client, "anomaly_drift_evidence", **labels) > 0


def test_p_values_that_are_not_uniform_any_more_are_told_in_health(serve: Serve, folder: Path) -> None:
    client = serve(models_dir=folder)
    for seed in range(12):
        client.score({"columns": {**columns(500, seed), "count": [19] * 500}})
        drift(client)
    document = drift(client)
    assert ("p_values", None) in {(one["kind"], one["feature"]) for one in document["warnings"]}
    assert document["p_values"]["warned_at"]
    assert "p-values are not uniform any more" in client.get("/health").json()["warnings"][0]


def test_p_values_that_warn_before_features_can_are_told_with_their_distance(serve: Serve, folder: Path) -> None:
    client = serve(models_dir=folder)
    few = columns(1, 3)
    client.score({"columns": {name: values * (LEAST - 50) for name, values in few.items()}})
    document = drift(client)
    assert [(one["kind"], one["feature"]) for one in document["warnings"]] == [("p_values", None)]
    assert document["p_values"]["distance"]["since_loaded"] > 0.05


def test_a_bundle_of_before_says_that_drift_cannot_be_told_and_why(serve: Serve, models_dir: Path) -> None:
    client = serve(models_dir=models_dir)
    client.score({"columns": {**columns(900, 1), "amount": [15.0] * 900}})
    document = drift(client)
    assert (document["status"], document["features"], document["warnings"]) == ("unknown", [], [])
    assert "fit it again" in document["reason"]
    assert document["p_values"]["exact"] is False
    assert document["records"] == 900
    assert document["flagged"]["alpha"] == 0.01
    assert client.get("/health").json()["warnings"] == []
    assert "anomaly_drift_psi{" not in client.get("/metrics").text


def test_every_way_of_scoring_is_watched(serve: Serve, folder: Path) -> None:
    client = serve(models_dir=folder)
    one = {name: values[0] for name, values in columns(1, 0).items()}
    client.score({"records": [one]})
    client.score({"records": [one] * 3, "explain": "all"})
    client.post("/score", json={"records": [one] * 5}, headers={"Content-Encoding": "identity"})
    client.post("/score", content=b'{"amount": 1}\n{"amount": 2}\n', headers={"Content-Type": "application/x-ndjson"})
    inputs = [{"name": "amount", "shape": [7], "datatype": "FP64", "data": [1.0] * 7}]
    assert client.post("/v2/models/tiny/infer", json={"inputs": inputs}).status_code == 200
    assert client.post("/score", json={"records": [{"amount": "1"}]}).status_code == 422
    assert client.get("/health").status_code == 200
    assert drift(client)["records"] == 1 + 3 + 5 + 2 + 7


def test_the_timer_digests_by_itself(serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.service.client import until

    monkeypatch.setattr("service.watch.DIGEST_SECONDS", 0.01)
    client = serve(models_dir=folder)
    client.score({"columns": columns(300, 0)})
    watch = client.app.registry.default().watch
    client.run(until(lambda: watch.records == 300))


def test_a_fault_of_the_watch_fails_no_request(serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.service.client import until

    monkeypatch.setattr("service.watch.DIGEST_SECONDS", 0.01)
    client = serve(models_dir=folder)
    watch = client.app.registry.default().watch
    asked: list[int] = []

    def fail(**_: Any) -> None:
        asked.append(1)
        raise RuntimeError("broken")

    monkeypatch.setattr(watch, "digest", fail)
    client.score({"columns": columns(300, 0)})
    client.run(until(lambda: len(asked) > 2))
    assert client.get("/health").status_code == client.get("/metrics").status_code == 200


def test_drift_needs_a_key_and_a_model(serve: Serve, folder: Path) -> None:
    client = serve(models_dir=folder, api_keys=("secret",))
    assert client.get("/models/tiny/drift").status_code == 401
    assert client.get("/models/tiny/drift", headers={"X-API-Key": "secret"}).status_code == 200
    assert client.get("/models/none/drift", headers={"X-API-Key": "secret"}).status_code == 404
