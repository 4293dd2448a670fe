"""python -m service: what a user can mend ends with exit code 2 and one line."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet

from service.__main__ import main
from service.bundle import current_version
from tests.service.client import until
from tests.service.tiny_bundle import publish

OLD, NEW = "20260101T000000Z-made01", "20260102T000000Z-made02"
CapSys = pytest.CaptureFixture[str]


def run(*words: str) -> int:
    try:
        return main(words)
    except SystemExit as ended:
        return int(ended.code or 0)


def test_inspect_tells_what_a_bundle_holds(models_dir: Path, capsys: CapSys) -> None:
    assert run("inspect", "tiny", "--models-dir", str(models_dir)) == 0
    told = capsys.readouterr().out
    for expected in (
        "tiny",
        OLD,
        "hold",
        "amount: numeric 0 to 1000",
        "country: categorical 3 categories",
        "scorer.onnx",
        "199 records",
    ):
        assert expected in told


def test_inspect_tells_what_was_left_out_and_warned_of(models_dir: Path, capsys: CapSys) -> None:
    publish(models_dir, version=NEW, dropped=("id",), warnings=("column time: is this a time?",))
    assert run("inspect", "tiny", "--models-dir", str(models_dir)) == 0
    assert "  left out: id: constant\n  warning: column time: is this a time?\n" in capsys.readouterr().out


def test_promote_and_rollback(models_dir: Path, capsys: CapSys) -> None:
    publish(models_dir, version=NEW)
    assert run("rollback", "tiny", "--models-dir", str(models_dir)) == 0
    assert current_version(models_dir, "tiny") == OLD
    assert run("promote", "tiny", NEW, "--models-dir", str(models_dir)) == 0
    assert current_version(models_dir, "tiny") == NEW
    assert OLD in capsys.readouterr().out


def test_score_scores_a_file(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("amount,count,country,level,online,at\n12.5,3,de,20,true,2026-03-02T14:30:00\n")
    out = tmp_path / "out.csv"
    assert run("score", str(tmp_path / "data.csv"), "--model", "tiny", "--output", str(out), "--models-dir", str(models_dir)) == 0
    header, row = out.read_text().splitlines()
    assert header == "score,p_value,is_anomaly"
    assert float(row.split(",")[0]) == 36.0


def test_a_table_without_rows_gives_one_without_rows(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("amount,count,country,level,online,at\n")
    common = ("score", str(tmp_path / "data.csv"), "--model", "tiny", "--models-dir", str(models_dir))
    for name, read in (
        ("out.csv", lambda path: path.read_text().split()),
        ("out.parquet", lambda path: parquet.read_table(path)),
    ):
        assert run(*common, "--output", str(tmp_path / name)) == 0
        found = read(tmp_path / name)
        assert found == ["score,p_value,is_anomaly"] if name == "out.csv" else found.num_rows == 0


def test_score_flags_by_the_alpha_that_it_is_told(models_dir: Path, tmp_path: Path) -> None:
    rows = [f"{amount},3,de,20,true,\n" for amount in range(60)]
    (tmp_path / "data.csv").write_text("amount,count,country,level,online,at\n" + "".join(rows))
    common, scored = ("score", str(tmp_path / "data.csv"), "--model", "tiny", "--models-dir", str(models_dir)), []
    for alpha in ((), ("--alpha", "0.01"), ("--alpha", "0.2")):
        assert run(*common, "--output", str(tmp_path / "out.csv"), *alpha) == 0
        scored.append([line.split(",") for line in (tmp_path / "out.csv").read_text().splitlines()[1:]])
    assert scored[0] == scored[1]  # the bundle's is 0.01
    assert [row[:2] for row in scored[0]] == [row[:2] for row in scored[2]]
    for alpha, rows in ((0.01, scored[0]), (0.2, scored[2])):
        assert [flag for *_, flag in rows] == [str(float(p_value) <= alpha).lower() for _, p_value, _ in rows]
    assert sum(flag == "true" for *_, flag in scored[2]) > sum(flag == "true" for *_, flag in scored[0]) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "required"),
        (("serv",), "invalid choice"),
        (("serve", "--prot", "1"), "unrecognized"),
        (("serve", "--model", "tiny"), "unrecognized arguments: --model tiny"),
        (("serve", "--port", "http", "--models-dir", "{m}"), "--port must be a whole number from 0 to 65535, not 'http'"),
        (("serve", "--workers", "0"), "--workers must be a whole number from 1 to 1024, not '0'"),
        (("inspect", "other", "--models-dir", "{m}"), "there are: tiny"),
        (("inspect", "../x", "--models-dir", "{m}"), "no model"),
        (("inspect", "tiny", "--models-dir", "{m}/none"), "no folder"),
        (("inspect", "tiny", "--version", "9", "--models-dir", "{m}"), "no version '9'"),
        (("promote", "tiny", "9", "--models-dir", "{m}"), "no version '9'"),
        (("rollback", "tiny", "--models-dir", "{m}"), "no version before"),
        (("prune", "tiny", "--models-dir", "{m}"), "--keep"),
        (("prune", "tiny", "--keep", "0", "--models-dir", "{m}"), "1 or more"),
        (("prune", "other", "--keep", "1", "--models-dir", "{m}"), "there are: tiny"),
        (("prune", "tiny", "--keep", "1", "--pin", "9", "--models-dir", "{m}"), "version 9 of model 'tiny' is not in"),
        (("score", "{m}/none.csv", "--model", "tiny", "--output", "-", "--models-dir", "{m}"), "none.csv"),
        (("score", "x.csv", "--model", "other", "--output", "-", "--models-dir", "{m}"), "no model 'other'"),
        (("score", "x.csv", "--output", "-"), "--model"),
        (("score", "x.csv", "--model", "tiny", "--output", "-", "--alpha", "1"), "between 0 and 1"),
        (
            ("score", "x.csv", "--model", "tiny", "--output", "-", "--models-dir", "{m}", "--alpha", "0.001"),
            "alpha 0.001 is below 0.005, the smallest that 199 calibration records support",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(
    bundle_dir: Path, capsys: CapSys, words: tuple[str, ...], said: str
) -> None:
    assert run(*(word.format(m=bundle_dir) for word in words)) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_damaged_bundle_is_told(models_dir: Path, capsys: CapSys) -> None:
    path = models_dir / "tiny" / OLD / "scorer.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    assert run("inspect", "tiny", "--models-dir", str(models_dir)) == 2
    assert "scorer.onnx" in capsys.readouterr().err


def test_help_lists_the_settings(capsys: CapSys) -> None:
    assert run("serve", "--help") == 0
    assert "ANOMALY_QUEUE_ROWS" in capsys.readouterr().out


def test_a_setting_that_is_wrong_stops_serving(monkeypatch: pytest.MonkeyPatch, capsys: CapSys) -> None:
    monkeypatch.setenv("ANOMALY_API_KEYS_FILE", "/no/such/file")
    assert run("serve", "--port", "0") == 2
    assert "/no/such/file" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("serve", "--port", "0"), ("score", "x.csv", "--model", "tiny", "--output", "-")])
def test_without_onnxruntime_it_says_how_to_install_it(bundle_dir: Path, words: tuple[str, ...]) -> None:
    absent = "import sys; sys.modules['onnxruntime'] = None; from service.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", absent, *words, "--models-dir", str(bundle_dir)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    told = f"python -m service {words[0]}: needs the package onnxruntime: pip install 'tabular-anomaly-service[cpu]'"
    assert (ended.returncode, ended.stderr.startswith(told), ended.stderr.count("\n")) == (2, True, 1)


def test_score_that_is_ended_leaves_nothing_half_made(models_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("amount,count,country,level,online,at\n" + "1,,,,,\n" * 2_000_000)
    words = ["score", str(tmp_path / "data.csv"), "--model", "tiny", "--output", str(tmp_path / "out.csv")]
    command = [sys.executable, "-m", "service", *words, "--models-dir", str(models_dir)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        asyncio.run(until(lambda: any(tmp_path.glob(".out.csv.*.partial"))))
        started.terminate()
        said = started.communicate(timeout=30)[1]
    assert (started.returncode, said) == (128 + signal.SIGTERM, "")
    assert not list(tmp_path.glob("*out.csv*"))
