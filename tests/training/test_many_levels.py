"""A category of 10,000 levels: the graph stays small, and rare levels, unknown ones and rare combinations still stand out."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch

from service.bundle import read_bundle
from service.manifest import Feature
from service.session import Session
from training import train as story
from training.calibrate import build
from training.data import read_dataset
from training.export import export
from training.preprocessing import LEVELS, Preprocessing
from training.vae import VAE

from .conftest import TINY

MANY = 10_000
SHOP, KIND, AMOUNT = range(3)  # columns of x
FREQUENT = 4  # shops that a fifth of the rows each go to, and kinds; shop i sells kind i


def make(random):
    """Columns of 100,000 rows: a tenth in shops of one row; a frequent shop sells nearly always its own kind, the others any."""
    some, few = np.repeat(np.arange(FREQUENT, 60), 170), np.repeat(np.arange(60, 160), 20)
    shop = np.concatenate([np.arange(MANY), np.repeat(np.arange(FREQUENT), 20_000), some, few])
    kind = random.integers(0, FREQUENT, len(shop))
    own = (shop < FREQUENT) & (random.random(len(shop)) > 0.002)
    kind[own] = shop[own]
    order = random.permutation(len(shop))
    return shop[order], kind[order], (kind + 0.5 * random.normal(size=len(shop)))[order]


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """(bundle, dataset) of a fit through the table."""
    folder = tmp_path_factory.mktemp("levels")
    cells = zip(*make(np.random.default_rng(0)), strict=True)
    lines = [f"shop{shop},kind{kind},{amount:.3f}" for shop, kind, amount in cells]
    (folder / "t.csv").write_text("\n".join(["shop,kind,amount", *lines]) + "\n")
    dataset = read_dataset(folder / "t.csv")
    config = dataclasses.replace(
        TINY, hidden=32, steps_most=240, evaluate_every=80, memory=200, pool=2_000, calibration_most=2_000
    )
    return read_bundle(story.train(dataset, "m", folder / "models", config, lambda *_: None).folder), dataset


@pytest.fixture(scope="module")
def judge(fit):
    """A function: answers to the same 100 records, of kinds 0 to 3 in turn, with these shops and kinds instead."""
    bundle, _ = fit
    session = Session(bundle.files["scorer.onnx"], 3, "cpu")
    features = bundle.manifest.features
    code = {name: place for feature in features[:2] for place, name in enumerate(feature.categories)}
    usual = np.tile(np.arange(FREQUENT), 25)

    def answers(shops, kinds=usual):
        x = np.empty((len(usual), 3), np.float32)
        x[:, SHOP] = [code.get(f"shop{shop}", MANY) for shop in shops]
        x[:, KIND] = [code[f"kind{kind}"] for kind in kinds]
        x[:, AMOUNT] = kinds
        return session.run(x, explain=True)

    return answers, usual


def test_all_levels_of_the_records_that_train_are_known_without_a_word(fit):
    """A tenth of the rows is alone with its shop, and a fiftieth of them is held out."""
    bundle, dataset = fit
    assert len(dataset.features[SHOP].categories) == MANY
    assert 0.97 * MANY < len(bundle.manifest.features[SHOP].categories) < 0.99 * MANY
    assert dataset.warnings == ()


def test_the_graph_is_as_large_as_with_63_levels_but_for_one_number_a_level():
    graphs = {}
    for levels in (LEVELS - 1, MANY):
        random = np.random.default_rng(0)
        features = (
            Feature(name="shop", kind="categorical", categories=tuple(f"shop{i}" for i in range(levels))),
            Feature(name="amount", kind="numeric", low=-4, high=4),
        )
        x = np.column_stack([np.minimum(random.geometric(0.02, 400), levels) - 1, random.normal(size=400)]).astype(np.float32)
        preprocessing = Preprocessing(features, x)
        torch.manual_seed(0)
        nets = [VAE(preprocessing, TINY).eval() for _ in range(TINY.nets)]
        scorer, _ = build(preprocessing, nets, x, (np.arange(400) % TINY.nets).astype(np.int8), x[:0], TINY)
        graphs[levels] = export(scorer)
    for name in graphs[MANY]:
        few, many = graphs[LEVELS - 1][name], graphs[MANY][name]
        nodes = [len(onnx.load_from_string(graph).graph.node) for graph in (few, many)]
        assert nodes[1] - nodes[0] <= 10, name
        assert len(many) - len(few) < 4 * (MANY + 1) + 2_000, name


def test_a_rare_level_is_more_of_a_surprise_than_a_frequent_one_and_an_unknown_one_than_all(judge):
    answers, usual = judge
    frequent = answers(usual)
    rare = answers(range(5_000, 5_100))
    unknown = answers(["nowhere"] * len(usual))
    for more, less in ((rare, frequent), (unknown, frequent)):
        assert (more.score > less.score).mean() > 0.95
        assert (more.contributions[:, SHOP] > less.contributions[:, SHOP]).mean() > 0.95
        assert np.median(more.score) > np.median(less.score) + 0.75
        assert (more.reconstruction_error > less.reconstruction_error).all()
    assert (unknown.score >= rare.score).all()
    assert (unknown.reconstruction_error >= rare.reconstruction_error).all()


def test_no_known_level_is_more_of_a_surprise_than_an_unknown_one(fit):
    """Of all 10,000 in one record, nothing else changed: those that share a slot are ordered by how rare they are."""
    bundle, dataset = fit
    x = np.repeat(np.array([[0, 0, 0]], np.float32), MANY + 1, 0)
    x[:, SHOP] = range(MANY + 1)
    score = Session(bundle.files["scorer.onnx"], 3, "cpu").run(x, explain=False).score
    sharing = score[LEVELS - 1 :]
    assert sharing.max() == sharing[-1] > sharing[0]
    count = np.bincount(dataset.x[:, SHOP].astype(int), minlength=MANY)[LEVELS - 1 :]
    assert np.median(sharing[:-1][count == 1]) > np.median(sharing[:-1][count > 15])


def test_a_rare_combination_of_frequent_levels_is_more_of_a_surprise_than_a_frequent_one(judge):
    answers, usual = judge
    frequent, rare = answers(usual), answers((usual + 1) % FREQUENT)
    assert (rare.score > frequent.score).mean() > 0.95
    assert np.median(rare.score) > np.median(frequent.score) + 2
    pair = rare.contributions[:, [SHOP, KIND]].sum(1)
    assert np.median(pair / rare.score) > 0.5  # it is these two that are blamed
