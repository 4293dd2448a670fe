"""Fixtures of all tests: a clean environment, a tiny made bundle, and one real fit through the command that a user types."""

import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

from service.bundle import Bundle, read_bundle
from tests.service import tiny_bundle
from training import example

# No test fails for its time: a machine may do other things.
hypothesis.settings.register_profile(
    "suite", hypothesis.settings.default, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those of training first: the fits that they share are then made by one process of pytest-xdist alone, in most cases."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/training/"))


@dataclass(frozen=True)
class Payments:
    """A model of example payments, as `python -m training fit` published it."""

    table: Path
    models: Path
    bundle: Path
    options: tuple[str, ...]
    told: str  # on standard output


@pytest.fixture(scope="session")
def payments(tmp_path_factory: pytest.TempPathFactory) -> Payments:
    """To be read only: the processes of pytest-xdist share it, and whichever needs it first makes it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "payments"
    folder.mkdir(exist_ok=True)
    table, models, told = folder / "payments.csv", folder / "models", folder / "told.txt"
    options = ("--model", "payments", "--label", example.LABEL, "--normal", example.NORMAL)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            example.write_csv(example.generate(2_500, seed=11), table)
            command = [sys.executable, "-m", "training", "fit", str(table), *options, "--models-dir", str(models)]
            fit = subprocess.run(command, capture_output=True, text=True, check=False)
            assert fit.returncode == 0, fit.stderr
            told.write_text(fit.stdout)
    return Payments(table, models, Path(told.read_text().splitlines()[-1]), options, told.read_text())


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
