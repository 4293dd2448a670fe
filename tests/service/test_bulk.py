import csv
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv as arrow_csv

from service import bulk
from service.bulk import score_batch, score_file
from service.bundle import read_bundle
from service.detector import Detector
from service.manifest import BundleError
from service.tables import TableError, open_table
from tests.service import tiny_bundle

HEADER = "id,amount,count,country,level,online,at,more\n"
ROWS = 20_000  # several batches


@pytest.fixture
def models(tmp_path):
    tiny_bundle.publish(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def detector(models):
    return Detector(read_bundle(models / "tiny" / "20260101T000000Z-made01"), "cpu")


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "data.csv"
    lines = [
        f"r{i},{amount:.3f},{i % 20},{'de' if i % 3 else ''},{10 if i % 2 else 20},{i % 2 == 0},2026-03-02 14:{i % 60:02},x"
        for i, amount in enumerate(rng.uniform(0, 1200, ROWS))
    ]
    path.write_text(HEADER + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def expected(detector, data):
    x = np.concatenate([batch.x for batch in open_table(data, detector.manifest.features)])
    return detector.score(x, explain="none")


def score(models, data, output, keep=(), progress=None):
    return score_file(models, "tiny", str(data), str(output), keep, "cpu", progress or io.StringIO())


def test_csv_has_a_row_for_each_with_float32_digits(models, data, tmp_path, expected):
    assert score(models, data, tmp_path / "out.csv", keep=["id"]) == ROWS
    with open(tmp_path / "out.csv") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "score", "p_value", "is_anomaly"]
    ids, scores, p_values, anomalies = zip(*rows[1:], strict=True)
    assert ids == tuple(f"r{i}" for i in range(ROWS))
    np.testing.assert_array_equal(np.array(scores, np.float32), expected.score)
    np.testing.assert_array_equal(np.array(p_values, np.float64), expected.p_value)
    assert anomalies == tuple(str(bool(anomaly)).lower() for anomaly in expected.is_anomaly)
    assert 0 < sum(expected.is_anomaly) < ROWS
    assert max(map(len, scores)) <= 12


def test_parquet_in_and_out_is_the_same(models, data, tmp_path, expected, detector):
    table = arrow_csv.read_csv(data)
    pq.write_table(table, tmp_path / "data.parquet")
    score(models, tmp_path / "data.parquet", tmp_path / "out.parquet", keep=["id", "level"])
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["id", "level", "score", "p_value", "is_anomaly"]
    assert out["score"].type == pa.float32()
    assert out["level"].equals(table["level"])
    np.testing.assert_array_equal(out["score"].to_numpy(), expected.score)
    np.testing.assert_array_equal(out["is_anomaly"].to_numpy(), expected.is_anomaly)


def test_standard_output(models, data, capfdbinary):
    score(models, data, "-")
    assert capfdbinary.readouterr().out.count(b"\n") == ROWS + 1


def test_tells_progress_and_what_it_left_aside(models, data, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "IN_LOG", 0.0)
    told = io.StringIO()
    score(models, data, tmp_path / "out.csv", progress=told)
    lines = told.getvalue().splitlines()
    assert lines[0] == "columns left aside, which the model does not know: id, more"
    assert "rows/s" in lines[1]
    assert "s left" in lines[1]
    assert lines[-1].startswith("scored 20,000 rows in ")
    assert "\r" not in told.getvalue()


def test_a_terminal_sees_one_line(models, data, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "ON_TERMINAL", 0.0)
    told = io.StringIO()
    told.isatty = lambda: True
    score(models, data, tmp_path / "out.csv", progress=told)
    assert told.getvalue().count("\n") == 2  # what was left aside, and the last line
    assert told.getvalue().count("\r") > 2


def test_no_rows_make_no_rows(models, tmp_path):
    (tmp_path / "data.csv").write_text(HEADER)
    for name in ("out.csv", "out.parquet"):
        assert score(models, tmp_path / "data.csv", tmp_path / name) == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_bad_cell_leaves_nothing_behind_and_what_was_there_alone(models, data, tmp_path, name):
    with open(data, "a") as file:
        file.write("last,oops,1,de,10,true,2026-03-02,x\n")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(TableError, match=r"data\.csv, row 20001 \(line 20002\), column amount: not a number"):
        score(models, data, out / name)
    assert list(out.iterdir()) == []
    (out / name).write_text("precious")
    with pytest.raises(TableError):
        score(models, data, out / name)
    assert (out / name).read_text() == "precious"


@pytest.mark.parametrize(
    ("output", "keep", "message"),
    [
        ("out.txt", (), "must end with .csv or .parquet"),
        ("none/out.csv", (), "there is no folder"),
        ("out.csv", ("score",), "the output has a column of that name"),
        ("out.csv", ("id", "id"), "named twice"),
        ("out.csv", ("nothing",), "no column nothing to keep"),
        ("data.csv", (), "this is the data itself"),
    ],
)
def test_refused_before_anything_is_written(models, data, tmp_path, output, keep, message):
    before = data.read_bytes()
    with pytest.raises(TableError, match=message):
        score(models, data, tmp_path / output, keep)
    assert data.read_bytes() == before
    assert not (tmp_path / "out.csv").exists()


def test_no_such_model(tmp_path, data):
    with pytest.raises(BundleError, match="no model 'tiny'"):
        score(tmp_path, data, tmp_path / "out.csv")


def test_score_batch_is_a_pure_function_of_its_rows(detector, data):
    x = np.concatenate([batch.x for batch in open_table(data, detector.manifest.features)])[:100]
    whole = score_batch(detector, x)
    parts = [score_batch(detector, x[i : i + 7]) for i in range(0, 100, 7)]
    for place, column in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([part[place] for part in parts]), column)
