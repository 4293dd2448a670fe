import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from service.manifest import Feature
from service.tables import TableError, open_table

FEATURES = (
    Feature(name="amount", kind="numeric"),
    Feature(name="country", kind="categorical", categories=("de", "at")),
    Feature(name="time", kind="datetime"),
)
GOOD = b"amount,country,time\n1.5,de,2026-11-23 14:05\n,xx,\n3,at,2026-11-24\n"
X = np.array([[1.5, 0, 14 + 5 / 60, 0, 11], [np.nan, 2, np.nan, np.nan, np.nan], [3, 1, 0, 1, 11]], np.float32)


@pytest.fixture
def write(tmp_path):
    def write(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def read(path, features=FEATURES, keep=()):
    return np.concatenate([batch.x for batch in open_table(path, features, keep)])


def refused(path, features=FEATURES, keep=()):
    with pytest.raises(TableError) as caught:
        read(path, features, keep)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "FILE")


class TestReading:
    def test_csv(self, write):
        np.testing.assert_array_equal(read(write(GOOD)), X)

    @pytest.mark.parametrize(
        "content",
        [
            GOOD.replace(b"\n", b"\r\n"),
            b"\xef\xbb\xbf" + GOOD,
            GOOD.replace(b",", b";"),
            GOOD.replace(b",", b"\t"),
            GOOD.rstrip(b"\n"),
            GOOD.replace(b"\n,", b"\n\n,"),
            GOOD.replace(b"de", b'"de"'),
        ],
        ids=["crlf", "bom", "semicolons", "tabs", "no last newline", "blank line", "quotes"],
    )
    def test_dialects(self, write, content):
        np.testing.assert_array_equal(read(write(content)), X)

    @pytest.mark.parametrize(
        ("content", "names"),
        [
            (b"qty;price, EUR\n3;12\n4;13,5\n", ("qty", "price, EUR")),
            (b'qty;"price, EUR"\n3;12,50\n', ("qty", "price, EUR")),
            (b"a,b;c\n1,2\n3,4\n", ("a", "b;c")),
            (b'a,b|c\n1,"x|y"\n3,4\n', ("a", "b|c")),
            (b"a,b\tc,d\n" + b"1,2,3\n" * 50_000, ("a", "b\tc", "d")),
            (b"\n\na;b\n1;2\n", ("a", "b")),
            (b"a;b,c\n1;" + b"x" * 70_000 + b"\n", ("a", "b,c")),
            (b'a,b\n1,"' + b"x;\n" * 30_000 + b'"\n', ("a", "b")),
            (b"a,b\n", ("a", "b")),
            (b"a\n1;2\n", ("a",)),
        ],
        ids=[
            "both in the header",
            "in quotes",
            "semicolon",
            "bar",
            "long",
            "blank lines",
            "a long cell",
            "a longer cell",
            "no rows",
            "one",
        ],
    )
    def test_the_delimiter_is_the_one_that_splits_header_and_rows_alike(self, write, content, names):
        for path in (write(content), write(gzip.compress(content), "t.csv.gz")):
            assert open_table(path, ()).sources[0].names == names

    @pytest.mark.parametrize("content", [b"qty;price, EUR\n3;12,50\n4;13,20\n", b"a;b,c\n", b"a;b,c\n1|2\n"])
    def test_where_two_would_do_neither_is_chosen(self, write, content):
        message = "FILE: the header holds ',' and ';', and the rows do not tell which one separates the columns; put cells that"
        assert refused(write(content), ()).startswith(message)

    def test_gz(self, write):
        np.testing.assert_array_equal(read(write(gzip.compress(GOOD), "table.csv.gz")), X)

    @pytest.mark.parametrize("name", ["t.tsv", "t.TSV", "t.tsv.gz", "t.txt", "t.txt.gz"])
    def test_other_endings_of_csv(self, write, name):
        content = GOOD.replace(b",", b"\t")
        np.testing.assert_array_equal(read(write(gzip.compress(content) if name.endswith(".gz") else content, name)), X)

    def test_parquet(self, tmp_path):
        times = pa.array(["2026-11-23T14:05:00", None, "2026-11-24T00:00:00"]).cast(pa.timestamp("ms"))
        countries = pa.array(["de", "xx", "at"]).dictionary_encode()
        pq.write_table(pa.table({"time": times, "amount": [1.5, None, 3.0], "country": countries}), tmp_path / "t.parquet")
        np.testing.assert_array_equal(read(tmp_path / "t.parquet"), X)

    def test_folder_and_glob_in_order_of_names(self, tmp_path, write):
        write(GOOD, "b.csv")
        write(b"time,amount,country\n,7,de\n", "a.csv")
        write(b"no table", "notes.txt")
        for data in (tmp_path, str(tmp_path / "*.csv")):
            assert read(data)[:, 0].tolist()[:2] == [7, 1.5]

    def test_batches_are_bounded_and_know_their_rows(self, write):
        path = write(b"amount\n" + b"1\n" * 20_000)
        batches = list(open_table(path, FEATURES[:1]))
        assert [batch.first_row for batch in batches] == [1, 8193, 16385]
        assert sum(len(batch.x) for batch in batches) == 20_000

    def test_kept_and_unknown_columns(self, write):
        table = open_table(write(b"id,amount,x,y\na,1,,\n,2,,\n"), FEATURES[:1], keep=["id"])
        assert table.left_aside == ("x", "y")
        assert [batch.kept[0].to_pylist() for batch in table] == [["a", None]]
        assert [field.name for field in table.kept_fields] == ["id"]

    def test_a_table_without_rows_has_no_batches(self, write):
        assert list(open_table(write(b"amount\n"), FEATURES[:1])) == []

    def test_position_reaches_the_end(self, write):
        table = open_table(write(GOOD), FEATURES)
        assert table.position == 0
        list(table)
        assert table.position == table.bytes == len(GOOD)


