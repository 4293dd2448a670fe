"""A level that no record has, of a category of more levels than have slots: odd where hardly a record has a level of its own."""

import numpy as np
import pytest
import torch

from service.manifest import Feature
from service.session import Session
from tests.reference import elbo_numpy
from training.calibrate import build
from training.elbo import elbo
from training.export import export
from training.fit import fit_nets
from training.preprocessing import NEW_SHARE, Preprocessing, new_are_odd

from .conftest import TINY

KNOWN, ROWS = 100, 2_000
FEATURES = (
    Feature(name="city", kind="categorical", categories=tuple(f"city{i}" for i in range(KNOWN))),
    Feature(name="amount", kind="numeric", low=-4, high=4),
)


def rows(alone=0, n=ROWS):
    """x (n, 2): cities by how frequent they are, the last of them, so many, with one record each."""
    random = np.random.default_rng(0)
    own = np.arange(KNOWN - alone, KNOWN)
    city = np.concatenate([np.sort(np.resize(np.arange(KNOWN - alone), n - alone)), own])
    return random.permutation(np.column_stack([city, random.normal(size=n)])).astype(np.float32)


def slot_of(preprocessing, code):
    onehot = preprocessing(torch.tensor([[float(code), 0.0]])).y[0, preprocessing.reals :]
    assert onehot.sum() == 1
    return int(onehot.argmax())


@pytest.mark.parametrize(("alone", "slots"), [(0, (61, 62, 62, 63)), (10, (61, 62, 63, 63))])
def test_it_has_a_slot_of_its_own_where_new_levels_are_odd(alone, slots):
    preprocessing = Preprocessing(FEATURES, rows(alone))
    assert tuple(slot_of(preprocessing, code) for code in (61, 62, KNOWN - 1, KNOWN)) == slots
    assert slot_of(preprocessing, 1e9) == slots[-1]


def test_how_many_may_be_alone_goes_by_their_share():
    codes = np.repeat(np.arange(1_000), 2)
    assert new_are_odd(codes.astype(np.float32))
    most = int(NEW_SHARE * (len(codes) + 1)) - 1
    for alone in range(2 * most):
        assert new_are_odd(np.concatenate([codes, np.arange(alone) + 5_000, [np.nan]]).astype(np.float32)) == (alone <= most)


@pytest.fixture(scope="module")
def fitted():
    x, fold = rows(), (np.arange(ROWS) % TINY.nets).astype(np.int8)
    preprocessing = Preprocessing(FEATURES, x)
    nets, _ = fit_nets(preprocessing, x, fold, TINY, "cpu", lambda *_: None)
    scorer, _ = build(preprocessing, nets, x, fold, x[:0], TINY)
    return preprocessing, nets, scorer, Session(export(scorer)["scorer.onnx"], 2, "cpu")


def test_torch_agrees_with_the_oracle(fitted):
    preprocessing, nets, *_ = fitted
    x = np.array([[code, 0.5] for code in (0, 61, 62, 99, 100, np.nan)], np.float32)
    buffers = {name: value.double().numpy() for name, value in preprocessing.state_dict().items()}
    weights = {name: value.detach().double().numpy() for name, value in nets[0].state_dict().items()}
    meant = [elbo_numpy.record_elbo(FEATURES, row.astype(np.float64), buffers, weights, nets[0].sigma)[0] for row in x]
    with torch.no_grad():
        told = nets[0](preprocessing(torch.from_numpy(x)))[0].error
    np.testing.assert_allclose(told, meant, rtol=1e-3, atol=1e-4)


def test_the_levels_have_probabilities_that_sum_to_one(fitted):
    preprocessing = fitted[0]
    out = torch.randn(1, preprocessing.slots).repeat(KNOWN + 1, 1)
    x = torch.tensor([[float(code), 0.0] for code in range(KNOWN + 1)])
    error = elbo(preprocessing, preprocessing(x), [out], torch.zeros(KNOWN + 1, 4), torch.zeros(KNOWN + 1, 4), 1.0).error[:, 0]
    assert abs(torch.exp(-error.double()).sum().item() - 1) < 1e-4


def test_it_is_more_of_a_surprise_than_any_known_one(fitted):
    *_, session = fitted
    x = np.column_stack([np.arange(KNOWN + 1), np.zeros(KNOWN + 1)]).astype(np.float32)
    told = session.run(x, explain=True)
    assert told.score[-1] > 1.5 * told.score[:-1].max()
    assert told.contributions[-1, 0] > 0.8 * told.score[-1]
