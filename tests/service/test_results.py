"""`score --explain`: why a row of a file is flagged, in the very bytes of POST /score."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from service import bulk
from service.batch import Explain
from service.bulk import score_file
from service.tables import TableError, open_table
from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.test_scoring import values
from tests.service.test_tabular import SCHEMA
from tests.service.tiny_bundle import FEATURES, GOOD, NUMBERS, ODD, publish
from training import example

MODELS = Path(__file__).parents[2] / "models"
SCORES, REASONS = ["score", "p_value", "is_anomaly"], ["severity", "reasons", "warnings"]
Record = dict[str, Any]
# An empty cell of a CSV file is no empty text, but no value.
records = st.fixed_dictionaries(values | {"country": values["country"].filter(lambda text: text != "")})


class Result(msgspec.Struct):
    """A result of POST /score, its reasons and warnings as they were written."""

    score: float
    p_value: float
    is_anomaly: bool
    severity: str
    contributions: msgspec.Raw
    warnings: msgspec.Raw


class Answer(msgspec.Struct):
    """A 200 of POST /score."""

    results: list[Result]


def over_http(client: Client, made: Sequence[Record], **options: Any) -> list[list[Any]]:
    """The columns of each record as they should stand in a table, from the bytes of the answer to all of them."""
    answer = client.post("/score", json={"records": made, **options})
    assert answer.status_code == 200, answer.text
    return [
        [one.score, one.p_value, one.is_anomaly, one.severity]
        + [None if bytes(raw) in (b"null", b"[]") else bytes(raw).decode() for raw in (one.contributions, one.warnings)]
        for one in msgspec.json.decode(answer.content, type=Answer).results
    ]


def write(folder: Path, made: Sequence[Record], ending: str, schema: pa.Schema = SCHEMA) -> Path:
    """The records as a table."""
    path = folder / f"data.{ending}"
    if ending == "parquet":
        parquet.write_table(pa.Table.from_pylist(list(made), schema), path)
        return path
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(schema.names)
        for record in made:
            cells = [record.get(name) for name in schema.names]
            writer.writerow([json.dumps(cell) if isinstance(cell, bool | int | float) else cell for cell in cells])
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an output, those of CSV as what they are texts of."""
    if path.name.endswith(".parquet"):
        table = parquet.read_table(path)
        return list(table.set_column(0, "score", table["score"].cast(pa.float64())).to_pylist())
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: json.loads(cell) if name in SCORES and cell else cell or None for name, cell in row.items()} for row in rows]


def score(
    folder: Path, models: Path, data: Path, ending: str = "csv", model: str = "tiny", **options: Any
) -> list[dict[str, Any]]:
    """The rows of what scoring makes of the data."""
    out = folder / f"out.{ending}"
    score_file(models, model, str(data), str(out), provider="cpu", progress=io.StringIO(), **options)
    return read(out)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@given(st.lists(records, min_size=1, max_size=8), st.sampled_from(["flagged", "all"]), st.sampled_from([None, 0.05, 0.3]))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_explained_as_records_are(
    service: Client, bundle_dir: Path, tmp_path: Path, ending: str, made: list[Record], explain: Explain, alpha: float | None
) -> None:
    """The same order, objects and digits; no row of the one has what the other has not."""
    if ending == "parquet":  # a column has one type
        made = [record | {"amount": None if record["amount"] is None else float(record["amount"])} for record in made]
    expected = over_http(service, made, explain=explain, alpha=alpha)
    rows = score(tmp_path, bundle_dir, write(tmp_path, made, ending), explain=explain, alpha=alpha)
    assert [list(row) for row in rows] == [SCORES + REASONS] * len(made)
    got = [list(row.values()) for row in rows]
    assert [row[1:] for row in got] == [row[1:] for row in expected]
    assert [pa.scalar(row[0], pa.float32()) for row in got] == [pa.scalar(row[0], pa.float32()) for row in expected]


def test_rows_of_a_trained_model_are_explained_as_records_are(serve: Serve, tmp_path: Path) -> None:
    """To the last digit, though a file is scored in other batches than a request."""
    payments = example.generate(1_200, seed=3)
    example.write_csv(payments, tmp_path / "data.csv")
    made = example.records(payments)
    expected = over_http(serve(models_dir=MODELS), made[:700]) + over_http(serve(models_dir=MODELS), made[700:])
    assert 5 < sum(row[-2] is not None for row in expected) < 100
    rows = score(tmp_path, MODELS, tmp_path / "data.csv", model="example", explain="flagged")
    assert [list(row.values()) for row in rows] == expected