class TestRefused:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "FILE: the file is empty"),
            (b"\n\n", "FILE: the file is empty"),
            (b"amount,country\n1,de\n", "FILE: no column time, which the model needs; add it, empty where unknown"),
            (
                b"amount,country,amount\n",
                "FILE: duplicate header: column 3 is called amount as one before it; rename one of them",
            ),
            (
                b",amount\n",
                "FILE: column 1 of the header has no name; give it one, or leave pandas' index out: df.to_csv(..., index=False)",
            ),
            (
                b"1,2.5,-3\n4,5,6\n",
                "FILE: no header: the first line holds numbers only; put the names of the columns there",
            ),
            (
                b"amount,country,time\n1,de,\n2,de\n",
                "FILE, row 2 (line 3): 2 cells where the header has 3; put cells that hold ',' or a line's end in quotes",
            ),
            (
                b'amount,country,time\n1,"d\ne",\n\n2,de,,4\n',
                "FILE, row 2 (line 5): 4 cells where the header has 3; put cells that hold ',' or a line's end in quotes",
            ),
            (
                b"amount,country,time\n1,de,\n2,\xff\xfe,\n",
                "FILE, row 2 (line 3), column country: not UTF-8 text; save the file as UTF-8",
            ),
            (b"\xff\xfea\0m\0", "FILE: the header is not UTF-8 text; save the file as UTF-8 CSV"),
            (
                b"amount,country,time\n1,de,\n" * 1 + b"x1,de,\n",
                "FILE, row 2 (line 3), column amount: not a number; correct it, or leave it empty if it is unknown",
            ),
            (
                b"amount,country,time\n1,de,\ninf,de,\n",
                (
                    "FILE, row 2 (line 3), column amount: does not fit float32 (infinite or too large); "
                    "correct it, or leave it empty if it is unknown"
                ),
            ),
            (
                b'amount,country,time\n1,"d\ne",\n1,de,yesterday\n',
                (
                    "FILE, row 2 (line 4), column time: not a datetime such as 2026-11-23T14:05:00; "
                    "correct it, or leave it empty if it is unknown"
                ),
            ),
        ],
    )
    def test_csv(self, write, content, message):
        assert refused(write(content)) == message

    def test_a_bad_cell_far_down_is_found(self, write):
        path = write(b"amount\n" + b"1\n" * 9_000 + b"secret\n")
        message = refused(path, FEATURES[:1])
        assert message.startswith("FILE, row 9001 (line 9002), column amount: not a number")
        assert "secret" not in message

    def test_a_bad_cell_after_one_of_many_characters_is_told_by_its_row(self, write):
        long = b"x" * 200_000
        told = refused(write(b"amount,country,time\n1," + long + b",\noops,de,\n"))
        assert told.startswith("FILE, row 2, column amount: ")

    def test_a_name_of_many_characters(self, write):
        assert refused(write(b"amount," + b"x" * 200_000 + b"\n1,2\n")).startswith("FILE: the header cannot be read: ")

    def test_no_such_file(self, tmp_path):
        assert refused(tmp_path / "none.csv") == "FILE: no such file, folder or matching files; check the path"
        (tmp_path / "empty").mkdir()
        assert refused(tmp_path / "empty").startswith("FILE: the folder holds no file that ends with .csv, .csv.gz")

    def test_half_a_gzip_file(self, write):
        whole = gzip.compress(b"amount\n" + np.random.default_rng(0).bytes(60_000).hex().encode())
        for content in (whole[: len(whole) // 2], whole[:5]):
            assert refused(write(content, "t.csv.gz"), FEATURES[:1]).startswith("FILE: ")
        assert refused(write(GOOD, "t.csv.gz")).startswith("FILE: cannot be read: ")

    def test_no_parquet(self, write, tmp_path):
        message = (
            "FILE: not a Parquet file, or half of one; a CSV file's name ends with .csv, .tsv or .txt, or one of these and .gz"
        )
        assert refused(write(GOOD, "table.dat")) == message
        assert refused(write(b"PAR1", "table.parquet")) == message
        pq.write_table(pa.table({"amount": [1.5] * 10_000}), tmp_path / "t.parquet")
        whole = (tmp_path / "t.parquet").read_bytes()
        assert refused(write(whole[:-20], "half.parquet")) == message

    @pytest.mark.parametrize("name", ["t.json", "t.jsonl", "t.JSON.gz"])
    def test_json_is_told_how_to_convert(self, write, name):
        message = refused(write(b'[{"amount": 1}]', name))
        assert message.startswith("FILE: tables are not read from JSON; convert it, for example by pandas.read_json(")

    def test_a_damaged_parquet_file(self, write, tmp_path):
        pq.write_table(pa.table({"amount": [1.5] * 10_000}), tmp_path / "t.parquet")
        whole = (tmp_path / "t.parquet").read_bytes()
        damaged = whole[:-60] + b"\xff" * 40 + whole[-20:]
        assert refused(write(damaged, "damaged.parquet")) == "FILE: the Parquet file is damaged; write it again"

    def test_a_typed_column_of_another_type(self, tmp_path):
        pq.write_table(pa.table({"amount": ["1", "2"]}), tmp_path / "t.parquet")
        message = refused(tmp_path / "t.parquet", FEATURES[:1])
        assert message.startswith("FILE, row 1, column amount: the column is of another type; numbers are needed")

    def test_files_of_other_columns(self, tmp_path, write):
        write(b"amount\n1\n", "a.csv")
        write(b"amount,more\n1,2\n", "b.csv")
        with pytest.raises(TableError, match=r"a\.csv: no column more, which .*b\.csv has; the files of one table need the same"):
            open_table(tmp_path, FEATURES[:1])

    def test_an_unknown_column_to_keep(self, write):
        assert refused(write(GOOD), keep=["id"]) == "FILE: no column id to keep; the columns are amount, country, time"
