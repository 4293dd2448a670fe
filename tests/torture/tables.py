"""Bad tables through the command: each is refused in one line that names file, row and column, or recorded as a warning."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.torture.runs import Outcome, torture
from training.__main__ import main
from training.data import read_dataset

GOOD = "n,a\n" + "".join(f"{i % 7}.5,{i % 3}\n" for i in range(40))
N = [i % 7 + 0.5 for i in range(40)]


class Bad(NamedTuple):
    """A table, by the bytes of its files or by what writes it; words of the refusal, or of the warning."""

    name: str
    table: bytes | str | Callable[[Path], None]
    words: tuple[str, ...]
    options: tuple[str, ...] = ()
    file: str = "t.csv"
    warned: bool = False


def cells(*last: str, column: str = "a") -> str:
    """A CSV table whose last rows hold these cells in column a, rows 41 and on."""
    return GOOD.replace("n,a", f"n,{column}") + "".join(f"1.5,{cell}\n" for cell in last)


def parquet(**columns: object) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.table({"n": N, **columns}), path)


def cut_parquet(path: Path) -> None:
    pq.write_table(pa.table({"n": N}), path)
    path.write_bytes(path.read_bytes()[:-20])


def damaged_parquet(path: Path) -> None:
    pq.write_table(pa.table({"n": np.arange(40.0), "a": [f"text {i % 5}" for i in range(40)]}), path, compression="snappy")
    content = bytearray(path.read_bytes())
    content[10:200] = bytes(190)
    path.write_bytes(content)


def folder(**files: str | bytes) -> Callable[[Path], None]:
    """A folder of files; _ stands for the dot."""

    def make(path: Path) -> None:
        path.mkdir()
        for name, content in files.items():
            (path / name.replace("_", ".")).write_bytes(content.encode() if isinstance(content, str) else content)

    return make


ROW, LINE = "row 41", "line 42"
LABEL = ("--label", "a", "--normal", "0")
TABLES = (
    Bad("empty file", "", ("t.csv", "empty")),
    Bad("blank lines only", "\n\n\n", ("t.csv", "empty")),
    Bad("header only", "n,a\n", ("t.csv", "no rows")),
    Bad("one row", "n,a\n1,2\n", ("t.csv", "one row")),
    Bad("seven rows", "n,a\n" + "1,2\n2,3\n3,1\n4,5\n5,1\n6,2\n7,9\n", ("7 normal rows", "8 are needed")),
    Bad("no header", GOOD.partition("\n")[2], ("t.csv", "no header")),
    Bad("a column twice", GOOD.replace("n,a", "n,n"), ("t.csv", "column 2", "duplicate")),
    Bad("a nameless column", GOOD.replace("n,a", "n,"), ("t.csv", "column 2", "no name")),
    Bad("a row too short", cells() + "1.5\n", ("t.csv", ROW, LINE, "1 cells", "2")),
    Bad("a row too long", cells("1,2"), ("t.csv", ROW, LINE, "3 cells", "2")),
    Bad("a quote without end", cells('"open', "2", "1"), ("t.csv", ROW, LINE, "quote")),
    Bad("another delimiter in the rows", "n,a\n" + "1.5;2\n" * 40, ("t.csv", "row 1", "1 cells")),
    Bad("infinity", cells("inf"), ("t.csv", ROW, LINE, "column a", "infinite")),
    Bad("beyond float32", cells("1e39"), ("t.csv", ROW, LINE, "column a", "float32")),
    Bad("beyond float64", cells("1e400"), ("t.csv", ROW, LINE, "column a")),
    Bad(
        "a stray text among numbers",
        GOOD + "".join(f"{i}.5,{i}\n" for i in range(200)) + "1.5,oops\n",
        ("t.csv", "row 241", "column a", "not a number"),
    ),
    Bad(
        "a decimal comma",
        "n;a\n" + "".join(f"{i};{i},5\n" for i in range(20)) + "".join(f"{i};{i}.5\n" for i in range(9_000)),
        ("t.csv", "row 1", "column a", "not a number"),
    ),
    Bad("UTF-16", GOOD.encode("utf-16"), ("t.csv", "UTF-8")),
    Bad("Latin-1 in a cell", cells().encode() + b"1.5,caf\xe9\n", ("t.csv", ROW, LINE, "column a", "UTF-8")),
    Bad("Latin-1 in the header", GOOD.replace("n,a", "n,caf\xe9").encode("latin-1"), ("t.csv", "header", "UTF-8")),
    Bad("NUL in the header", GOOD.replace("n,a", "n,\0"), ("t.csv", "header")),
    Bad("cut gzip", gzip.compress(GOOD.encode() * 99)[:-30], ("t.csv.gz",), file="t.csv.gz"),
    Bad("no gzip", GOOD, ("t.csv.gz",), file="t.csv.gz"),
    Bad("damaged gzip", gzip.compress(os.urandom(3000) + GOOD.encode())[:500] + bytes(900), ("t.csv.gz",), file="t.csv.gz"),
    Bad("CSV called Parquet", GOOD, ("t.parquet", "not a Parquet"), file="t.parquet"),
    Bad("half a Parquet file", cut_parquet, ("t.parquet",), file="t.parquet"),
    Bad("a damaged Parquet file", damaged_parquet, ("t.parquet",), file="t.parquet"),
    Bad("lists in Parquet", parquet(a=[[1]] * 40), ("t.parquet", "column a", "--drop"), file="t.parquet"),
    Bad(
        "infinity in Parquet", parquet(a=[1.0] * 39 + [np.inf]), ("t.parquet", "row 40", "column a", "infinite"), file="t.parquet"
    ),
    Bad("no such file", lambda path: None, ("t.csv", "no such file")),
    Bad("an empty folder", folder(), ("t", "no file"), file="t"),
    Bad("files of other columns", folder(a_csv=GOOD, b_csv=GOOD.replace("n,a", "n,b")), ("b.csv", "no column a"), file="t"),
    Bad(
        "numbers here, text there",
        folder(a_csv=GOOD, b_csv="n,a\n" + "1.5,x\n2.5,y\n" * 20),
        ("a.csv", "b.csv", "column a"),
        file="t",
    ),
    Bad("a bad file among good ones", folder(a_csv=GOOD, b_csv=cells("inf")), ("b.csv", ROW, "column a"), file="t"),
    Bad("all constant", "n,a\n" + "1,2\n" * 40, ("t.csv", "no column", "constant")),
    Bad("all empty", "n,a\n" + ",\n" * 40, ("t.csv", "no values")),
    Bad("no such label", GOOD, ("t.csv", "--label b", "n, a"), ("--label", "b", "--normal", "0")),
    Bad("a label without a value", cells(""), ("t.csv", ROW, LINE, "column a", "no label"), LABEL),
    Bad("no normal rows", GOOD, ("t.csv", "no row whose a is 9"), ("--label", "a", "--normal", "9")),
    Bad("nothing but the label", "a\n" + "x\n" * 40, ("t.csv", "column"), ("--label", "a", "--normal", "x")),
    Bad("label without normal", GOOD, ("--label and --normal",), ("--label", "a")),
    Bad("to drop what is not there", GOOD, ("t.csv", "--drop b"), ("--drop", "b")),
    Bad("text asked to be a number", cells("x"), ("t.csv", ROW, LINE, "column a"), ("--numeric", "a")),
    Bad("numbers asked to be datetimes", GOOD, ("t.csv", "row 1", "column a", "datetime"), ("--datetime", "a")),
    Bad("numbers asked to be booleans", GOOD, ("t.csv", "column a"), ("--boolean", "a")),
    Bad(
        "a datetime of no day",
        "n,a\n" + "1.5,2026-02-27\n2.5,2026-02-28\n" * 200 + "1.5,2026-02-30\n",
        ("t.csv", "row 401", "column a", "datetime"),
    ),
    Bad(
        "a bad cell among anomalies",
        GOOD.replace("n,a", "a,b") + "x,9\n",
        ("t.csv", ROW, "column a"),
        ("--label", "b", "--normal", "0"),
    ),
    Bad("an unsafe model name", GOOD, ("model name",), ("--model", "../x")),
    Bad("an identifier", "n,a\n" + "".join(f"{i % 7},u{i}\n" for i in range(300)), ("identifier",), warned=True),
    Bad("a rising number", "n,a\n" + "".join(f"{i % 7},{i}\n" for i in range(300)), ("--drop a",), warned=True),
    Bad(
        "too many categories",
        "n,a\n" + "".join(f"{i % 7},c{i % 10_001}\n" for i in range(30_003)),
        ("10001 categories",),
        warned=True,
    ),
    Bad("one constant column", "n,a\n" + "".join(f"{i % 7},2\n" for i in range(40)), ("constant",), warned=True),
    Bad("one empty column", "n,a\n" + "".join(f"{i % 7},\n" for i in range(40)), ("no values",), warned=True),
)


@torture(
    "a bad table is refused in one line with its place, or warned of, and nothing is published",
    suite=len(TABLES),
    full=len(TABLES),
)
def bad_tables(count: int, seed: int, place: Path) -> Outcome:
    outcome = Outcome()
    for bad in TABLES[:count]:
        path = place / bad.name.replace(" ", "-") / bad.file
        path.parent.mkdir()
        if callable(bad.table):
            bad.table(path)
        else:
            path.write_bytes(bad.table.encode() if isinstance(bad.table, str) else bad.table)
        if bad.warned:
            dataset = read_dataset(path)
            recorded = [*dataset.warnings, *(f"{dropped.column}: {dropped.reason}" for dropped in dataset.dropped)]
            outcome.check(any(all(word in line for word in bad.words) for line in recorded), f"{bad.name}: {recorded}")
            continue
        told, models = io.StringIO(), path.parent / "models"
        with contextlib.redirect_stderr(told):
            try:
                code = main(["fit", str(path), "--model", "shop", "--models-dir", str(models), *bad.options])
            except Exception as error:  # noqa: BLE001 - a traceback is what must not be
                code, told = -1, io.StringIO(repr(error))
        lines = told.getvalue().splitlines()
        holds = code == 2 and len(lines) == 1 and all(word in lines[0] for word in bad.words) and not models.exists()
        outcome.check(holds, f"{bad.name}: exit {code}, {lines}, wanted {bad.words}")
    return outcome
