"""POST /explain: what would be said of a record without each of its values."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.bundle import Bundle
from service.contributions import BLOCK, Explainer, order_of
from service.detector import Detector
from service.manifest import KL, Apart, Bounds, Relation, Rules
from service.nearest_normal import STEPS, _order, nearest_normal
from service.session import SLICE
from service.what_if import WhatIf
from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.test_scoring import records
from tests.service.tiny_bundle import FEATURES, GOOD, ODD, publish
from training import example


def by_feature(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["feature"]: one for one in result["contributions"]}


def without(record: dict[str, Any], feature: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != feature}


def explained(client: Client, made: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = client.score({"records": made, **more}, "/explain")["results"]
    return results


@given(st.lists(records, min_size=1, max_size=5))
@settings(max_examples=50)
def test_without_a_value_means_as_score_has_it_where_that_value_is_missing(service: Client, made: list[dict[str, Any]]) -> None:
    for record, result in zip(made, explained(service, made), strict=True):
        told = by_feature(result)
        assert told.keys() == GOOD.keys()
        for feature, one in told.items():
            other = service.score({"records": [without(record, feature)], "explain": "all"})["results"][0]
            assert one["if_missing"] == {
                "score": other["score"],
                "p_value": other["p_value"],
                "expected": by_feature(other)[feature]["expected"],
            }


@given(st.lists(records, min_size=1, max_size=5))
@settings(max_examples=50)
def test_as_expected_means_as_score_has_it_with_what_is_expected(service: Client, made: list[dict[str, Any]]) -> None:
    for record, result in zip(made, explained(service, made), strict=True):
        for feature, one in by_feature(result).items():
            value = one["if_missing"]["expected"]
            if feature == "at":  # of which the parts are expected, in words
                assert one["if_expected"] is not None
            elif value is None:
                assert one["if_expected"] is None
            else:
                other = service.score({"records": [{**record, feature: value}]})["results"][0]
                assert one["if_expected"] == {"score": other["score"], "p_value": other["p_value"]}


def test_where_no_category_with_a_name_is_expected_nothing_is_said_of_it(serve: Serve, tmp_path: Path) -> None:
    features = tuple(one.model_copy(update={"categories": ()}) if one.name == "country" else one for one in FEATURES)
    publish(tmp_path, features=features)
    country = by_feature(explained(serve(models_dir=tmp_path), [GOOD])[0])["country"]
    assert country["if_missing"]["expected"] is None
    assert country["if_expected"] is None


def test_a_fitted_model_says_so_to_the_bit(bundle: Bundle) -> None:
    """Of more records than a run takes, and whatever runs they are in."""
    detector = Detector(bundle, "cpu")
    features, x = detector.manifest.features, np.array([golden.x for golden in bundle.manifest.golden], np.float32)
    x = np.concatenate([x] * (2 * SLICE // len(features) // len(x) + 1))
    told = detector.what_if(x, detector.score(x))
    assert told.score.shape == told.p_value.shape == (len(x), len(features))
    start = 0
    for place, feature in enumerate(features):
        own = slice(start, start := start + feature.width)
        lacking = x.copy()
        lacking[:, own] = np.nan
        alone = detector.score(lacking, explain="all")
        np.testing.assert_array_equal(told.score[:, place], alone.score)
        np.testing.assert_array_equal(told.p_value[:, place], alone.p_value)
        np.testing.assert_array_equal(told.expected[:, own], alone.expected[:, own])


def test_what_is_expected_of_a_number_lies_within_what_training_saw(bundle: Bundle) -> None:
    """What the nets make of a record follows an odd value, far beyond where any is."""
    detector, features = Detector(bundle, "cpu"), bundle.manifest.features
    starts = np.cumsum([0, *(feature.width for feature in features[:-1])])
    x = np.array([bundle.manifest.golden[0].x] * 2, np.float32)
    numbers = [(start, feature) for start, feature in zip(starts, features, strict=True) if feature.kind == "numeric"]
    for start, feature in numbers:
        x[:, start] = feature.high * 1e3, -feature.high * 1e3
    told = detector.score(x, explain="all"), detector.score(x[:1]), detector.what_if(x, detector.score(x))
    for expected in (each.expected for each in told):
        assert len(expected)
        for start, feature in numbers:
            assert (expected[:, start] >= np.float32(feature.low)).all()
            assert (expected[:, start] <= np.float32(feature.high)).all()


def test_all_else_is_what_score_says(service: Client) -> None:
    answer = service.score({"records": [GOOD, ODD], "alpha": 0.05, "fdr": 0.2}, "/explain")
    same = service.score({"records": [GOOD, ODD], "alpha": 0.05, "fdr": 0.2, "explain": "all"})
    for result in answer["results"]:
        for one in result["contributions"]:
            del one["if_missing"], one["if_expected"], one["normal_at"]
        del result["broken_rules"]
    for result in [*answer["results"], *same["results"]]:
        result["contributions"].sort(key=lambda one: one["feature"])
    assert answer == same


@given(st.lists(records, min_size=1, max_size=5), st.sampled_from([0.01, 0.05, 0.3]))
@settings(max_examples=50)
def test_normal_at_is_a_number_with_which_score_does_not_flag_the_record(
    service: Client, made: list[dict[str, Any]], alpha: float
) -> None:
    for record, result in zip(made, explained(service, made, alpha=alpha), strict=True):
        for feature, one in by_feature(result).items():
            culprit = result["is_anomaly"] and one["if_expected"] is not None and one["if_expected"]["p_value"] > alpha
            number = feature in ("amount", "count") and one["value"] is not None
            assert (one["normal_at"] is not None) == (culprit and number)
            if one["normal_at"] is not None:
                other = service.score({"records": [{**record, feature: one["normal_at"]}], "alpha": alpha})["results"][0]
                assert not other["is_anomaly"]


@pytest.mark.parametrize("sign", [1, -1])
def test_normal_at_is_the_nearest_there_is(service: Client, sign: int) -> None:
    """The tiny model's score is a sum of absolute values, so that the number can be reckoned."""
    answer = service.score({"records": [{**GOOD, "amount": sign * 1e5}, {**GOOD, "count": sign * 1_000}]}, "/explain")
    amount, count = answer["results"]
    nearest = sign * (answer["threshold"] - (amount["score"] - 1e5))
    assert by_feature(amount)["amount"]["normal_at"] == pytest.approx(nearest, rel=1e-3)
    assert abs(by_feature(amount)["amount"]["normal_at"]) < abs(nearest)
    whole = np.ceil(answer["threshold"] - (count["score"] - 1_000)) - 1
    assert by_feature(count)["count"]["normal_at"] == sign * whole
    assert isinstance(by_feature(count)["count"]["normal_at"], int)


