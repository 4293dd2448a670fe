"""`score --bad-rows keep`: a row with a cell that cannot be read has no score but an error, and no other row is concerned."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from service.__main__ import main
from service.bulk import score_file
from service.tables import TableError
from tests.service.test_results import REASONS, SCHEMA, SCORES, read, score, write
from tests.service.tiny_bundle import GOOD, ODD, publish

HEADER = "amount,count,country,level,online,at\n"
BAD = {  # a row of a CSV file with each kind of bad cell, and what is said of it
    "no number": ("oops,3,de,20,true,2026-03-02", "column amount: not a number"),
    "infinite": ("inf,3,de,20,true,2026-03-02", "column amount: does not fit float32 (infinite or too large)"),
    "beyond float32": ("1,1e39,de,20,true,2026-03-02", "column count: does not fit float32 (infinite or too large)"),
    "beyond float64": ("1,1e999,de,20,true,2026-03-02", "column count: does not fit float32 (infinite or too large)"),
    "many digits": (f"{'9' * 5000},3,de,20,true,", "column amount: does not fit float32 (infinite or too large)"),
    "no whole number": ("1,3,de,1.5,true,2026-03-02", "column level: not a whole number"),
    "no code": ("1,3,de,twenty,true,2026-03-02", "column level: not a number"),
    "no boolean": ("1,3,de,20,maybe,2026-03-02", "column online: not true or false"),
    "no datetime": ("1,3,de,20,true,soon", "column at: not a datetime such as 2026-11-23T14:05:00"),
    "two of them": ("1,oops,de,20,maybe,2026-03-02", "column count: not a number"),
}
REMEDY = "; correct it, or leave it empty if it is unknown"
GOOD_ROW, ODD_ROW = "12.5,3,de,20,true,2026-03-02T14:30:00", "100000,3,xx,20,false,2026-03-02T14:30:00"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A CSV table whose bad rows stand among others: good, bad, odd, good, bad, odd, ..."""
    lines = [line for bad, _ in BAD.values() for line in (GOOD_ROW, bad, ODD_ROW)]
    (tmp_path / "data.csv").write_text(HEADER + "\n".join(lines) + "\n")
    return tmp_path / "data.csv"


@pytest.mark.parametrize("explain", ["none", "all"])
def test_bad_rows_have_their_error_and_the_others_what_they_have_without_them(
    bundle_dir: Path, tmp_path: Path, mixed: Path, explain: str
) -> None:
    rows = score(tmp_path, bundle_dir, mixed, bad_rows="keep", explain=explain)
    bad = rows[1::3]
    assert [row.pop("error") for row in bad] == [message + REMEDY for _, message in BAD.values()]
    assert all(value is None for row in bad for value in row.values())
    (tmp_path / "good.csv").write_text(HEADER + f"{GOOD_ROW}\n{ODD_ROW}\n")
    good, odd = score(tmp_path, bundle_dir, tmp_path / "good.csv", explain=explain)
    assert list(good) == SCORES + (REASONS if explain == "all" else [])
    assert rows[0::3] == [good | {"error": None}] * len(BAD)
    assert rows[2::3] == [odd | {"error": None}] * len(BAD)


