"""Centres: k-means that ends the same way each time, and distances that features share out."""

import numpy as np
import pytest
import torch

from training.centres import SCATTER_LEAST, Centres, assign, k_means
from training.config import Config
from training.preprocessing import Preprocessing
from training.views import View

from .mixed import FEATURES, rows


def made(x, **changes):
    preprocessing = Preprocessing(FEATURES, x)
    slots = preprocessing(torch.from_numpy(x))
    out = torch.zeros_like(slots.y)
    view = View(preprocessing, slots, wide=True)
    config = Config(**changes)
    return (
        Centres(view, preprocessing.slot_ownership(), view(slots, out), slots.gap, config, np.random.default_rng(0)),
        slots,
        out,
    )


def test_every_record_is_given_to_its_nearest_centre_which_is_the_mean_of_its_own():
    random = np.random.default_rng(1)
    groups = torch.from_numpy(np.concatenate([random.normal(at, 0.1, (40, 3)) for at in (-3, 0, 4)]).astype(np.float32))
    centres, assigned = k_means(groups, 3, np.random.default_rng(0))
    assert torch.equal(assigned, assign(groups, centres))
    assert sorted(np.bincount(assigned).tolist()) == [40, 40, 40]
    for k in range(3):
        torch.testing.assert_close(centres[k], groups[assigned == k].mean(0), rtol=1e-4, atol=1e-4)
    again, _ = k_means(groups, 3, np.random.default_rng(0))
    assert torch.equal(again, centres)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_records_that_are_all_the_same_have_centres_too(n):
    centres, assigned = k_means(torch.ones(n, 2), n, np.random.default_rng(0))
    assert torch.equal(centres[assigned], torch.ones(n, 2))


def test_records_that_lie_on_their_centres_leave_some_room_around_them():
    centres, slots, out = made(np.repeat(rows(6, seed=1), 50, axis=0), centre_records=4)
    least = SCATTER_LEAST * (centres.view(slots, out) ** 2).sum(1).mean()
    assert (centres.scatter >= 0.999 * least).all()


def test_parts_are_at_least_0_and_sum_to_the_distance():
    centres, _, _ = made(rows(300, seed=1))
    x = rows(200, seed=2)
    x[np.random.default_rng(3).random(x.shape) < 0.2] = np.nan
    preprocessing = Preprocessing(FEATURES, rows(300, seed=1))
    slots = preprocessing(torch.from_numpy(x))
    told = centres(slots, torch.zeros_like(slots.y), slots.seen)
    assert (told.parts >= 0).all()
    torch.testing.assert_close(told.parts.sum(1, keepdim=True), told.value)


def test_without_itself_a_record_is_farther_and_a_lone_one_belongs_to_another_centre():
    x = rows(300, seed=1)
    x[7, 0] = 9_000  # far from all others: a centre of its own
    centres, slots, out = made(x, centre_records=4)
    own = int(centres.assigned[7])
    assert int(centres.counts[own]) == 1
    every = torch.arange(len(x))
    alone, naive = centres.honest(slots, out, slots.seen, every).value, centres(slots, out, slots.seen).value
    whole = ~(slots.gap > 0).any(1)  # with gaps, what is nearest by all slots need not be by those that count
    assert whole.sum() > 50
    assert (alone >= naive - 1e-5)[whole].all()
    assert alone[7] > 2 * naive[7]
