"""Manifests and answers made by hand, and a published bundle of the tiny fit."""

from dataclasses import replace

import numpy as np
import torch

from service import calibration
from service.manifest import FILES, SCHEMA_VERSION, Calibration, Dropped, Feature, File, Golden, Manifest
from service.session import Answers, Session
from training.calibrate import build
from training.card import Looked
from training.config import Config
from training.fit import Curve, fit_nets
from training.parity import golden_records
from training.preprocessing import Preprocessing
from training.publish import describe, publish, stage

from .mixed import FEATURES, rows


def make_manifest(features=FEATURES, scores=range(1, 201), kind="surprise", **changes):
    scores = np.sort(np.asarray(scores, np.float32))
    alpha = max(0.05, calibration.smallest_alpha(len(scores)))
    width, terms = sum(f.width for f in features), len(features) + (kind == "elbo")
    fields = {
        "schema_version": SCHEMA_VERSION,
        "name": "shop",
        "features": features,
        "dropped": (Dropped(column="currency", reason="constant"),),
        "warnings": ("the table is small",),
        "score_kind": kind,
        "alpha": alpha,
        "threshold": calibration.threshold(scores, alpha),
        "calibration": Calibration(scores=tuple(map(float, scores))),
        "latent": 8,
        "training": {"settings": Config().dump(), "data": {"sources": [{"name": "shop.csv", "sha256": "ab" * 32}], "rows": 1234}},
        "metrics": {"elbo": -3.5, "auroc": None},
        "libraries": {"numpy": np.__version__},
        "golden": (Golden(x=(None,) * width, score=1, elbo=1, reconstruction_error=1, contributions=(0.0,) * terms),),
        "files": {name: File(sha256="0" * 64, bytes=1) for name in FILES},
    }
    return Manifest(**{**fields, **changes})


def make_answers(n, terms, seed=0, size=1.0):
    contributions = (np.random.default_rng(seed).gamma(0.5, size, (n, terms))).astype(np.float32)
    score = contributions.sum(1)
    return Answers(score, -score, score, contributions, np.zeros((n, terms), np.float32))


def make_inputs(n=300, anomalies=40, features=FEATURES, kind="surprise", latent=6, **changes):
    """The arguments of report()."""
    random = np.random.default_rng(3)
    terms = len(features) + (kind == "elbo")
    held = make_answers(n, terms)
    looked = make_answers(n, terms, seed=2)
    steps = list(range(50, 1050, 50))
    losses = [400 * np.exp(-step / 100) for step in steps]
    curves = [Curve(steps, losses, [loss + k for loss in losses], steps[-3]) for k in range(4)]
    return {
        "manifest": make_manifest(features, held.score, kind, **changes),
        "curves": curves,
        "held": held,
        "anomalies": make_answers(anomalies, terms, seed=1, size=3.0) if anomalies else None,
        "latent": random.normal(size=(n, latent)).astype(np.float32),
        "error": random.gamma(1, size=(n, len(features))).astype(np.float32),
        "looked": Looked(looked.score, looked.contributions, np.arange(n) + 5_000, n),
    }


def numbers(count):
    """That many numeric features."""
    return tuple(Feature(name=f"number_{i}", kind="numeric", low=-1, high=1) for i in range(count))


def publish_tiny(scorer, graphs, settings, folder):
    """A published bundle of the tiny fit, whose model is called shop."""
    graphs = {**graphs, "report.html": b"<!doctype html>"}
    session = Session(graphs["scorer.onnx"], scorer.preprocessing.columns, "cpu")
    held = rows(200, seed=7)
    manifest = make_manifest(
        scores=session.run(held, explain=False).score,
        kind=scorer.kind,
        latent=sum(net.latent for net in scorer.nets),
        training={"settings": settings.dump()},
        golden=golden_records(session, scorer, held, FEATURES),
        files=describe(graphs),
    )
    publish(stage(manifest, graphs), folder)
    return folder


def folds(n, k=4):
    """(n,) the folds of records, in turn."""
    return (np.arange(n) % k).astype(np.int8)


def scorers_of(features, x, held, **settings):
    """A scorer for each of the values of a setting, from the same nets of a few steps, trained on x (N, C)."""
    torch.set_num_threads(1)
    config = Config(hidden=16, latent=8, steps_most=60, evaluate_every=20, memory=300)
    preprocessing = Preprocessing(features, x)
    nets, _ = fit_nets(preprocessing, x, folds(len(x)), config, "cpu", lambda *_: None)
    ((name, values),) = settings.items()
    made = (replace(config, **{name: value}) for value in values)
    return [build(preprocessing, nets, x, folds(len(x)), held, each)[0] for each in made]