def test_which_rows_have_what(bundle_dir: Path, tmp_path: Path) -> None:
    data = write(tmp_path, [GOOD, ODD, GOOD | {"country": "xx"}], "csv")
    none, flagged, every = (score(tmp_path, bundle_dir, data, explain=explain) for explain in ("none", "flagged", "all"))
    assert [list(row) for row in none] == [SCORES] * 3
    assert [{name: row[name] for name in SCORES} for row in flagged] == none
    assert [row["severity"] for row in flagged] == ["low", "critical", "low"]
    assert [row["reasons"] is not None for row in flagged] == [False, True, False]
    assert [row["reasons"] is not None for row in every] == [True] * 3
    assert [row["warnings"] is not None for row in flagged] == [False, True, True]
    reasons = json.loads(flagged[1]["reasons"])
    assert {one["feature"]: one["value"] for one in reasons} == ODD
    assert every[1] == flagged[1]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_constant_that_changed_is_warned_of_as_over_http(serve: Serve, tmp_path: Path, ending: str) -> None:
    publish(tmp_path / "models", dropped={"alarm": 0, "state": "ok", "id": None})
    schema = pa.schema([*SCHEMA, ("state", pa.string()), ("alarm", pa.float64()), ("id", pa.string())])
    changes: list[Record] = [{"alarm": 1.0, "state": "down"}, {"alarm": 0.0, "state": "ok"}, {"alarm": None}, {"state": "down"}]
    made = [record | change | {"id": "x"} for record in (GOOD, ODD) for change in changes]
    expected = over_http(serve(models_dir=tmp_path / "models"), made)
    rows = score(tmp_path, tmp_path / "models", write(tmp_path, made, ending, schema), explain="flagged")
    assert [row["warnings"] for row in rows] == [row[-1] for row in expected]
    assert rows[0]["warnings"] == '[{"feature":"alarm","code":"out_of_range"},{"feature":"state","code":"unknown_category"}]'


def test_rows_of_many_batches_are_explained_as_those_of_one(
    bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path, [GOOD | {"amount": 3.0 * place} for place in range(400)], "csv")
    whole = score(tmp_path, bundle_dir, data, "parquet", explain="flagged")
    assert parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups == 1
    assert 0 < sum(row["reasons"] is not None for row in whole) < 400
    monkeypatch.setattr(bulk, "REASONS_READ", 64 * len(FEATURES))
    monkeypatch.setattr(bulk, "REASONS_WRITTEN", 100 * len(FEATURES))
    monkeypatch.setattr(bulk, "IN_LOG", 0.0)  # a line of progress for each batch
    told, out = io.StringIO(), tmp_path / "parts.parquet"
    score_file(bundle_dir, "tiny", str(data), str(out), provider="cpu", progress=told, explain="flagged")
    assert (told.getvalue().count(" left\n"), parquet.ParquetFile(out).num_row_groups) == (7, 4)
    assert read(out) == whole


def test_batches_of_a_wide_table_are_of_fewer_rows(tmp_path: Path) -> None:
    schema = pa.schema({feature.name: pa.float64() for feature in NUMBERS})
    data = write(tmp_path, [dict.fromkeys(schema.names, 1.0)] * 1000, "csv", schema)
    for cells, rows in ((1 << 20, [1000]), (400 * len(NUMBERS), [400, 400, 200]), (1, [64] * 15 + [40])):
        assert [len(batch.x) for batch in open_table(data, NUMBERS, cells=cells)] == rows


@pytest.mark.parametrize("name", REASONS)
def test_a_kept_column_may_not_be_called_as_one_that_is_added(bundle_dir: Path, tmp_path: Path, name: str) -> None:
    schema = pa.schema([*SCHEMA, (name, pa.string())])
    data = write(tmp_path, [GOOD | {name: "mine"}], "csv", schema)
    with pytest.raises(TableError, match=f"--keep {name}: the output has a column of that name; rename it in the data"):
        score(tmp_path, bundle_dir, data, keep=[name], explain="flagged")
    assert not (tmp_path / "out.csv").exists()
    assert score(tmp_path, bundle_dir, data, keep=[name])[0][name] == "mine"
