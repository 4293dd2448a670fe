"""Which values are missing: odd where the others tell otherwise, and of no account where gaps come by chance."""

import dataclasses

import numpy as np
import pytest
import torch

from service.manifest import Feature
from training.calibrate import build
from training.config import Config
from training.export import export
from training.fit import fit_nets
from training.preprocessing import Preprocessing
from training.presence import presence_of, regress

from .made import folds, scorers_of

FLIGHTS = (
    Feature(name="distance", kind="numeric", low=100, high=900),
    Feature(name="cancelled", kind="boolean"),
    Feature(name="arrival", kind="numeric", low=0, high=24, missing_rate=0.1),
    Feature(name="day", kind="datetime", missing_rate=0.1),
    Feature(name="gate", kind="categorical", categories=("a", "b", "c"), missing_rate=0.2),
)
DISTANCE, CANCELLED, ARRIVAL, DAY, GATE = 0, 1, 2, slice(3, 6), 6
LEAST = Config().presence


def flights(n, seed=0):
    """x (n, 7) of FLIGHTS: a cancelled one has neither an arrival nor a day; gates are missing by chance."""
    draw = np.random.default_rng(seed)
    cancelled = draw.random(n) < 0.1
    parts = draw.uniform(0, 24, n), draw.integers(0, 7, n), draw.integers(1, 13, n)
    columns = [draw.uniform(100, 900, n), cancelled, draw.uniform(0, 24, n), *parts, draw.integers(0, 3, n)]
    x = np.column_stack(columns).astype(np.float32)
    x[cancelled, ARRIVAL] = np.nan
    x[cancelled, DAY] = np.nan
    x[draw.random(n) < 0.2, GATE] = np.nan
    return x


@pytest.fixture(scope="module")
def presence():
    """(preprocessing, presence) of 600 flights."""
    x = flights(600)
    preprocessing = Preprocessing(FLIGHTS, x)
    return preprocessing, presence_of(preprocessing, x, folds(600), LEAST, seed=0)


@pytest.fixture(scope="module")
def scorers():
    """Of 2,000 flights: a scorer that looks at gaps, and one that does not."""
    return scorers_of(FLIGHTS, flights(2_000), flights(400, seed=1), presence=(LEAST, 2.0))


def test_columns_are_looked_at_whose_gaps_the_others_tell(presence):
    preprocessing, told = presence
    assert preprocessing.lacking.tolist() == [ARRIVAL, DAY.start, GATE]
    assert told.ownership.tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]]


def test_gaps_by_chance_are_not_looked_at():
    draw = np.random.default_rng(0)
    for n, share in ((60, 0.2), (300, 0.02), (2_000, 0.2)):
        x = draw.normal(size=(n, 8)).astype(np.float32)
        x[draw.random(x.shape) < share] = np.nan
        features = [Feature(name=f"v{i}", kind="numeric", missing_rate=share) for i in range(8)]
        assert presence_of(Preprocessing(features, x), x, folds(n), LEAST, seed=0) is None
    assert presence_of(Preprocessing(features, np.nan_to_num(x)), np.nan_to_num(x), folds(n), LEAST, seed=0) is None


def test_a_contradiction_costs_nats_and_its_column_has_most_of_them(presence):
    preprocessing, told = presence
    normal = flights(500, seed=2)
    flown = normal[normal[:, CANCELLED] == 0]
    without, with_one = flown.copy(), normal[normal[:, CANCELLED] == 1].copy()
    without[:, ARRIVAL] = np.nan
    with_one[:, DAY] = 12, 3, 6
    usual = told(preprocessing(torch.from_numpy(normal)))
    assert usual.value.max() < 0.5
    for x, feature in ((without, 2), (with_one, 3)):
        term = told(preprocessing(torch.from_numpy(x)))
        assert (term.value > 3).all()
        assert (term.parts.argmax(1) == feature).all()
        torch.testing.assert_close(term.parts.sum(1, keepdim=True), term.value)