@given(
    odd=st.floats(width=32, allow_nan=False, allow_infinity=False),
    normal=st.floats(width=32, allow_nan=False, allow_infinity=False),
    share=st.floats(0, 1),
)
def test_the_nearest_number_is_found_on_any_scale(odd: float, normal: float, share: float) -> None:
    """Where all numbers beyond some bound between the two are flagged."""
    bound = np.float32(normal + share * (odd - normal))
    assume(min(odd, normal) < bound < max(odd, normal))
    beyond = np.less if odd < normal else np.greater
    x, column = np.float32([[7, odd]]), np.array([1])
    found = nearest_normal(lambda rows: beyond(rows[:, 1], bound), x, column, np.float32([normal]), np.array([False]))[0]
    assert not beyond(found, bound)
    odd_place, found_place, bound_place = (int(_order(np.float32([value]))[0]) for value in (odd, found, bound))
    normal_place = int(_order(np.float32([normal]))[0])
    assert abs(found_place - bound_place) <= abs(odd_place - normal_place) / 2**STEPS + 1
    assert x.tolist() == [[7, odd]]


RULES = Rules(
    bounds=(Bounds(feature="count", low=0, high=20), Bounds(feature="amount", low=0)),
    whole=("count",),
    relations=(Relation(coefficients={"amount": 1, "count": -4}, value=0.5, within=0.1),),
    apart=(Apart(feature="country", level=(1, 1), other="online", never=((0, 0),)),),
)
KEEPS = {**GOOD, "amount": 12.5}  # 12.5 - 4 * 3 is 0.5
BREAKS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "none": ({}, []),
    "a bound and a relation": ({"count": 21}, ["count: from 0 to 20", "amount - 4 count is 0.5, within 0.1"]),
    "the other": ({"amount": -1.0, "count": None}, ["amount: 0 or more"]),
    "a fraction": ({"count": 3.5, "amount": 14.5}, ["count: whole numbers"]),
    "a pair": ({"online": False}, ["country de: never with online false"]),
    "no pair": ({"online": False, "country": "at"}, []),
    "nothing is there": ({"amount": None, "count": None, "country": None, "online": None}, []),
}


