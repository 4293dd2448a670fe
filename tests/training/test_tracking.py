"""A fit in MLflow: the run is read back from a store without a server, as MLflow makes one where nobody says otherwise."""

import shutil
import socket
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from service.bundle import current_version, read_bundle
from service.manifest import FILES, MANIFEST
from training import tracking
from training.config import Config
from training.options import OptionError, Options
from training.tracking import TrackingError
from training.train import Published

from .fits import TINY, fit, table


@pytest.fixture(autouse=True)
def mlflow(tmp_path, monkeypatch):
    """MLflow, loaded as a fit does: what it sends, and where to, is settled at its import.

    The current folder is the store; MLflow keeps which one it uses, and in which experiment, in the process.
    """
    mlflow = tracking.load()
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", *tracking.EXPERIMENT):
        monkeypatch.delenv(name, raising=False)
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.tracking.fluent._active_experiment_id = None


def statuses(client):
    """How many runs of the experiment `shop` ended how."""
    experiment = client.get_experiment_by_name("shop")
    return Counter(run.info.status for run in client.search_runs([experiment.experiment_id]))


def test_a_fit_is_a_run_with_settings_figures_losses_and_the_bundle(tmp_path, capsys, mlflow, monkeypatch):
    data, models = table(tmp_path / "t.csv"), tmp_path / "models"
    assert fit(tmp_path, data, "--track", seed=3, noise=0.2) == 0
    told = capsys.readouterr()
    folder = models / "shop" / current_version(models, "shop")
    assert told.out.splitlines()[-1] == str(folder)
    bundle = read_bundle(folder)

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("shop")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    settings = bundle.manifest.training["settings"]
    assert settings.items() >= {"seed": 3, "noise": 0.2}.items()
    assert {name: run.data.params[name] for name in settings} == {name: str(value) for name, value in settings.items()}
    assert (run.data.params["label"], run.data.params["data"]) == ("label", str(data))
    assert run.data.tags["version"] == folder.name
    figures = {name: figure for name, figure in bundle.manifest.metrics.items() if figure is not None}
    figures |= {"alpha": bundle.manifest.alpha, "threshold": bundle.manifest.threshold}
    assert {name: run.data.metrics[name] for name in figures} == pytest.approx(figures)
    steps = [metric.step for metric in client.get_metric_history(run.info.run_id, f"net_{TINY['nets']}/validation")]
    assert steps == list(range(TINY["evaluate_every"], TINY["steps_most"] + 1, TINY["evaluate_every"]))
    there = client.download_artifacts(run.info.run_id, "bundle", str(tmp_path))
    for name in (MANIFEST, *FILES):
        assert (tmp_path / "bundle" / name).read_bytes() == (folder / name).read_bytes(), there
    # A fit that fails is a run that failed.
    assert fit(tmp_path, data, "--track", learning_rate=1e38) == 1
    assert statuses(client) == {"FINISHED": 1, "FAILED": 1}

    published = Published(folder, bundle.manifest, [], None)
    with tracking.run(Options("t.csv", "shop"), Config()) as record:
        record(published, "side by side")
    assert [path.read_text() for path in tmp_path.glob("mlruns/*/*/artifacts/comparison.txt")] == ["side by side"]
    assert statuses(client) == {"FINISHED": 2, "FAILED": 1}

    # So is one of which not even the settings can be recorded.
    with monkeypatch.context() as patched:
        patched.setattr(tracking, "parameters", lambda *_: {"no name of a parameter!": 0})
        with pytest.raises(OptionError, match="cannot record"), tracking.run(Options("t.csv", "shop"), Config()):
            pass
    assert statuses(client) == {"FINISHED": 2, "FAILED": 2}

    # No place for what is recorded, once it is published.
    shutil.rmtree(tmp_path / "mlruns")
    (tmp_path / "mlruns").touch()
    lost = pytest.raises(TrackingError, match=rf"{folder.name} is published and whole, but not recorded by MLflow: \w+Error")
    with lost, tracking.run(Options("t.csv", "shop"), Config()) as record:
        record(published, None)
    assert statuses(client) == {"FINISHED": 2, "FAILED": 3}


def test_mlflow_reports_to_nobody():
    from mlflow.telemetry.client import get_telemetry_client

    assert get_telemetry_client() is None


def test_a_store_that_cannot_be_reached_is_told_before_the_fit(tmp_path, monkeypatch, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        assert fit(tmp_path, table(tmp_path / "t.csv"), "--track") == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("training fit: --track: MLflow cannot record at http://127.0.0.1:")
    assert not (tmp_path / "models" / "shop").exists()


def test_without_mlflow_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(OptionError, match=r"pip install '.\[track\]'"), tracking.run(Options("t.csv", "shop"), Config()):
        pass
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "track" in project["optional-dependencies"]