@pytest.mark.parametrize("case", BAD)
def test_an_error_is_what_ends_the_file_otherwise(bundle_dir: Path, tmp_path: Path, case: str) -> None:
    data = tmp_path / "data.csv"
    data.write_text(HEADER + BAD[case][0] + "\n")
    with pytest.raises(TableError) as caught:
        score(tmp_path, bundle_dir, data)
    (row,) = score(tmp_path, bundle_dir, data, bad_rows="keep")
    assert str(caught.value) == f"{data}, row 1 (line 2), {row['error']}"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_csv_and_parquet_are_alike(bundle_dir: Path, tmp_path: Path, ending: str) -> None:
    """Kept columns are those of all rows."""
    schema = pa.schema([pa.field("level", pa.float64()) if field.name == "level" else field for field in SCHEMA])
    schema = pa.schema([("id", pa.string()), *schema])
    made = [
        {**GOOD, "id": "a", "level": 20.0},
        {**GOOD, "id": "b", "amount": float("inf"), "level": 20.0},
        {**ODD, "id": "c", "level": 20.0},
        {**GOOD, "id": "d", "level": 1.5},
        {**GOOD, "id": "e", "level": 20.0, "at": "soon"},
    ]
    data = tmp_path / "data.csv"
    if ending == "parquet":
        data = write(tmp_path, made, "parquet", schema)
    else:
        cells = [[str(record[name]) for name in schema.names] for record in made]
        data.write_text("\n".join(map(",".join, [schema.names, *cells])) + "\n")
    rows = score(tmp_path, bundle_dir, data, keep=["id"], bad_rows="keep", explain="flagged")
    assert [row["id"] for row in rows] == list("abcde")
    assert [row["score"] is None for row in rows] == [False, True, False, True, True]
    assert [row["severity"] for row in rows] == ["low", None, "critical", None, None]
    assert [row["error"] and row["error"].split(":")[0] for row in rows] == [
        None,
        "column amount",
        None,
        "column level",
        "column at",
    ]
    out = tmp_path / "out.parquet"
    score_file(bundle_dir, "tiny", str(data), str(out), ["id"], "cpu", io.StringIO(), explain="flagged", bad_rows="keep")
    typed = parquet.read_table(out)
    assert typed.column_names == ["id", *SCORES, *REASONS, "error"]
    assert [typed[name].null_count for name in (*SCORES, "error")] == [3, 3, 3, 2]
    assert [row["reasons"] for row in rows] == typed["reasons"].to_pylist()


def test_there_is_an_error_column_without_errors(bundle_dir: Path, tmp_path: Path) -> None:
    data = write(tmp_path, [GOOD], "csv")
    assert [row["error"] for row in score(tmp_path, bundle_dir, data, bad_rows="keep")] == [None]
    assert "error" not in score(tmp_path, bundle_dir, data)[0]


def command(models: Path, data: Path, *more: str) -> int:
    out = str(data.parent / "out.csv")
    return main(["score", str(data), "--model", "tiny", "--output", out, "--models-dir", str(models), *more])


