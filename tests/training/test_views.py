"""Views: a level that no training record has is as odd as the training records say that new levels are."""

import numpy as np
import pytest
import torch

from service.manifest import Feature
from training.calibrate import build
from training.preprocessing import Preprocessing
from training.vae import VAE
from training.views import NEW_MOST, NEW_SHARE, View, of_the_new, rarity

from .conftest import TINY

COLUMNS, LEVELS, ROWS = 8, 4, 800
CATEGORIES = tuple(
    Feature(name=f"c{place}", kind="categorical", categories=tuple(map(str, range(LEVELS)))) for place in range(COLUMNS)
)


def test_a_new_level_counts_by_the_root_of_how_rare_new_levels_are():
    assert rarity(0, round(1 / NEW_SHARE) - 1) == 1
    assert rarity(0, 4 * round(1 / NEW_SHARE) - 1) == pytest.approx(2)
    assert rarity(3, 4 * round(1 / NEW_SHARE) - 1) == 1
    assert rarity(0, 1_000_000) == NEW_MOST
    assert rarity(30, 2_000) < rarity(10, 2_000) < rarity(0, 2_000)


def test_only_slots_that_no_training_record_has_count_more():
    draw = np.random.default_rng(0)
    features = (
        Feature(name="few", kind="categorical", categories=("a", "b", "c")),
        Feature(name="many", kind="categorical", categories=tuple(map(str, range(500)))),  # more than there are slots for
        Feature(name="alone", kind="categorical", categories=tuple(map(str, range(60)))),
        Feature(name="never", kind="boolean"),
        Feature(name="often", kind="boolean"),
    )
    n = 600
    alone = np.concatenate([np.arange(59), np.full(n - 59, 59)])  # a tenth of the records have a level that no other has
    columns = draw.integers(0, 3, n), np.arange(n) % 500, alone, np.zeros(n), np.arange(n) % 2
    x = np.column_stack(columns).astype(np.float32)
    preprocessing = Preprocessing(features, x)
    slots = preprocessing(torch.from_numpy(x))
    factor = of_the_new(preprocessing, slots)
    assert factor[:2].tolist() == [NEW_MOST, 1]
    new = (factor != 1).nonzero()[:, 0].tolist()
    assert new == [0, 2 + 3]  # the boolean, and the slot behind the three levels
    for wide in (False, True):
        view = View(preprocessing, slots, wide)
        seen = view(slots, slots.y)
        assert torch.isfinite(seen).all()
        usual = view.rate[preprocessing.booleans]
        assert view.rate[2 + 3] == pytest.approx(float(usual) * float(factor[2 + 3]))


@pytest.mark.parametrize("wide", [False, True])
def test_in_the_gap_of_a_category_or_boolean_stands_the_mean_whatever_the_nets_say(wide):
    draw = np.random.default_rng(0)
    features = (*CATEGORIES[:2], Feature(name="yes", kind="boolean"))
    x = np.column_stack([draw.integers(0, LEVELS, (300, 2)), draw.random(300) < 0.8]).astype(np.float32)
    preprocessing = Preprocessing(features, x)
    view = View(preprocessing, preprocessing(torch.from_numpy(x)), wide)
    slots = preprocessing(torch.full((1, 3), torch.nan))
    out = torch.full_like(slots.y, 7.0)
    assert view(slots, out).abs().max() == 0
    whole = preprocessing(torch.from_numpy(x))
    torch.testing.assert_close(view(whole, out).mean(0), torch.zeros(slots.y.shape[1]), rtol=0, atol=1e-5)


def test_a_new_level_stands_out_among_many_categories():
    draw = np.random.default_rng(1)
    x = draw.integers(0, LEVELS, (ROWS, COLUMNS)).astype(np.float32)
    preprocessing = Preprocessing(CATEGORIES, x)
    torch.manual_seed(0)
    nets = [VAE(preprocessing, TINY).eval() for _ in range(TINY.nets)]
    fold = (np.arange(ROWS) % TINY.nets).astype(np.int8)
    scorer, honest = build(preprocessing, nets, x, fold, x[:0], TINY)
    usual = draw.integers(0, LEVELS, (400, COLUMNS)).astype(np.float32)
    odd = usual.copy()
    column = draw.integers(0, COLUMNS, 400)
    odd[np.arange(400), column] = LEVELS
    threshold = np.quantile(honest.score, 0.99)
    with torch.no_grad():
        flagged = [float((scorer(torch.from_numpy(rows)).score[:, 0] > threshold).float().mean()) for rows in (usual, odd)]
    assert flagged[0] < 0.04
    assert flagged[1] > 0.95
    with torch.no_grad():
        reasons = scorer(torch.from_numpy(odd)).contributions.numpy()
    assert (reasons.argmax(1) == column).mean() > 0.95