@pytest.mark.parametrize("what", BREAKS)
def test_the_rules_that_a_record_breaks_are_named(serve: Serve, tmp_path: Path, what: str) -> None:
    publish(tmp_path, rules=RULES)
    client, (changes, words) = serve(models_dir=tmp_path), BREAKS[what]
    record = {**KEEPS, **changes}
    assert [one["broken_rules"] for one in explained(client, [KEEPS, record, KEEPS])] == [[], words, []]
    told = client.get("/models/tiny").json()["rules"]
    assert set(words) <= set(told)
    assert len(told) == 5


def test_a_model_without_rules_names_none(service: Client) -> None:
    assert [one["broken_rules"] for one in explained(service, [GOOD, ODD])] == [[], []]
    assert service.get("/models/tiny").json()["rules"] == []


def test_rules_of_other_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="rules of features that there are not: age"):
        publish(tmp_path, rules=Rules(whole=("age", "count")))


def test_first_stands_what_the_record_would_be_the_most_normal_without(service: Client) -> None:
    """Or with what is expected in its place; the largest contribution first of those that are alike."""
    contributions = explained(service, [{"amount": 3.0, "count": 7, "level": 10}])[0]["contributions"]
    told = [min(one[name]["score"] for name in ("if_missing", "if_expected") if one[name]) for one in contributions]
    order = [(score, -one["contribution"]) for score, one in zip(told, contributions, strict=True)]
    assert order == sorted(order)
    assert len(set(told)) > 1
    lacking = [one for one in contributions if one["value"] is None]
    assert {one["feature"] for one in lacking} == {"country", "online", "at"}
    whole = service.score({"records": [{"amount": 3.0, "count": 7, "level": 10}]})["results"][0]["score"]
    assert {one["if_missing"]["score"] for one in lacking} == {whole}


def test_where_no_value_alone_is_the_culprit_contributions_have_a_say() -> None:
    """Of four features and a latent term; the third is odd for the other wrong one."""
    contributions = np.float32([[1, 5, 2, 3, 9]] * 2)
    scores = np.float32([[8, 4, 3, 9]] * 2)
    unflagged = np.array([[0.01, 0.01, 0.2, 0.01], [0.01] * 4])
    what_if = WhatIf(scores, unflagged, np.empty((2, 4), np.float32), np.full((2, 4), np.nan, np.float32), unflagged * np.nan,
                     np.empty((2, 4), np.float32))  # fmt: skip
    assert order_of(contributions, what_if, 0.05).tolist() == [[2, 1, 0, 3, 4], [1, 2, 3, 0, 4]]


def test_the_culprit_of_a_contradiction_is_named(serve: Serve, payments: Any) -> None:
    """Amounts that no pharmacy takes: each is usual elsewhere, so that all values have a part in the score."""
    client = serve(models_dir=payments.models)
    columns = example.generate(20_000, seed=3, anomaly_share=0.01)
    odd = [row for row, label in zip(example.records(columns), columns["label"], strict=True) if label == "inflated_amount"]
    results = explained(client, odd)
    assert np.mean([result["contributions"][0]["feature"] == "amount" for result in results]) >= 0.9
    gone = [by_feature(result)["amount"] for result in results]
    assert np.mean([one["if_missing"]["p_value"] > 0.05 for one in gone]) >= 0.8
    assert np.mean([one["if_missing"]["expected"] == one["expected"] < one["value"] / 2 for one in gone]) >= 0.8


def test_the_latent_term_of_an_elbo_comes_last_and_stays(service: Client) -> None:
    live = service.app.registry.default()
    batch = live.reader.read(json.dumps({"records": [GOOD, ODD], "explain": "all"}).encode())
    scores = live.detector.score(batch.x, explain="all")
    what_if = live.detector.what_if(batch.x, scores)
    parts = np.concatenate([scores.contributions, np.float32([[9], [-9]])], axis=1)
    explainer = Explainer(live.detector.manifest.model_copy(update={"score_kind": "elbo"}))
    others = map(json.loads, Explainer(live.detector.manifest).write(batch, scores, what_if))
    for row, told in enumerate(map(json.loads, explainer.write(batch, scores._replace(contributions=parts), what_if))):
        assert told.pop() == {"feature": KL, "value": None, "expected": None, "contribution": [9, -9][row]}
        assert told == next(others)


