import dataclasses
import functools

import numpy as np
import pytest
import torch

from training.calibrate import build
from training.config import Config
from training.export import export
from training.fit import fit_nets
from training.preprocessing import Preprocessing

from .made import publish_tiny
from .mixed import FEATURES, rows

TINY = Config(hidden=16, latent=8, steps_most=60, evaluate_every=20, batch=64, memory=100)


@pytest.fixture(scope="session")
def fitted():
    """(preprocessing, nets, x, fold) of a tiny fit on the mixed table."""
    torch.set_num_threads(1)
    x, fold = rows(400), (np.arange(400) % TINY.nets).astype(np.int8)
    preprocessing = Preprocessing(FEATURES, x)
    nets, _ = fit_nets(preprocessing, x, fold, TINY, "cpu", lambda *_: None)
    return preprocessing, nets, x, fold


@pytest.fixture(scope="session")
def exported(fitted):
    """A function: (scorer, graphs) of the tiny fit by the kind of score, each made once."""

    @functools.cache
    def made(kind):
        preprocessing, nets, x, fold = fitted
        scorer, _ = build(preprocessing, nets, x, fold, rows(120, seed=3), dataclasses.replace(TINY, score=kind))
        return scorer, export(scorer)

    return made


@pytest.fixture(scope="session", params=["surprise", "elbo", "reconstruction"])
def scorer(request, exported):
    """A tiny scorer of each kind."""
    return exported(request.param)[0]


@pytest.fixture(scope="session")
def graphs(scorer, exported):
    """Its graphs, by file name."""
    return exported(scorer.kind)[1]


@pytest.fixture(scope="session")
def models(exported, tmp_path_factory):
    """A models folder with the model `shop`, of the tiny fit. To be read only."""
    return publish_tiny(*exported("surprise"), TINY, tmp_path_factory.mktemp("models"))
