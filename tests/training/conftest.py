import numpy as np
import pytest
import torch

from training.calibrate import build
from training.config import Config
from training.fit import fit_nets
from training.preprocessing import Preprocessing

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


@pytest.fixture(scope="session", params=["surprise", "elbo", "reconstruction"])
def scorer(request, fitted):
    """A tiny scorer of each kind."""
    preprocessing, nets, x, fold = fitted
    return build(preprocessing, nets, x, fold, rows(120, seed=3), Config(**{**TINY.dump(), "score": request.param}))[0]