def test_many_records_are_explained_as_each_is(service: Client) -> None:
    live, made = service.app.registry.default(), [GOOD, ODD, {}] * BLOCK
    batch = live.reader.read(json.dumps({"records": made, "explain": "all"}).encode())
    scores = live.detector.score(batch.x, explain="all")
    told = Explainer(live.detector.manifest).write(batch, scores, live.detector.what_if(batch.x, scores))
    assert told == told[:3] * BLOCK
    assert [json.loads(one) for one in told[:3]] == [result["contributions"] for result in explained(service, made[:3])]


def test_a_record_that_would_have_no_finite_score_without_a_value_is_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve()
    detector = client.app.registry.default().detector
    told = detector.what_if

    def overflows(*asked: Any) -> Any:
        what_if = told(*asked)
        what_if.score[1, 2] = np.inf
        return what_if

    monkeypatch.setattr(detector, "what_if", overflows)
    refused = client.post("/explain", json={"records": [GOOD] * 3})
    assert (refused.status_code, refused.json()["code"]) == (422, "not_scorable")
    assert [error["loc"] for error in refused.json()["errors"]] == ["records[1]"]


def test_it_is_no_live_traffic(serve: Serve) -> None:
    """Who asks why a record was flagged asks of one that has been counted."""
    client = serve()
    client.score({"records": [ODD]})
    before = client.get("/models/tiny/activity").json(), client.get("/models/tiny/drift").json()
    explained(client, [ODD] * 5)
    after = client.get("/models/tiny/activity").json(), client.get("/models/tiny/drift").json()
    assert [len(one[0]["latest"]) for one in (before, after)] == [1, 1]
    assert [sum(one[0]["anomalies"]) for one in (before, after)] == [1, 1]
    assert before[1]["records"] == after[1]["records"]
    assert 'anomaly_requests_total{method="POST",route="/explain",status="200"} 1.0' in client.get("/metrics").text


@pytest.mark.parametrize("path", ["/explain", "/models/tiny/explain", "/models/tiny/versions/{version}/explain"])
def test_any_model_and_version_explains(service: Client, path: str) -> None:
    version = service.get("/models/tiny").json()["version"]
    answer = service.score({"records": [ODD]}, path.format(version=version))
    assert (answer["model"], answer["version"]) == ("tiny", version)
    assert answer["results"][0]["contributions"][0]["feature"] == "amount"


def test_records_times_features_have_the_limit_of_records(serve: Serve) -> None:
    client = serve(max_records=13)  # of six features
    assert len(explained(client, [GOOD] * 2)) == 2
    refused = client.post("/explain", json={"records": [GOOD] * 3})
    assert (refused.status_code, refused.json()["code"]) == (413, "too_many_records")
    assert "2 may be explained at a time" in refused.json()["detail"]
    assert len(explained(serve(max_records=5), [GOOD])) == 1  # one always may


@pytest.mark.parametrize(
    ("body", "status", "code", "loc"),
    [
        ({"columns": {"amount": [1]}}, 422, "invalid_request", "columns"),
        ({"records": [GOOD], "explain": "none"}, 422, "invalid_request", "explain"),
        ({"records": [{"amount": "1"}]}, 422, "invalid_records", "records[0].amount"),
        ({"records": [GOOD], "alpha": 1e-9}, 422, "unsupported_alpha", "alpha"),
        ({"records": []}, 422, "invalid_request", "records"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(service: Client, body: Any, status: int, code: str, loc: str) -> None:
    refused = service.post("/explain", json=body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert [error["loc"] for error in refused.json()["errors"]] == [loc]


def test_bodies_that_it_does_not_read_are_refused(service: Client) -> None:
    line = json.dumps(GOOD)
    refused = service.post("/explain", content=line, headers={"content-type": "application/x-ndjson"})
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
    assert service.post("/explain?explain=all", json={"records": [GOOD]}).status_code == 422
    assert service.get("/explain").headers["allow"] == "POST"
    zipped = service.post(
        "/explain", content=gzip.compress(json.dumps({"records": [ODD]}).encode()), headers={"content-encoding": "gzip"}
    )
    assert zipped.json() == service.score({"records": [ODD]}, "/explain")


def test_it_needs_a_key_where_score_does(serve: Serve) -> None:
    client = serve(api_keys=("secret",))
    assert client.post("/explain", json={"records": [GOOD]}).status_code == 401
    answer = client.post("/explain", json={"records": [GOOD]}, headers={"x-api-key": "secret"})
    assert answer.status_code == 200


def test_what_waits_too_long_is_not_computed(service: Client) -> None:
    late = service.post("/explain", json={"records": [GOOD]}, headers={"x-request-timeout-ms": "0"})
    assert (late.status_code, late.json()["code"]) == (503, "deadline_exceeded")
