"""A version beside the served one: compared, and nobody who asks can tell that it is there."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from service.bundle import read_bundle
from service.detector import Detector
from service.encoding import encode
from service.manifest import BundleError, Feature, Manifest
from service.metrics import Comparison, Metrics
from service.shadow import Alignment, Beside, Shadow, _together
from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.test_metrics import samples
from tests.service.tiny_bundle import FEATURES, GOOD, NUMBERS, ODD, point, publish

OLD, NEW, NEWER = "20260101T000000Z-made01", "20260102T000000Z-made02", "20260103T000000Z-made03"
BODIES: list[Any] = [
    {"records": [GOOD, ODD, {}, {**GOOD, "amount": 18}]},
    {"records": [{**GOOD, "amount": 30, "count": 20}], "explain": "all"},
    {"columns": {"amount": list(range(0, 60, 2)), "count": [20] * 30}, "fdr": 0.2},
    {"records": [ODD, ODD], "alpha": 0.5},
]
RECORDS = 37


@pytest.fixture
def pair(models_dir: Path) -> Path:
    """A models folder with the served version, and one that scores and flags otherwise."""
    publish(models_dir, version=NEW, features=(replace_range(FEATURES[0]), *FEATURES[1:]), alpha=0.2, scale=2.0, current=False)
    return models_dir


def replace_range(feature: Feature) -> Feature:
    return feature.model_copy(update={"low": 5, "high": 10})


def state(client: Client) -> str:
    return str(client.get("/health").raise_for_status().json()["shadow"]["state"])


def wait_for(client: Client, condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        client.run(asyncio.sleep(0.002))


def with_shadow(serve: Serve, models: Path, version: str = NEW, **settings: Any) -> Client:
    client = serve(models_dir=models, shadow=("tiny", version), admin_keys=("root",), **settings)
    shadow = client.app.registry.shadow
    assert shadow is not None
    wait_for(client, lambda: shadow.document()["state"] != "loading")
    return client


def results(client: Client, version: str = OLD) -> Counter[str]:
    found = Counter[str]()
    for (name, labels), value in samples(client).items():
        given = dict(labels)
        if name == "anomaly_shadow_records_total" and (given["version"], given["shadow"]) == (version, NEW):
            found[given["result"]] = int(value)
    return +found


def up(client: Client) -> float:
    return samples(client)["anomaly_shadow_up", frozenset({("model", "tiny"), ("shadow", NEW)})]


def reload(client: Client) -> None:
    assert client.post("/models/tiny/reload", headers={"x-api-key": "root"}).status_code == 200


def own_answer(client: Client, version: str, body: Any) -> tuple[list[bool], list[float]]:
    """What a version flags by its own alpha, and its p-values."""
    plain = {name: value for name, value in body.items() if name in ("records", "columns")}
    found = client.score({**plain, "explain": "none"}, f"/models/tiny/versions/{version}/score")["results"]
    if isinstance(found, dict):
        return found["is_anomaly"], found["p_value"]
    return [one["is_anomaly"] for one in found], [one["p_value"] for one in found]


def test_it_is_compared_as_the_two_versions_answer(serve: Serve, pair: Path) -> None:
    client = with_shadow(serve, pair)
    assert (state(client), up(client)) == ("comparing", 1)
    for body in BODIES:
        client.score(body)
    lines = "\n".join(json.dumps(record) for record in BODIES[0]["records"])
    client.post("/score", content=lines, headers={"content-type": "application/x-ndjson"}).raise_for_status()
    wait_for(client, lambda: sum(results(client).values()) == RECORDS + 4)
    plain = serve(models_dir=pair)
    meant, differences = Counter[str](), list[float]()
    for body in [*BODIES, BODIES[0]]:
        (served, p), (other, q) = own_answer(plain, OLD, body), own_answer(plain, NEW, body)
        names = {(False, False): "neither", (True, True): "both", (True, False): "served", (False, True): "shadow"}
        meant.update(names[flags] for flags in zip(served, other, strict=True))
        differences += np.abs(np.subtract(p, q)).tolist()
    assert results(client) == meant
    assert len(meant) >= 3
    model = {("model", "tiny"), ("version", OLD), ("shadow", NEW)}
    told = samples(client)
    assert told["anomaly_shadow_p_value_difference_count", frozenset(model)] == len(differences)
    assert told["anomaly_shadow_p_value_difference_sum", frozenset(model)] == pytest.approx(sum(differences))
    half = sum(difference <= 0.5 for difference in differences)
    assert told["anomaly_shadow_p_value_difference_bucket", frozenset({*model, ("le", "0.5")})] == half


def test_one_that_is_still_loading_is_neither_up_nor_down() -> None:
    metrics = Metrics()
    shadow = Shadow("tiny", NEW, metrics)
    assert b"anomaly_shadow_up{" not in metrics.text()
    shadow.refuse((), BundleError("it is gone"))
    assert f'anomaly_shadow_up{{model="tiny",shadow="{NEW}"}} 0.0' in metrics.text().decode().splitlines()


def test_no_answer_is_another_one_for_it(serve: Serve, pair: Path) -> None:
    client, plain = with_shadow(serve, pair), serve(models_dir=pair)
    for body in [*BODIES, {"records": [{"amount": "wrong"}]}]:
        with_it, without = client.post("/score", json=body), plain.post("/score", json=body)
        assert with_it.status_code == without.status_code
        if with_it.status_code == 200:
            assert with_it.content == without.content
    assert {labels["version"] for (name, labels) in named(client) if name == "anomaly_records_total"} == {OLD}
    assert plain.get("/health").json()["shadow"] is None
    assert "anomaly_shadow_up{" not in plain.get("/metrics").text


def named(client: Client) -> list[tuple[str, dict[str, str]]]:
    return [(name, dict(labels)) for name, labels in samples(client)]


def test_one_that_raises_is_told_and_fails_nobody(
    serve: Serve, pair: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = with_shadow(serve, pair)
    real = Detector.score

    def broken(self: Detector, *args: Any, **more: Any) -> Any:
        if self.version == NEW:
            raise RuntimeError("a value")
        return real(self, *args, **more)

    with monkeypatch.context() as breaking:
        breaking.setattr(Detector, "score", broken)
        for i in range(1, 4):
            client.score({"records": [GOOD, ODD]})
            wait_for(client, lambda i=i: results(client)["failed"] == 2 * i)
        assert (state(client), up(client)) == ("failing", 0)
        assert client.get("/health").json()["status"] == "ok"
    client.score({"records": [GOOD]})
    wait_for(client, lambda: results(client)["neither"] == 1)
    assert (state(client), up(client)) == ("comparing", 1)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["error"] for line in lines if line["event"] == "shadow fails to score"] == ["RuntimeError"]
    assert all("a value" not in str(line) for line in lines)


def test_what_it_cannot_keep_up_with_is_dropped_and_counted(serve: Serve, pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_shadow(serve, pair)
    going, begun = threading.Event(), threading.Event()
    real = Detector.score

    def slow(self: Detector, *args: Any, **more: Any) -> Any:
        if self.version == NEW:
            begun.set()
            assert going.wait(20)
        return real(self, *args, **more)

    monkeypatch.setattr(Detector, "score", slow)
    monkeypatch.setattr("service.shadow.MAX_BYTES", 4 * 8 * 10)  # of the tiny bundle's eight columns, ten records
    client.score({"records": [GOOD] * 4})
    wait_for(client, begun.is_set)
    for _ in range(6):
        client.score({"records": [GOOD] * 4})
    client.score({"records": [GOOD] * 2})
    assert results(client) == {"dropped": 5 * 4}
    going.set()
    wait_for(client, lambda: results(client) == {"dropped": 5 * 4, "neither": 10})
    client.score({"records": [GOOD] * 10})
    wait_for(client, lambda: results(client)["neither"] == 20)


def test_one_that_cannot_be_loaded_is_told_and_is_taken_up_when_it_can(
    serve: Serve, models_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    client = with_shadow(serve, models_dir, reload_seconds=0.01)
    assert (state(client), up(client)) == ("refused", 0)
    assert client.score({"records": [GOOD]})["version"] == OLD
    folder = publish(models_dir, version=NEW, current=False)
    wait_for(client, lambda: state(client) == "comparing")
    client.score({"records": [GOOD]})
    wait_for(client, lambda: results(client) == {"neither": 1})
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (refused,) = [line for line in told if line["event"] == "shadow refused"]
    assert (refused["level"], refused["version"]) == ("warning", NEW)
    assert folder.name in refused["reason"]
    assert "is missing" in refused["reason"]


def test_it_is_tried_once_and_loaded_once(serve: Serve, models_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    client = with_shadow(serve, models_dir, reload_seconds=0.005)
    client.run(asyncio.sleep(0.1))
    assert capfd.readouterr().err.count('"shadow refused"') == 1
    publish(models_dir, version=NEW, current=False)
    wait_for(client, lambda: state(client) == "comparing")
    client.run(asyncio.sleep(0.1))
    assert sum(thread.name == "shadow" for thread in threading.enumerate()) == 1


def test_a_damaged_one_does_no_harm(serve: Serve, pair: Path) -> None:
    path = pair / "tiny" / NEW / "scorer.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    client = with_shadow(serve, pair)
    document = client.get("/health").raise_for_status().json()
    assert (document["shadow"]["state"], document["refused"]) == ("refused", [])
    assert str(pair) not in document["shadow"]["reason"]
    assert client.score({"records": [GOOD]})["version"] == OLD


def test_other_features_are_refused_by_name_until_the_served_version_has_them(
    serve: Serve, models_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish(models_dir, version=NEW, features=NUMBERS, current=False)
    client = with_shadow(serve, models_dir)
    assert (state(client), up(client)) == ("refused", 0)
    assert client.score({"records": [GOOD]})["version"] == OLD
    assert "f0" not in client.get("/health").text
    assert "the features differ: amount, count, country and 7 more" in capfd.readouterr().err
    publish(models_dir, version=NEWER, features=NUMBERS)
    reload(client)
    assert state(client) == "comparing"
    client.score({"records": [{"f0": 1}]})
    wait_for(client, lambda: results(client, NEWER) == {"neither": 1})


def test_promoted_it_rests_and_rolled_back_it_is_compared_again(serve: Serve, pair: Path) -> None:
    client = with_shadow(serve, pair)
    for version, meant, count in ((NEW, "idle", 0), (OLD, "comparing", 1)):
        point(pair, "tiny", version)
        reload(client)
        assert state(client) == meant
        assert client.score({"records": [GOOD]})["version"] == version
        wait_for(client, lambda count=count: sum(results(client).values()) == count)


def test_of_a_model_that_is_not_served_it_waits(serve: Serve, pair: Path) -> None:
    (pair / "tiny" / "CURRENT").unlink()
    publish(pair, "other")
    client = with_shadow(serve, pair, model="other")
    assert state(client) == "idle"
    point(pair, "tiny", OLD)
    reload(client)
    assert state(client) == "comparing"


def manifest(models: Path, features: tuple[Feature, ...]) -> Manifest:
    return read_bundle(publish(models, version=f"v{len(list(models.glob('tiny/*')))}", features=features)).manifest


def test_categories_and_columns_in_another_order_are_the_same_features(tmp_path: Path) -> None:
    other = tuple(
        feature.model_copy(
            update={"categories": {"country": ("ch", "de", "at"), "level": (20, 30)}[feature.name]}
            if feature.kind == "categorical"
            else {}
        )
        for feature in (FEATURES[5], *FEATURES[:5])
    )
    served, shadow = manifest(tmp_path, FEATURES), manifest(tmp_path, other)
    records = [{**GOOD, "country": country, "level": level} for country in ("at", "de", "fr", None) for level in (10, 20, None)]

    def x(features: tuple[Feature, ...]) -> Any:
        return np.concatenate([encode(feature, [record[feature.name] for record in records])[0] for feature in features], axis=1)

    np.testing.assert_array_equal(Alignment(served, shadow)(x(FEATURES)), x(other))
    unknown = x(FEATURES[2:3] * 1)[:1] * 0 + 3  # a country that the served version does not know
    aligned = Alignment(manifest(tmp_path, FEATURES[2:3]), manifest(tmp_path, other[3:4]))(unknown)
    assert aligned.tolist() == [[3.0]]
    same = Alignment(served, served)
    assert same(x(FEATURES)) is not None
    for wrong in (FEATURES[:5], (*FEATURES[:5], replace_kind(FEATURES[5])), (*FEATURES[:3], whole(FEATURES[3]), *FEATURES[4:])):
        with pytest.raises(ValueError, match="the features differ"):
            Alignment(served, manifest(tmp_path, wrong))


def replace_kind(feature: Feature) -> Feature:
    return Feature(name=feature.name, kind="boolean")


def whole(feature: Feature) -> Feature:
    return Feature(name=feature.name, kind="categorical", categories=("10", "20"))


def test_columns_in_another_order_with_the_same_categories_are_moved(tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    aligned = Alignment(manifest(tmp_path, NUMBERS), manifest(tmp_path, NUMBERS[::-1]))(x)
    assert aligned.tolist() == x[:, ::-1].tolist()


def test_how_far_p_values_are_apart_has_no_sign(tmp_path: Path) -> None:
    served, comparison = manifest(tmp_path, FEATURES), Comparison()
    told = SimpleNamespace(p_value=np.array([0.1, 0.9]), is_anomaly=np.array([False, False]))
    detector: Any = SimpleNamespace(manifest=served, score=lambda x, explain: told)
    other: Any = None
    Beside(other, detector, served, comparison).compare(np.zeros((2, 8), np.float32), np.array([0.5, 0.5]))
    assert comparison.differences.sum == pytest.approx(0.8)
    assert comparison.differences.counts[0] == 0


def test_what_two_served_versions_left_is_told_apart() -> None:
    one, other = object(), object()
    taken: list[Any] = [
        (one, np.full((1, 2), 1.0), np.array([0.1])),
        (other, np.full((2, 2), 2.0), np.array([0.2, 0.3])),
        (one, np.full((1, 2), 3.0), np.array([0.4])),
    ]
    told = [(beside, x[:, 0].tolist(), p.tolist()) for beside, x, p in _together(taken)]
    assert told == [(one, [1, 3], [0.1, 0.4]), (other, [2, 2], [0.2, 0.3])]


def test_it_ends_although_what_says_so_was_gathered_with_the_records() -> None:
    shadow = Shadow("tiny", NEW, Metrics())
    left = threading.Event()

    class Ending:
        def compare(self, x: object, p_value: object) -> None:
            shadow._ending.set()  # as close does, while these are compared
            left.set()

    beside: Any = Ending()
    shadow.put(beside, np.zeros((1, 1), np.float32), np.zeros(1))
    shadow._queue.put(None)
    thread = threading.Thread(target=shadow._work, daemon=True)
    thread.start()
    assert left.wait(20)
    thread.join(20)
    assert not thread.is_alive()
