"""A bundle is tried in a process of its own before it replaces one that serves."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from service import trial
from service.bundle import Bundle, read_bundle
from service.manifest import BundleError, File
from tests.service.client import check_problem
from tests.service.conftest import Serve
from tests.service.tiny_bundle import GOOD, publish


@pytest.fixture
def tiny(bundle_dir: Path) -> Bundle:
    return read_bundle(next((bundle_dir / "tiny").glob("2*")))


def test_a_good_bundle_passes(tiny: Bundle) -> None:
    trial.attempt(tiny, 60)


def test_the_reason_of_a_refusal_comes_through(tiny: Bundle) -> None:
    graph = tiny.files["scorer.onnx"].replace(b"Abs", b"Neg")
    files = {**tiny.manifest.files, "scorer.onnx": File(sha256=hashlib.sha256(graph).hexdigest(), bytes=len(graph))}
    altered = dataclasses.replace(
        tiny, manifest=tiny.manifest.model_copy(update={"files": files}), files={**tiny.files, "scorer.onnx": graph}
    )
    with pytest.raises(BundleError, match="golden record 0: the score"):
        trial.attempt(altered, 60)


def test_one_that_eats_memory_ends_alone(tiny: Bundle) -> None:
    with pytest.raises(BundleError, match="ended a process of its own"):
        trial.attempt(tiny, 60, memory=120 << 20)


def test_one_that_hangs_ends_alone(tiny: Bundle) -> None:
    with pytest.raises(BundleError, match="ANOMALY_TRIAL_SECONDS"):
        trial.attempt(tiny, 0.01)


def test_one_that_crashes_ends_alone(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os; os.kill(os.getpid(), {signal.SIGSEGV.value})")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(BundleError, match=f"signal {signal.SIGSEGV.value}"):
        trial.attempt(tiny, 60)


def test_only_what_replaces_a_served_model_is_tried(serve: Serve, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    real = trial.attempt

    def attempt(bundle: Bundle, *more: Any) -> None:
        tried.append(bundle.version)
        real(bundle, *more)

    monkeypatch.setattr(trial, "attempt", attempt)
    client = serve(models_dir=models_dir, admin_keys=("root",), trial_seconds=30.0)
    assert tried == []
    publish(models_dir, version="20260102T000000Z-made02")
    assert client.post("/models/tiny/reload", headers={"x-api-key": "root"}).status_code == 200
    assert tried == ["20260102T000000Z-made02"]
    monkeypatch.setattr(trial, "MEMORY", 1)
    publish(models_dir, version="20260103T000000Z-made03")
    monkeypatch.setattr(trial, "attempt", lambda bundle, seconds: real(bundle, 0.01))
    told = check_problem(client.post("/models/tiny/reload", headers={"x-api-key": "root"}), 409, "bundle_refused")
    assert "ANOMALY_TRIAL_SECONDS" in told["detail"]
    assert client.score({"records": [GOOD]})["version"] == "20260102T000000Z-made02"
