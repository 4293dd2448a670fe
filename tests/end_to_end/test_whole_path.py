"""From a table to scored records, as a user takes it: fit by command, serve by command, score over HTTP and by file."""

import csv
import socket
import subprocess
import sys
from contextlib import suppress

import httpx
import numpy as np
import pytest

from service.bundle import read_bundle
from service.detector import Detector
from tests.torture.served import free_port
from training import demo, example
from training.data import read_for_evaluation


@pytest.fixture
def address(payments, tmp_path, monkeypatch):
    """A real service process of the fitted model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANOMALY_PROVIDER", "cpu")  # the scores of a GPU have other last bits
    monkeypatch.setattr(demo, "free_port", free_port)  # else two at once would both find 8000 free
    demo.FOLDER.mkdir()
    with demo.serving(payments.models) as address:
        yield address


def test_http_files_and_the_detector_give_one_record_one_score(payments, address, tmp_path):
    columns = example.generate(700, seed=21, anomaly_share=0.1)
    table, out = tmp_path / "fresh.csv", tmp_path / "scores.csv"
    example.write_csv(columns, table)
    columns.pop(example.LABEL)
    records = example.records(columns)
    bundle = read_bundle(payments.bundle)
    x, _ = read_for_evaluation(table, bundle.manifest.features, "label", "normal")
    meant = Detector(bundle, "cpu").score(x, explain="none").score

    with httpx.Client(base_url=address, timeout=60) as client:
        batches = [client.post("/score", json={"records": records[i : i + 97]}).json()["results"] for i in range(0, 700, 97)]
        results = [result for batch in batches for result in batch]
        alone = [client.post("/score", json={"records": [record]}).json()["results"][0]["score"] for record in records[:50]]
        by_column = {name: [record[name] for record in records] for name in records[0]}
        told = client.post("/score", json={"columns": by_column}).json()["results"]
    assert np.array_equal(np.array([result["score"] for result in results], np.float32), meant)
    assert np.array_equal(np.array(alone, np.float32), meant[:50])
    assert np.array_equal(np.array(told["score"], np.float32), meant)
    for result in results:
        if result["is_anomaly"]:
            parts = sum(reason["contribution"] for reason in result["contributions"])
            assert parts == pytest.approx(result["score"], rel=1e-5)

    command = [sys.executable, "-m", "service", "score", str(table), "--model", "payments", "--models-dir", str(payments.models)]
    subprocess.run([*command, "--output", str(out)], check=True, capture_output=True)
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.array_equal(np.array([row["score"] for row in rows], np.float32), meant)
    assert [row["is_anomaly"] == "true" for row in rows] == [result["is_anomaly"] for result in results]
    assert [float(row["p_value"]) for row in rows] == [result["p_value"] for result in results]


def test_the_demo_takes_another_port_where_its_own_is_taken():
    with socket.socket() as taken:
        with suppress(OSError):  # somebody else's, then
            taken.bind(("127.0.0.1", 8000))
        assert demo.free_port() not in (0, 8000)


def test_the_demo_finds_its_answers_right(address, capsys):
    assert demo.ask(address)
    assert "as it should be" in capsys.readouterr().out
