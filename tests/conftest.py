"""Fixtures of all tests: a clean environment, a tiny made bundle, and one real fit through the command that a user types."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.manifest import Bundle, read_bundle
from tests.service import tiny_bundle
from training import example


@dataclass(frozen=True)
class Payments:
    """A model of example payments, as `python -m training fit` published it."""

    table: Path
    models: Path
    bundle: Path
    options: tuple[str, ...]
    fit: subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Payments:
    folder = tmp_path_factory.mktemp("payments")
    table, models = folder / "payments.csv", folder / "models"
    example.write_csv(example.generate(2_500, seed=11), table)
    options = ("--model", "payments", "--label", example.LABEL, "--normal", example.NORMAL)
    command = [sys.executable, "-m", "training", "fit", str(table), *options, "--models-dir", str(models)]
    fit = subprocess.run(command, capture_output=True, text=True, check=False)
    assert fit.returncode == 0, fit.stderr
    return Payments(table, models, Path(fit.stdout.splitlines()[-1]), options, fit)


@pytest.fixture(scope="session")
def bundle(payments: Payments) -> Bundle:
    """The same, in memory."""
    return read_bundle(payments.bundle)


@pytest.fixture(scope="session")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with the made model `tiny`, features of all kinds. To be read only."""
    folder = tmp_path_factory.mktemp("models")
    tiny_bundle.publish(folder)
    return folder


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    """A models folder of the test's own, with the model `tiny`."""
    tiny_bundle.publish(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the settings of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("ANOMALY_")]:
        monkeypatch.delenv(name)
