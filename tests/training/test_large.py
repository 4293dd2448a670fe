"""Tables too large to be encoded at once: batches are encoded as they are drawn, and a fit takes no more time for more rows."""

import dataclasses

import numpy as np
import pytest
import torch

from training import fit
from training.calibrate import POOL_VALUES, pool_of
from training.config import Config
from training.fit import encoder, fit_nets
from training.preprocessing import Preprocessing
from training.vae import VAE

from .conftest import TINY
from .mixed import FEATURES, rows


@pytest.fixture
def x():
    return rows(400)


def test_a_batch_that_is_encoded_when_it_is_drawn_is_the_same(x, monkeypatch):
    preprocessing, drawn = Preprocessing(FEATURES, x), torch.tensor([7, 0, 399, 7])
    whole = encoder(preprocessing, x, "cpu")(drawn)
    monkeypatch.setattr(fit, "ENCODED_MOST", len(x) * preprocessing.slots - 1)
    given = list[int]()
    preprocessing.register_forward_pre_hook(lambda _, inputs: given.append(len(inputs[0])))
    part = encoder(preprocessing, x, "cpu")(drawn)
    assert given == [len(drawn)]
    for name in whole._fields:
        torch.testing.assert_close(getattr(part, name), getattr(whole, name), rtol=1e-6, atol=1e-6)


def test_the_nets_are_those_that_learn_from_all_at_once(x, monkeypatch):
    fold = (np.arange(len(x)) % TINY.nets).astype(np.int8)
    monkeypatch.setattr(fit, "ENCODED_MOST", 0)
    nets, curves = fit_nets(Preprocessing(FEATURES, x), x, fold, TINY, "cpu", lambda *_: None)
    monkeypatch.undo()
    meant, expected = fit_nets(Preprocessing(FEATURES, x), x, fold, TINY, "cpu", lambda *_: None)
    for curve, other in zip(curves, expected, strict=True):
        np.testing.assert_allclose(curve.validation, other.validation, rtol=1e-3)
    for net, other in zip(nets, meant, strict=True):
        for name, value in net.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("most", "looked_at"), [(10_000, 100), (100, 100), (99, 50), (40, 34)])
def test_of_a_fold_so_many_tell_when_a_net_is_best(x, monkeypatch, most, looked_at):
    monkeypatch.setattr(fit, "VALIDATION_MOST", most)
    fold, seen = (np.arange(len(x)) % TINY.nets).astype(np.int8), set[int]()
    real = VAE.forward

    def forward(net, slots, eps=None, clean=None):
        seen.update([len(slots.y)] if eps is None else [])
        return real(net, slots, eps, clean)

    monkeypatch.setattr(VAE, "forward", forward)
    fit_nets(Preprocessing(FEATURES, x), x, fold, dataclasses.replace(TINY, steps_most=20), "cpu", lambda *_: None)
    assert seen == {looked_at}


@pytest.mark.parametrize(
    ("n", "slots", "expected"),
    [(500, 10, 500), (1_000_000, 10, 20_000), (1_000_000, 4_096, POOL_VALUES // 4_096), (1_000_000, 1_000_000, Config().memory)],
)
def test_the_memories_of_a_wide_table_are_chosen_from_fewer(n, slots, expected):
    pool = pool_of(n, slots, Config(), np.random.default_rng(0))
    assert len(pool) == len(set(pool.tolist())) == expected
    assert pool.max() < n