def test_a_column_tells_nothing_of_its_own_gaps():
    x = flights(300)
    x[:, CANCELLED] = np.random.default_rng(1).integers(0, 2, 300)  # now arrival and day alone tell of each other
    preprocessing = Preprocessing(FLIGHTS, x)
    told = presence_of(preprocessing, x, folds(300), LEAST, seed=0)
    own = torch.tensor([[preprocessing.slot_column[slot] in columns for slot in range(preprocessing.slots)] for columns in
                        ([ARRIVAL], [3, 4, 5])])  # fmt: skip
    assert (told.weight.T[own] == 0).all()
    assert (told.weight.T[~own] != 0).any()


def test_training_records_are_judged_without_their_fold():
    """A fold whose flights are the other way round is odd to the others, and to itself it would be usual."""
    x = flights(400)
    fold = folds(400)
    odd = fold == 0
    x[odd, CANCELLED] = 1 - x[odd, CANCELLED]
    preprocessing = Preprocessing(FLIGHTS, x)
    told = presence_of(preprocessing, x, fold, 0.0, seed=0) or pytest.fail("others tell nothing")
    slots, own = preprocessing(torch.from_numpy(x)), torch.from_numpy(fold.astype(np.int64))
    logits = (slots.y.clamp(-3, 3)[:, None, :] @ told.weights[own] + told.biases[own][:, None, :])[:, 0]
    meant = torch.nn.functional.binary_cross_entropy_with_logits(
        15 * torch.tanh(logits / 15), slots.y[:, told.place], reduction="none"
    )
    torch.testing.assert_close(told.honest(slots, own).value[:, 0], meant.square().sum(1).sqrt(), rtol=1e-4, atol=1e-5)
    assert told.honest(slots, own).value[odd].median() > 2 * told.honest(slots, own).value[~odd].median()


def test_the_regression_is_at_the_least_of_what_it_minimises():
    draw = torch.Generator().manual_seed(0)
    seen, others = torch.randn(200, 5, generator=draw), torch.ones(5, 2)
    others[0, 1] = 0
    missing = (torch.rand(200, 2, generator=draw) < torch.sigmoid(seen[:, :2] * 2)).float()
    weight, bias = regress(seen, missing, others)
    gap = missing - torch.sigmoid(seen @ weight + bias)
    torch.testing.assert_close(gap.sum(0), torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close(seen.T @ gap * others, 0.1 * weight, atol=0.1, rtol=0)
    assert weight[0, 1] == 0


def test_a_flight_with_an_arrival_that_should_have_none_is_an_anomaly_and_says_why(scorers):
    assert [each.presence is None for each in scorers] == [False, True]
    normal, odd = flights(1_000, seed=3), flights(1_000, seed=3)
    gone = odd[:, CANCELLED] == 0
    odd[gone, ARRIVAL] = np.nan
    odd = odd[gone]
    with torch.no_grad():
        level = [torch.quantile(each(torch.from_numpy(normal)).score, 0.99) for each in scorers]
        told = [each(torch.from_numpy(odd)) for each in scorers]
    flagged = [float((answer.score > bound).float().mean()) for answer, bound in zip(told, level, strict=True)]
    assert flagged[0] > 0.9
    assert flagged[1] < 0.5
    assert (told[0].contributions.argmax(1) == 2).float().mean() > 0.9
    torch.testing.assert_close(told[0].contributions.sum(1, keepdim=True), told[0].score, rtol=1e-5, atol=1e-5)


def test_gaps_by_chance_leave_the_graph_as_it_was():
    """Its bytes are those of a scorer that never asked."""
    torch.set_num_threads(1)
    x = flights(300)[:, [DISTANCE, CANCELLED, GATE]]
    features = [FLIGHTS[place] for place in (0, 1, 4)]
    preprocessing, config = Preprocessing(features, x), Config(hidden=8, latent=4, steps_most=20, evaluate_every=10, memory=50)
    nets, _ = fit_nets(preprocessing, x, folds(300), config, "cpu", lambda *_: None)
    made = (dataclasses.replace(config, presence=least) for least in (LEAST, 2.0))
    scorers = [build(preprocessing, nets, x, folds(300), flights(200, seed=1)[:, [0, 1, 6]], each)[0] for each in made]
    assert export(scorers[0]) == export(scorers[1])
