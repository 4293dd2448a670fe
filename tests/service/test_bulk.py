import csv
import io
import resource

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
from service.tables import Fault, TableBatch, TableError, open_table
from service.tally import Tally
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
    assert score(models, data, tmp_path / "out.csv", keep=["id"]) == (ROWS, ROWS)
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
    (last,) = [place for place, line in enumerate(lines) if line.startswith("scored 20,000 rows in ")]
    assert lines[last + 1].startswith("flagged ")
    assert "\r" not in told.getvalue()


def test_a_terminal_sees_one_line(models, data, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "ON_TERMINAL", 0.0)
    told = io.StringIO()
    told.isatty = lambda: True
    score(models, data, tmp_path / "out.csv", progress=told)
    progress, found = told.getvalue().split("scored 20,000 rows in ")
    assert progress.count("\n") == 1  # what was left aside
    assert progress.count("\r") > 2
    assert "\r" not in found


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tells_what_was_found(models, data, tmp_path, expected, ending):
    """The share that is flagged, and what is odd with the data most often: in rows of all batches."""
    dropped = {"id": None, "more": "x", "level2": 7}
    tiny_bundle.publish(models, version="20260101T000000Z-made02", dropped=dropped)
    table = arrow_csv.read_csv(data)
    changed = pa.array([8 if i % 4 == 0 else 7 if i % 4 == 1 else None for i in range(ROWS)])
    table = table.append_column("level2", changed).append_column("other", pa.array(["y"] * ROWS))
    path = tmp_path / f"more.{ending}"
    (arrow_csv.write_csv if ending == "csv" else pq.write_table)(table, path)
    told = io.StringIO()
    score(models, path, tmp_path / "out.csv", progress=told)
    lines = told.getvalue().splitlines()
    assert lines[:2] == [
        "columns left aside, which the model does not know: other",
        "columns not scored, as training left them out: id, more, level2",
    ]
    flagged, beyond = int(expected.is_anomaly.sum()), sum(amount > 1000 for amount in table["amount"].to_pylist())
    lacking = sum(i % 3 == 0 for i in range(ROWS))
    assert lines[3:] == [
        f"flagged {flagged:,} of 20,000 rows ({100 * flagged / ROWS:.3g} %) at alpha 0.01",
        "  level2: another value than the only one that training had, in 5,000 rows (25 %)",
        f"  country: missing, as never in training, in {lacking:,} rows (33.3 %)",
        f"  amount: out of the range that training saw, in {beyond:,} rows ({100 * beyond / ROWS:.3g} %)",
    ]


def test_a_tally_has_few_lines(detector):
    """Of six kinds of oddities four are told; and none of no rows."""
    tally = Tally(detector.manifest, 0.2)
    assert list(tally.lines()) == []
    x = np.array([[2000, 30, 3, 2, 1, 1, 1, 1]] * 2 + [[np.nan, np.nan, np.nan, 0, 1, 1, 1, 1]], np.float32)
    changed = {"a": np.ones(3, bool), "b": np.zeros(3, bool)}
    tally.count(TableBatch(x, (), 1, None, (), None, changed, {}), np.array([True, False, False]))
    flagged, first, *odd, rest = tally.lines()
    assert flagged == "flagged 1 of 3 rows (33.3 %) at alpha 0.2"
    assert first == "  a: another value than the only one that training had, in 3 rows (100 %)"
    assert all(line.endswith("in 2 rows (66.7 %)") for line in odd)
    assert len(odd) == 3
    assert rest == "  and 3 others"
    tally.leave_out([Fault("amount", "not a number")])
    left_out, fault, *others = tally.lines()
    assert left_out == "not scored 1 of 4 rows (25 %): their column error says why"
    assert fault == "  amount: not a number, in 1 row (25 %)"
    assert others == [flagged, first, *odd, rest]


def test_no_rows_make_no_rows(models, tmp_path):
    (tmp_path / "data.csv").write_text(HEADER)
    for name in ("out.csv", "out.parquet"):
        assert score(models, tmp_path / "data.csv", tmp_path / name) == (0, 0)
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


def parts_of(folder, *ids):
    """A table of a file for each of these columns `id`."""
    folder.mkdir()
    for place, (field, values) in enumerate(ids):
        given = {"amount": [1.5], "count": [3], "country": ["de"], "level": [10], "online": [True], "at": ["2026-03-02"]}
        columns = [pa.array(values, field.type), *map(pa.array, given.values())]
        schema = pa.schema([field, *(pa.field(name, column.type) for name, column in zip(given, columns[1:], strict=True))])
        pq.write_table(pa.table(columns, schema=schema), folder / f"{place}.parquet")
    return folder


@pytest.mark.parametrize(
    ("first", "second", "values"),
    [
        (pa.field("id", pa.int32()), pa.field("id", pa.int64()), [7, 8]),
        (pa.field("id", pa.int32(), nullable=False), pa.field("id", pa.int32()), [7, None]),
        (pa.field("id", pa.string()), pa.field("id", pa.dictionary(pa.int32(), pa.string())), ["a", "b"]),
        (pa.field("id", pa.dictionary(pa.int32(), pa.string())), pa.field("id", pa.string()), ["a", "b"]),
    ],
)
def test_a_kept_column_has_the_type_of_the_first_file(models, tmp_path, first, second, values):
    data = parts_of(tmp_path / "parts", (first, values[:1]), (second, values[1:]))
    assert score(models, data, tmp_path / "out.parquet", keep=["id"]) == (2, 2)
    kept = pq.read_table(tmp_path / "out.parquet")["id"]
    assert kept.to_pylist() == values
    assert kept.type in (first.type, pa.dictionary(pa.int32(), pa.string()))


@pytest.mark.parametrize("second", [(pa.int64(), [2**40]), (pa.string(), ["x"]), (pa.list_(pa.int32()), [[1]])])
def test_a_kept_column_that_does_not_fit_that_type_is_told(models, tmp_path, second):
    kind, values = second
    data = parts_of(tmp_path / "parts", (pa.field("id", pa.int32()), [1]), (pa.field("id", kind), values))
    with pytest.raises(TableError, match=r"parts/1\.parquet, column id: of type .*, and in the first file of type Int32"):
        score(models, data, tmp_path / "out.csv", keep=["id"])
    assert not (tmp_path / "out.csv").exists()


def test_what_csv_cannot_hold_names_the_output(models, tmp_path):
    data = parts_of(tmp_path / "parts", (pa.field("id", pa.list_(pa.int32())), [[1]]))
    for _ in range(5):  # what is read ahead ends in its own thread
        with pytest.raises(OSError, match=r"/out\.csv: cannot be written: .*[Nn]ested"):
            score(models, data, tmp_path / "out.csv", keep=["id"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "parts"]


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_disk_that_takes_no_more_is_told_and_leaves_nothing(models, data, tmp_path, name):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=f"/{name}: cannot be written: .*(?i:too large)"):
            score(models, data, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "models"]