def test_the_summary_tells_them_and_counts_no_other(bundle_dir: Path, mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(bundle_dir, mixed, "--bad-rows", "keep") == 0
    scored, *told = capsys.readouterr().err.splitlines()
    assert scored.startswith("scored 20 rows in ")
    assert told == [
        "not scored 10 of 30 rows (33.3 %): their column error says why",
        "  amount: does not fit float32 (infinite or too large), in 2 rows (6.67 %)",
        "  count: does not fit float32 (infinite or too large), in 2 rows (6.67 %)",
        "  amount: not a number, in 1 row (3.33 %)",
        "  count: not a number, in 1 row (3.33 %)",
        "  and 4 others",
        "flagged 10 of 20 rows (50 %) at alpha 0.01",
        "  amount: out of the range that training saw, in 10 rows (50 %)",
        "  country: a category that training did not see, in 10 rows (50 %)",
    ]


def test_the_exit_code_tells_whether_any_row_was_scored(bundle_dir: Path, tmp_path: Path) -> None:
    data, bad = tmp_path / "data.csv", BAD["no number"][0]
    for lines, stop, keep in (([GOOD_ROW], 0, 0), ([bad, GOOD_ROW, bad], 2, 0), ([bad] * 3, 2, 3), ([], 0, 0)):
        data.write_text(HEADER + "".join(f"{line}\n" for line in lines))
        assert command(bundle_dir, data) == stop
        assert (tmp_path / "out.csv").exists() == (stop == 0)
        assert command(bundle_dir, data, "--bad-rows", "keep") == keep
        assert [row["error"] is None for row in read(tmp_path / "out.csv")] == [line == GOOD_ROW for line in lines]
        (tmp_path / "out.csv").unlink()


def test_changes_of_bad_rows_are_not_told(tmp_path: Path) -> None:
    publish(tmp_path / "models", dropped={"alarm": 0})
    lines = [f"{GOOD_ROW},0", f"{BAD['no number'][0]},1", f"{GOOD_ROW},1"]
    data = tmp_path / "data.csv"
    data.write_text(HEADER.replace("\n", ",alarm\n") + "".join(f"{line}\n" for line in lines))
    told = io.StringIO()
    out = str(tmp_path / "out.csv")
    rows = score_file(
        tmp_path / "models", "tiny", str(data), out, provider="cpu", progress=told, explain="flagged", bad_rows="keep"
    )
    assert rows == (3, 2)
    assert "alarm: another value than the only one that training had, in 1 row (50 %)" in told.getvalue()
    assert [row["warnings"] for row in read(tmp_path / "out.csv")] == [None, None, '[{"feature":"alarm","code":"out_of_range"}]']


def test_bad_rows_of_many_batches_keep_their_places(bundle_dir: Path, tmp_path: Path) -> None:
    """Whole batches of bad rows, some of both, and none."""
    n = 30_000  # of 8,192 a batch
    bad = [place < 8_192 or (place % 3 == 0 and place < 20_000) for place in range(n)]
    lines = ("oops,,,,,\n" if wrong else f"{place % 1000},3,de,20,true,\n" for place, wrong in enumerate(bad))
    data = tmp_path / "data.csv"
    data.write_text(HEADER + "".join(lines))
    clean = tmp_path / "clean.csv"
    clean.write_text(HEADER + "".join(f"{place % 1000},3,de,20,true,\n" for place in range(n)))
    rows, without = score(tmp_path, bundle_dir, data, bad_rows="keep"), score(tmp_path, bundle_dir, clean)
    assert [row.pop("error") is not None for row in rows] == bad
    none: dict[str, Any] = dict.fromkeys(SCORES)
    assert rows == [none if wrong else row for wrong, row in zip(bad, without, strict=True)]


def other_type(folder: Path) -> Path:
    (folder / "parts").mkdir()
    good = pa.Table.from_pylist([GOOD], SCHEMA)
    parquet.write_table(good, folder / "parts" / "0.parquet")
    parquet.write_table(good.set_column(0, "amount", pa.array(["12.5"])), folder / "parts" / "1.parquet")
    return folder / "parts"


def torn(folder: Path) -> Path:
    (folder / "data.csv").write_text(HEADER + f"{GOOD_ROW}\noops,3\n")
    return folder / "data.csv"


def latin(folder: Path) -> Path:
    (folder / "data.csv").write_bytes(HEADER.encode() + GOOD_ROW.replace("de", "caf\xe9").encode("latin-1"))
    return folder / "data.csv"


def half(folder: Path) -> Path:
    parquet.write_table(pa.Table.from_pylist([GOOD] * 1000, SCHEMA), folder / "data.parquet")
    (folder / "data.parquet").write_bytes((folder / "data.parquet").read_bytes()[:-20])
    return folder / "data.parquet"


def no_column(folder: Path) -> Path:
    (folder / "data.csv").write_text("amount,count\noops,3\n")
    return folder / "data.csv"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (other_type, "1.parquet, row 1, column amount: the column is of another type; numbers are needed"),
        (torn, "row 2 (line 3): 2 cells where the header has 6"),
        (latin, "column country: not UTF-8 text"),
        (half, "not a Parquet file, or half of one"),
        (no_column, "no column country, which the model needs"),
    ],
)
def test_a_fault_of_the_whole_file_ends_it_as_before(
    bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, said: str
) -> None:
    data = make(tmp_path)
    assert command(bundle_dir, data, "--bad-rows", "keep") == 2
    assert said in capsys.readouterr().err
    assert not list(data.parent.glob("*out.csv*"))


def test_a_kept_column_may_not_be_called_error(bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path, [{**GOOD, "error": "mine"}], "csv", pa.schema([*SCHEMA, ("error", pa.string())]))
    assert command(bundle_dir, data, "--keep", "error", "--bad-rows", "keep") == 2
    told = "--keep error: the output has a column of that name; rename it in the data"
    assert capsys.readouterr().err == f"python -m service score: {told}\n"
    assert not (tmp_path / "out.csv").exists()
    assert command(bundle_dir, data, "--keep", "error") == 0
    assert read(tmp_path / "out.csv")[0]["error"] == "mine"
