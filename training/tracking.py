"""A fit as a run of MLflow (extra `track`): settings, figures, losses by step, and the whole bundle with its report.

Where runs go is MLflow's to say, by its own variables: MLFLOW_TRACKING_URI (unset: mlflow.db and mlruns/ in the current folder,
no server), MLFLOW_EXPERIMENT_NAME (unset: the model's name), and all others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from training.config import Config
from training.options import OptionError, Options

if TYPE_CHECKING:
    from training.train import Published

Record = Callable[["Published", str | None], None]
LONGEST = 500  # letters of an error
EXPERIMENT = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")


class TrackingError(Exception):
    """A published bundle could not be recorded."""


@contextmanager
def run(options: Options, config: Config) -> Iterator[Record]:
    """Begins a run with the settings as its parameters, and yields what records the published bundle and a comparison's text.

    A fit that fails leaves a run that failed. Raises OptionError where MLflow is not installed or its store cannot be used, and
    TrackingError where it cannot be any more when the bundle is published.
    """
    mlflow = load()
    try:
        if not any(map(os.environ.get, EXPERIMENT)):
            mlflow.set_experiment(options.model)
        mlflow.start_run()
        mlflow.log_params(parameters(options, config))
    except Exception as error:  # each kind of store raises classes of its own
        with suppress(Exception):
            mlflow.end_run("FAILED")
        raise OptionError(f"--track: MLflow cannot record at {mlflow.get_tracking_uri()}: {_line(error)}") from error
    try:
        yield lambda published, comparison: record(mlflow, published, comparison)
    except BaseException:
        with suppress(Exception):
            mlflow.end_run("FAILED")
        raise
    mlflow.end_run()


def load() -> Any:
    """The module mlflow, made to send nothing but to the store, and to say little. Raises OptionError."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at import
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the last line there is the bundle's path
    try:
        import mlflow  # noqa: PLC0415
    except ImportError as error:
        raise OptionError("--track needs MLflow: pip install '.[track]'") from error
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def parameters(options: Options, config: Config) -> dict[str, Any]:
    """Every setting by its name."""
    return asdict(options) | config.dump()


def record(mlflow: Any, published: Published, comparison: str | None) -> None:
    """Figures, losses and the bundle of a fit, into the current run. Raises TrackingError."""
    manifest = published.manifest
    figures = {"alpha": manifest.alpha, "threshold": manifest.threshold, **manifest.metrics}
    try:
        mlflow.set_tags({"model": manifest.name, "version": published.folder.name})
        mlflow.log_metrics({name: figure for name, figure in figures.items() if figure is not None})
        for place, curve in enumerate(published.curves, start=1):
            for step, train, validation in zip(curve.step, curve.train, curve.validation, strict=True):
                mlflow.log_metrics({f"net_{place}/train": train, f"net_{place}/validation": validation}, step=step)
        mlflow.log_artifacts(str(published.folder), "bundle")
        if comparison is not None:
            mlflow.log_text(comparison, "comparison.txt")
    except Exception as error:
        raise TrackingError(f"{published.folder} is published and whole, but not recorded by MLflow: {_line(error)}") from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST]
