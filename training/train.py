"""The whole story of a fit, in the order in which it happens."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from service.bundle import Bundle, check_name
from service.calibration import p_values, threshold
from service.graph import check
from service.manifest import SCHEMA_VERSION, Calibration, Feature, File, Manifest, column_slices
from service.session import SLICE, VERSION, Answers, Session
from training.calibrate import CHUNK, build, pool_of, supported_alpha, without_themselves
from training.card import Looked
from training.checkpoint import Checkpoints, key_of
from training.compare import Judged
from training.config import Config
from training.data import HELD, Dataset, check_fit, split
from training.errors import DeviceError
from training.export import export
from training.fit import Curve, fit_nets
from training.metrics import auroc, average_precision
from training.parity import PROVED, golden_records, prove
from training.preprocessing import Preprocessing
from training.progress import Progress
from training.publish import describe, publish, stage
from training.reference import with_reference
from training.report import report
from training.rules.description import describe_rules
from training.scorer import Scorer
from training.table import levels
from training.vae import VAE

GPU_SLOTS = 1_000  # columns of a table once they are encoded: narrower nets are trained sooner on a core (docs/log.md)
NOT_YET = File(sha256="0" * 64, bytes=0)


@dataclass(frozen=True)
class Published:
    """What a fit leaves behind."""

    folder: Path
    manifest: Manifest
    curves: list[Curve]
    judged: Judged


class Assembled(NamedTuple):
    """A bundle in memory, proven, and the scores that it was calibrated with."""

    bundle: Bundle
    judged: Judged


def train(
    dataset: Dataset,
    name: str,
    models_dir: Path,
    config: Config,
    progress: Progress,
    sign: Callable[[bytes], bytes] | None = None,
    promote: bool = True,
) -> Published:
    """Splits, fits, calibrates, exports, reports, proves and publishes; the same bytes for the same data, settings and versions.

    sign: makes the signature of the manifest's bytes. promote: whether the new version becomes the served one. A fit that was
    killed goes on with the nets that it had finished.
    Raises TableError, BundleError, FitError, GraphError, ParityError, and OSError where the bundle cannot be written; then the
    served version stays the one that it was.
    """
    check_name(name)
    check_fit(dataset, config)
    choose_device(config)
    torch.set_num_threads(config.threads)
    share = config.share_held(len(dataset.x), in_order=dataset.in_order)
    fold = split(len(dataset.x), config.seed, share, config.nets, in_order=dataset.in_order)
    trains, calibrates = fold >= 0, fold == HELD
    dataset = of_those_that_train(dataset, trains)
    rows = np.concatenate([dataset.rows[trains], dataset.rows[calibrates]])
    seen, held, fold = dataset.x[trains], dataset.x[calibrates], fold[trains]

    preprocessing = Preprocessing(dataset.features, seen)
    device = choose_device(config, preprocessing.slots)
    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS, too, needs to add in one order
        torch.use_deterministic_algorithms(True)  # on the CPU, all that is used here is deterministic as it is
    with Checkpoints(models_dir / name, key_of(dataset.features, seen, fold, config, device)) as kept:
        nets, curves = fit_nets(preprocessing, seen, fold, config, device, progress, kept)
        bundle, judged = assemble(dataset, name, config, preprocessing, nets, curves, seen, held, fold, rows)
        if sign:
            bundle = replace(bundle, signature=sign(bundle.manifest.dump()))
        return Published(publish(bundle, models_dir, promote), bundle.manifest, curves, judged)


def of_those_that_train(dataset: Dataset, trains: NDArray[np.bool_]) -> Dataset:
    """The table with those levels of categories alone that the records (N,) have which train: others are new to the model."""
    features = levels.of_training(dataset.features, dataset.x, trains)
    x, anomalies_x = (levels.recode(part, dataset.features, features) for part in (dataset.x, dataset.anomalies_x))
    return replace(dataset, features=features, x=x, anomalies_x=anomalies_x)


def assemble(
    dataset: Dataset,
    name: str,
    config: Config,
    preprocessing: Preprocessing,
    nets: list[VAE],
    curves: list[Curve],
    seen: NDArray[np.float32],
    held: NDArray[np.float32],
    fold: NDArray[np.int8],
    rows: NDArray[np.intp],
) -> Assembled:
    """From trained nets to a bundle in memory that is proven: calibrated, exported, reported. Raises as `train`.

    rows (N,): where in the table the records are, those seen before those held out.
    """
    scorer, honest = build(preprocessing, nets, seen, fold, held, config)

    graphs = export(scorer)
    for graph in graphs.values():
        check(graph, SLICE)
    session = Session(graphs["scorer.onnx"], preprocessing.columns, "cpu")
    judged = held if honest is None else seen  # the records that calibrate
    normal = session.run(held, explain=True) if honest is None else honest
    odd = session.run(dataset.anomalies_x, explain=True) if len(dataset.anomalies_x) else None

    scores = np.sort(normal.score)
    alpha, warning = supported_alpha(config.target_fpr, len(scores))
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        features=with_reference(dataset.features, dataset.x),
        dropped=dataset.dropped,
        warnings=(*dataset.warnings, *([warning] if warning else [])),
        score_kind=config.score,
        alpha=alpha,
        threshold=threshold(scores, alpha),
        calibration=Calibration(scores=tuple(map(float, scores)), held_out=honest is None),
        latent=sum(net.latent for net in nets),
        training={
            "settings": config.dump(),
            "data": describe_data(dataset, len(seen), len(judged)),
            "told_by_others": told_by_others(scorer, dataset.features),
        },
        rules=None if scorer.rules is None else describe_rules(scorer.rules.every, preprocessing, dataset.features),
        metrics=measure(curves, normal, odd, scores, alpha),
        libraries={"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": VERSION, "numpy": np.__version__},
        golden=golden_records(session, scorer, judged, dataset.features),
        files={**describe(graphs), "report.html": NOT_YET},
    )
    looked = look(scorer, honest, normal, seen, fold, rows, config)
    page = report(manifest, curves, normal, odd, *reasons(scorer, judged), looked)
    files = {**graphs, "report.html": page}
    bundle = stage(manifest.model_copy(update={"files": describe(files)}), files)
    prove(scorer, bundle, judged[:PROVED])
    where = rows[len(seen) :] if honest is None else rows[: len(seen)]
    return Assembled(bundle, Judged(where, normal.score, None if odd is None else odd.score))


def told_by_others(scorer: Scorer, features: Sequence[Feature]) -> dict[str, float]:
    """The numbers that the other features tell, and how much of their variance, the most first."""
    if scorer.regressions is None:
        return {}
    names = {at.start: feature.name for feature, at in zip(features, column_slices(features), strict=True)}
    shares = zip(scorer.regressions.columns, scorer.regressions.explained, strict=True)
    return {names[column]: round(share, 3) for column, share in sorted(shares, key=lambda one: -one[1])}


def choose_device(config: Config, slots: int = 0) -> str:
    """cpu or cuda, for records of so many slots. Raises DeviceError where cuda is asked for and there is none."""
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise DeviceError("--device cuda: torch finds no usable GPU; use --device auto or cpu")
    return "cuda" if config.device == "cuda" or (config.device == "auto" and there and slots >= GPU_SLOTS) else "cpu"


def describe_data(dataset: Dataset, seen: int, held: int) -> dict[str, Any]:
    """What the manifest says of the data: the files by name and hash, and how many records did what."""
    return {
        "sources": [{"name": name, "sha256": sha256} for name, sha256 in dataset.sources],
        **dataset.asked,
        "normal_records": len(dataset.x),
        "training_records": seen,
        "calibration_records": held,
        "labelled_anomalies": len(dataset.anomalies_x),
    }


def measure(
    curves: list[Curve], normal: Answers, odd: Answers | None, scores: NDArray[np.float32], alpha: float
) -> dict[str, float | None]:
    """The figures of the fit, on calibration records and, where there are labels, against the labelled anomalies."""
    figures: dict[str, float | None] = {
        "validation_loss": float(np.mean([min(curve.validation) for curve in curves])),
        "elbo": float(normal.elbo.mean(dtype=np.float64)),
        "reconstruction_error": float(normal.reconstruction_error.mean(dtype=np.float64)),
    }
    if odd is not None:
        is_anomaly = np.repeat([False, True], [len(normal.score), len(odd.score)])
        every = np.concatenate([normal.score, odd.score])
        figures["auroc"] = auroc(is_anomaly, every)
        figures["average_precision"] = average_precision(is_anomaly, every)
        figures["true_alarm_rate"] = float((p_values(scores, odd.score) <= alpha).mean())
    return figures


def look(
    scorer: Scorer,
    honest: Answers | None,
    normal: Answers,
    seen: NDArray[np.float32],
    fold: NDArray[np.int8],
    rows: NDArray[np.intp],
    config: Config,
) -> Looked:
    """The training records, each judged without itself, and those held out: what the report lists the least normal of.

    Of very many training records only those that memories are chosen from, so that the time has a bound.
    """
    if honest is not None:
        return Looked(honest.score, honest.contributions, rows, len(rows))
    pool = pool_of(len(seen), scorer.preprocessing.slots, config, np.random.default_rng(config.seed))
    alone = without_themselves(scorer, scorer.distances, seen, fold, pool)
    return Looked(
        np.concatenate([alone.score, normal.score]),
        np.concatenate([alone.contributions, normal.contributions]),
        np.concatenate([rows[pool], rows[len(seen) :]]),
        len(rows),
    )


def reasons(scorer: Scorer, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The latent means (n, L) of the first net, and each feature's reconstruction error (n, F), of records x (n, C)."""
    told = []
    with torch.no_grad():
        for part in torch.split(torch.from_numpy(x), CHUNK):
            slots = scorer.preprocessing(part)
            told.append((scorer.nets[0].encoder(slots).mu, scorer.ensemble(slots)[0].error))
    means, errors = (torch.cat(parts).numpy() for parts in zip(*told, strict=True))
    return means, errors
