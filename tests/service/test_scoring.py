"""POST /score: what a 200 holds."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import calibration
from service.contributions import BLOCK, Explainer
from service.manifest import KL
from tests.service.client import Client
from tests.service.tiny_bundle import FEATURES, GOOD, ODD

HEAD = {"model", "version", "score_kind", "alpha", "threshold", "results"}
RESULT = {"score", "p_value", "is_anomaly", "severity", "elbo", "reconstruction_error", "contributions", "warnings"}
COLUMNS = {name: [GOOD[name], ODD[name], GOOD[name]] for name in GOOD}

values = {
    "amount": st.none() | st.floats(-2e6, 2e6, width=32) | st.integers(-(10**6), 10**6),
    "count": st.none() | st.integers(-100, 100),
    "country": st.none() | st.sampled_from(["at", "de", "fr", "xx", "é:", 'a"b', "", "NA"]),
    "level": st.none() | st.sampled_from([10, 20, 30]),
    "online": st.none() | st.booleans(),
    "at": st.none() | st.datetimes().map(lambda moment: moment.replace(microsecond=0).isoformat()),
}
records = st.fixed_dictionaries({}, optional=values)


def test_an_answer_has_the_fields_of_the_interface(service: Client) -> None:
    answer = service.score({"records": [GOOD, ODD]})
    assert answer.keys() == HEAD
    assert (answer["model"], answer["score_kind"], answer["alpha"]) == ("tiny", "reconstruction", 0.01)
    normal, odd = answer["results"]
    assert normal.keys() == odd.keys() == RESULT
    assert normal["score"] == pytest.approx(12.5 + 3 + 1 + 1 + 1 + 14.5 + 0 + 3)
    assert normal["elbo"] == pytest.approx(-normal["score"] / 2)
    assert normal["reconstruction_error"] == pytest.approx(normal["score"] / 4)
    assert (normal["is_anomaly"], normal["severity"], normal["contributions"]) == (False, "low", None)
    assert (odd["is_anomaly"], odd["severity"], odd["p_value"]) == (True, "critical", 1 / 200)
    assert normal["warnings"] == []
    assert odd["warnings"] == [
        {"feature": "amount", "code": "out_of_range"},
        {"feature": "country", "code": "unknown_category"},
    ]


def test_contributions_are_told_with_what_was_sent_and_what_was_expected(service: Client) -> None:
    odd = service.score({"records": [ODD]})["results"][0]
    contributions = odd["contributions"]
    assert [c["feature"] for c in contributions] == ["amount", "at", "count", "country", "level", "online"]
    assert {c["feature"]: c["value"] for c in contributions} == ODD
    assert contributions[0] == {"feature": "amount", "value": 100000.0, "expected": 0.1, "contribution": 100000.0}
    assert {c["feature"]: c["expected"] for c in contributions[2:]} == {"count": 0, "country": "at", "level": 10, "online": True}
    assert sum(c["contribution"] for c in contributions) == pytest.approx(odd["score"], rel=1e-5)


def test_reasons_come_by_their_contribution_with_null_for_a_category_without_a_name(service: Client) -> None:
    """A term may be below 0, as of an elbo; and what is expected may be one of the rare categories, none by name."""
    live = service.app.registry.default()
    batch = live.reader.read(json.dumps({"records": [GOOD], "explain": "all"}).encode())
    scores = live.detector.score(batch.x, explain="all")
    expected = scores.expected.copy()
    expected[0, 2] = len(FEATURES[2].categories)  # its country
    scores = scores._replace(contributions=np.float32([[-5, 1, 3, -0.5, 0, 2]]), expected=expected)
    told = json.loads(Explainer(live.detector.manifest).write(batch, scores)[0])
    assert [one["contribution"] for one in told] == [3, 2, 1, 0, -0.5, -5]
    assert [one["feature"] for one in told] == ["country", "at", "count", "online", "level", "amount"]
    assert (told[0]["value"], told[0]["expected"]) == ("de", None)


def test_the_latent_term_of_an_elbo_has_no_value_and_nothing_is_expected_of_it(service: Client) -> None:
    live = service.app.registry.default()
    batch = live.reader.read(json.dumps({"records": [GOOD, ODD], "explain": "all"}).encode())
    scores = live.detector.score(batch.x, explain="all")
    parts = np.concatenate([scores.contributions, np.float32([[9], [-9]])], axis=1)
    explainer = Explainer(live.detector.manifest.model_copy(update={"score_kind": "elbo"}))
    without = map(json.loads, Explainer(live.detector.manifest).write(batch, scores))
    for row, others in enumerate(without):
        told = json.loads(explainer.write(batch, scores._replace(contributions=parts))[row])
        latent = {"feature": KL, "value": None, "expected": None, "contribution": [9, -9][row]}
        told.remove(latent)
        assert told == others


def test_reasons_of_many_records_are_those_of_each(service: Client) -> None:
    live, n, random = service.app.registry.default(), BLOCK + 88, np.random.default_rng(0)
    batch = live.reader.read(json.dumps({"records": [GOOD] * n, "explain": "all"}).encode())
    scores = live.detector.score(batch.x, explain="all")
    scores = scores._replace(
        contributions=random.normal(size=scores.contributions.shape).astype(np.float32),
        expected=random.uniform(0, 3, scores.expected.shape).astype(np.float32),
    )
    scores.expected[::7, 2] = np.nan
    explainer, parts = Explainer(live.detector.manifest), ("explained", "contributions", "expected")
    alone = [scores._replace(**{part: getattr(scores, part)[i : i + 1] for part in parts}) for i in range(n)]
    assert explainer.write(batch, scores) == [explainer.write(batch, one)[0] for one in alone]


def test_whole_numbers_stay_whole(service: Client) -> None:
    body = b'{"records":[{"amount":100000,"count":7}],"explain":"all"}'
    told = {c["feature"]: c["value"] for c in service.score(body)["results"][0]["contributions"]}
    assert (str(told["amount"]), str(told["count"])) == ("100000", "7")


@pytest.mark.parametrize(("explain", "explained"), [("none", 0), ("flagged", 1), ("all", 3)])
def test_explain_says_which_records_get_contributions(service: Client, explain: str, explained: int) -> None:
    results = service.score({"records": [GOOD, ODD, {}], "explain": explain})["results"]
    assert sum(result["contributions"] is not None for result in results) == explained


def test_columns_score_as_records_do(service: Client) -> None:
    rows = service.score({"records": [GOOD, ODD, GOOD], "explain": "all"})["results"]
    answer = service.score({"columns": COLUMNS, "explain": "all"})
    assert answer.keys() == HEAD
    for field in ("score", "p_value", "is_anomaly", "contributions"):
        assert answer["results"][field] == [row[field] for row in rows]


def test_columns_tell_contributions_only_where_there_are_any(service: Client) -> None:
    flagged = service.score({"columns": COLUMNS})["results"]["contributions"]
    assert [reasons is None for reasons in flagged] == [True, False, True]
    assert service.score({"columns": COLUMNS, "explain": "none"})["results"].keys() == {"score", "p_value", "is_anomaly"}
    assert service.score({"columns": {"amount": [1, 2]}})["results"].keys() == {"score", "p_value", "is_anomaly"}


def test_missing_is_null_or_left_out(service: Client) -> None:
    left_out, nulls = {}, dict.fromkeys(GOOD)
    results = service.score({"records": [left_out, nulls], "explain": "all"})["results"]
    assert results[0] == results[1]
    assert results[0]["score"] == pytest.approx(0.5 * 8)
    assert {c["value"] for c in results[0]["contributions"]} == {None}
    assert [w["feature"] for w in results[0]["warnings"] if w["code"] == "missing"] == ["amount", "country"]


def test_alpha_moves_the_threshold_and_the_verdicts(service: Client) -> None:
    body = {"records": [{"amount": amount} for amount in range(0, 100, 5)]}
    strict, loose = service.score({**body, "alpha": 0.005}), service.score({**body, "alpha": 0.5})
    assert strict["threshold"] > loose["threshold"]
    for answer in (strict, loose):
        for result in answer["results"]:
            assert result["is_anomaly"] == (result["p_value"] <= answer["alpha"]) == (result["score"] >= answer["threshold"])


def test_fdr_marks_the_benjamini_hochberg_set(service: Client) -> None:
    body = {"records": [{"amount": amount, "country": "de"} for amount in (1, 5, 30, 45, 52, 60, 500, 600)], "fdr": 0.3}
    results = service.score(body)["results"]
    p = np.array([result["p_value"] for result in results])
    assert [result["is_anomaly"] for result in results] == calibration.benjamini_hochberg(p, 0.3).tolist()


@settings(max_examples=40)
@given(batch=st.lists(records, min_size=1, max_size=5), first=records)
def test_a_record_has_one_score_wherever_it_stands(service: Client, batch: list, first: dict) -> None:
    def told(answer: dict) -> dict:
        return {name: answer[name] for name in ("score", "p_value", "elbo", "contributions", "warnings")}

    alone = told(service.score({"records": [first], "explain": "all"})["results"][0])
    among = service.score({"records": [*batch, first], "explain": "all"})["results"]
    assert told(among[-1]) == alone
    assert all(np.isfinite(result["score"]) for result in among)
    columns = {name: [record.get(name) for record in [first, *batch]] for name in values}
    assert service.score({"columns": columns})["results"]["score"] == [r["score"] for r in [among[-1], *among[:-1]]]
    for result in among:
        parts = [c["contribution"] for c in result["contributions"]]
        assert parts == sorted(parts, reverse=True)
        assert sum(parts) == pytest.approx(result["score"], rel=1e-5, abs=1e-6)


def test_large_bodies_score_in_the_background_as_small_ones_do(service: Client) -> None:
    many = {"records": [GOOD, ODD] * 400}
    assert len(json.dumps(many)) > service.app.settings.inline_bytes
    small, large = service.score({"records": [GOOD, ODD]})["results"], service.score(many)["results"]
    assert large == small * 400
    assert service.app.permits.taken == 0


def test_gzip_bodies(service: Client) -> None:
    body = gzip.compress(json.dumps({"records": [GOOD]}).encode())
    answer = service.post("/score", content=body, headers={"content-encoding": "gzip", "content-type": "application/json"})
    assert answer.json() == service.score({"records": [GOOD]})


def test_headers_of_an_answer(service: Client) -> None:
    body = {"records": [GOOD]}
    answer = service.post("/score", json=body, headers={"x-request-id": "my-id_1.2"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "my-id_1.2"
    stages = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(stages) == ["parse", "queue", "inference", "total"]
    assert all(float(milliseconds) >= 0 for milliseconds in stages.values())
    for bad in ("", "a b", "x" * 129, "a\tb", "é"):
        other = service.post("/score", json=body, headers={"x-request-id": bad.encode()}).headers["x-request-id"]
        assert other != bad
    assert answer.headers["x-request-id"] != service.post("/score", json=body).headers["x-request-id"]


def test_numbers_have_the_digits_of_float32(service: Client) -> None:
    text = service.post("/score", json={"records": [{"amount": 0.1}]}).text
    score = text.split('"score":')[1].split(",")[0]
    assert score == str(np.float32(score))
    assert len(score) < 12


def test_other_routes_answer_for_models_and_versions(service: Client) -> None:
    whole = service.score({"records": [GOOD]})
    assert service.score({"records": [GOOD]}, "/models/tiny/score") == whole
    assert service.score({"records": [GOOD]}, f"/models/tiny/versions/{whole['version']}/score") == whole


@pytest.mark.parametrize(("text", "told"), [("1" + "0" * 20, 10**20), ('"x\\ud800"', "x?")])
def test_a_value_that_json_barely_holds_leaves_its_neighbours_whole(service: Client, text: str, told: object) -> None:
    """A feature that one record has as such a value, and another of the same run leaves out."""
    name = "amount" if text.isdigit() else "country"
    answer = service.post("/score", content=b'{"records": [{"%b": %b}, {}], "explain": "all"}' % (name.encode(), text.encode()))
    results = json.loads(answer.content, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))["results"]
    values = [next(part["value"] for part in result["contributions"] if part["feature"] == name) for result in results]
    assert values == [told, None]
