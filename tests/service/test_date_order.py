"""03/04/2026: one order for a whole column, that of the training table, in whatever form a record comes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from service.manifest import Feature
from service.shadow import Alignment
from service.tables import TableError, open_table
from tests.service.client import Client, check_problem
from tests.service.conftest import Serve
from tests.service.test_shadow import manifest
from tests.service.test_tabular import post, stream
from tests.service.tiny_bundle import publish

AMOUNT = Feature(name="amount", kind="numeric", low=0, high=1000)
TIMES = {order: Feature(name="at", kind="datetime", day_first=order) for order in (True, False, None)}
SLASHED = ["03/04/2026", "01/12/2026 14:05", "12/01/2026"]
READ = {
    True: ["2026-04-03", "2026-12-01T14:05", "2026-01-12"],
    False: ["2026-03-04", "2026-01-12T14:05", "2026-12-01"],
    None: ["2026-03-04", "2026-01-12T14:05", "2026-12-01"],
}
REFUSED = {True: "11/23/2026", False: "23/11/2026"}

Scores = Callable[[Client, list[str]], list[float]]


def by_record(client: Client, times: list[str]) -> list[float]:
    return [client.score({"records": [{"amount": 1, "at": time}]})["results"][0]["score"] for time in times]


def by_records(client: Client, times: list[str]) -> list[float]:
    answer = client.score({"records": [{"amount": 1, "at": time} for time in times]})
    return [result["score"] for result in answer["results"]]


def slowly(client: Client, times: list[str]) -> list[float]:
    """An escaped colon might hide a key that stands twice: the fast reader leaves the body to the one that looks."""
    records = [{"amount": 1, "at": time} for time in [*times, "2026-01-01 00:00"]]
    body = json.dumps({"records": records}).replace("00:00", r"00\u003a00")
    answer = client.post("/score", content=body.encode(), headers={"content-type": "application/json"})
    return [result["score"] for result in answer.json()["results"][:-1]]


def by_columns(client: Client, times: list[str]) -> list[float]:
    answer = client.score({"columns": {"amount": [1] * len(times), "at": times}})
    return list(answer["results"]["score"])


def by_lines(client: Client, times: list[str]) -> list[float]:
    lines = "".join(json.dumps({"amount": 1, "at": time}) + "\n" for time in times)
    answer = client.post("/score", content=lines.encode(), headers={"content-type": "application/x-ndjson"})
    return [json.loads(line)["score"] for line in answer.text.splitlines()]


def by_arrow(client: Client, times: list[str]) -> list[float]:
    answer = post(client, stream(pa.table({"amount": [1.0] * len(times), "at": times})))
    return list(pa.ipc.open_stream(answer.content).read_all()["score"].to_pylist())


def by_open_inference(client: Client, times: list[str]) -> list[float]:
    n = len(times)
    inputs = [
        {"name": "amount", "shape": [n], "datatype": "FP64", "data": [1.0] * n},
        {"name": "at", "shape": [n], "datatype": "BYTES", "data": times},
    ]
    answer = client.post("/v2/models/tiny/infer", json={"inputs": inputs})
    return list(next(output["data"] for output in answer.json()["outputs"] if output["name"] == "score"))


@pytest.mark.parametrize("order", [True, False, None])
@pytest.mark.parametrize("way", [by_record, by_records, slowly, by_columns, by_lines, by_arrow, by_open_inference])
def test_the_order_of_the_column_holds_for_every_way(serve: Serve, tmp_path: Path, way: Scores, order: bool | None) -> None:
    publish(tmp_path, features=(AMOUNT, TIMES[order]))
    client = serve(models_dir=tmp_path)
    assert way(client, SLASHED) == pytest.approx(by_records(client, READ[order]), rel=1e-6)


@pytest.mark.parametrize("order", [True, False])
def test_the_other_order_is_refused_in_words_that_say_which_is_meant(serve: Serve, tmp_path: Path, order: bool) -> None:
    publish(tmp_path, features=(AMOUNT, TIMES[order]))
    client = serve(models_dir=tmp_path)
    answer = client.post("/score", json={"records": [{"amount": 1, "at": REFUSED[order]}]})
    problem = check_problem(answer, 422, "invalid_records")
    assert problem["errors"][0]["loc"] == "records[0].at"
    assert f"the {'day' if order else 'month'} comes first" in problem["errors"][0]["message"]
    assert REFUSED[order] not in answer.text
    assert client.get("/models/tiny").json()["features"][1]["day_first"] is order
    assert f"the {'day' if order else 'month'} first" in client.get("/openapi.json").text


def test_a_file_is_read_so_too(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def x(order: bool | None, times: list[str]) -> Any:
        path.write_text("at\n" + "\n".join(times) + "\n")
        return np.concatenate([batch.x for batch in open_table(path, [TIMES[order]])])

    for order, times in READ.items():
        np.testing.assert_array_equal(x(order, SLASHED * 9), x(order, times * 9))
    with pytest.raises(TableError, match=r"row 2 \(line 3\), column at: not a datetime .*; with slashes, the day comes first"):
        x(True, ["23/11/2026", "11/23/2026"])


def test_versions_of_two_orders_have_no_common_x(tmp_path: Path) -> None:
    first, second, old = (manifest(tmp_path, (AMOUNT, TIMES[order])) for order in (True, False, None))
    with pytest.raises(ValueError, match="the features differ: at"):
        Alignment(first, second)
    Alignment(old, second)


def test_the_manifest_has_the_member_only_where_it_says_something() -> None:
    assert "day_first" not in TIMES[None].model_dump_json()
    for order in (True, False):
        assert Feature.model_validate_json(TIMES[order].model_dump_json()) == TIMES[order]
        assert "day_first" in TIMES[order].model_dump()
