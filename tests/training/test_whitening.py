"""Whitening: what deviations are multiplied by, so that what usually goes together counts once."""

import dataclasses

import numpy as np
import pytest
import torch

from training.calibrate import build
from training.preprocessing import Preprocessing
from training.views import View
from training.whitening import Whitened, whitening

from .conftest import TINY
from .mixed import FEATURES, rows

RIDGE = 0.01


def deviations(n=4_000, slots=5, seed=0):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(n, slots)) @ random.normal(size=(slots, slots)) * 10.0 ** (np.arange(slots) % 4 - 2)
    return torch.from_numpy((mixed - mixed.mean(0)).astype(np.float32))


def correlations(values):
    return torch.corrcoef(values.double().T)


@pytest.mark.parametrize(("n", "slots"), [(4_000, 5), (5, 5), (40, 80)], ids=["tall", "square", "wide"])
def test_in_units_of_the_slots_it_is_the_symmetric_root_of_the_inverse_of_their_correlations(n, slots):
    values = deviations(n, slots)
    unit = torch.sqrt((values.double() ** 2).mean(0))
    usual = values.double() / unit
    root = whitening(values, RIDGE).double() * unit[:, None] / unit
    torch.testing.assert_close(root, root.T, rtol=1e-4, atol=1e-5)
    ridged = usual.T @ usual / n + RIDGE * torch.eye(slots)
    torch.testing.assert_close(root @ root @ ridged, (1 + RIDGE) * torch.eye(slots).double(), rtol=1e-3, atol=1e-3)


def test_what_varies_together_no_longer_does_and_each_slot_keeps_its_unit():
    values = deviations()
    white = values @ whitening(values, 1e-6)
    assert (correlations(values) - torch.eye(5)).abs().max() > 0.5
    torch.testing.assert_close(correlations(white), torch.eye(5).double(), rtol=0, atol=1e-2)
    torch.testing.assert_close(white.std(0), values.std(0), rtol=1e-2, atol=0)
    units = torch.tensor([3.0, 1.0, 0.2, 7.0, 50.0])
    rescaled = (values * units) @ whitening(values * units, RIDGE) / units
    torch.testing.assert_close(rescaled, values @ whitening(values, RIDGE), rtol=1e-3, atol=1e-3)


def test_slots_that_vary_with_no_other_or_not_at_all_stay_as_they_are():
    values = deviations(slots=4)
    random = torch.from_numpy(np.random.default_rng(1).normal(size=(4_000, 1)).astype(np.float32))
    matrix = whitening(torch.cat([values, torch.zeros(4_000, 1), random], 1), RIDGE)
    torch.testing.assert_close(matrix[4], torch.eye(6)[4])
    torch.testing.assert_close(matrix[:, 4], torch.eye(6)[4])
    torch.testing.assert_close(matrix[5, 5], torch.tensor(1.0), rtol=0, atol=1e-2)
    torch.testing.assert_close(whitening(torch.zeros(9, 3), RIDGE), torch.eye(3))
    torch.testing.assert_close(whitening(torch.zeros(2, 5), RIDGE), torch.eye(5))


def seen_in_view(x):
    preprocessing = Preprocessing(FEATURES, x)
    slots = preprocessing(torch.from_numpy(x))
    view = View(preprocessing, slots, wide=True)
    return view, view(slots, torch.zeros_like(slots.y)), slots


def test_a_record_that_goes_another_way_than_its_values_usually_do_is_farther_than_one_that_goes_their_way():
    random = np.random.default_rng(2)
    values = random.normal(size=(1_000, 1)) * [[1, 1]] + 0.1 * random.normal(size=(1_000, 2))
    matrix = whitening(torch.from_numpy(values.astype(np.float32)), RIDGE)
    along, across = ((torch.tensor([value]) @ matrix).norm().item() for value in ([1.0, 1.0], [1.0, -1.0]))
    assert across > 5 * along


def test_groups_are_not_taken_for_the_way_in_which_values_vary_together():
    """Two groups that lie apart in two columns, which within each have nothing to do with each other."""
    random = np.random.default_rng(2)
    apart = 40 * (np.arange(600) % 2)[:, None] + random.normal(size=(600, 2))
    seen = torch.from_numpy((apart - apart.mean(0)).astype(np.float32))
    config = dataclasses.replace(TINY, groups=2)
    view = View.__new__(View)
    torch.nn.Module.__init__(view)
    matrix = Whitened(view, seen, config, np.random.default_rng(0)).matrix
    torch.testing.assert_close(matrix, torch.eye(2), rtol=0, atol=0.1)
    assert whitening(seen, RIDGE)[0, 1].abs() > 1


def test_the_same_draw_gives_the_same_matrix_and_the_view_is_multiplied_by_it():
    view, seen, slots = seen_in_view(rows(300, seed=1))
    one, two = (Whitened(view, seen, TINY, np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(one.matrix, two.matrix)
    torch.testing.assert_close(one(slots, torch.zeros_like(slots.y)), seen @ one.matrix)


@pytest.mark.parametrize(("held", "most", "kind"), [(0, 1_000, View), (120, 1_000, Whitened), (120, 20, View)])
def test_only_where_other_records_calibrate_and_slots_are_few_are_the_centres_in_a_whitened_view(fitted, held, most, kind):
    """A matrix of that many numbers would know the records that it was made from."""
    preprocessing, nets, x, fold = fitted
    config = dataclasses.replace(TINY, whiten_most=most)
    scorer, _ = build(preprocessing, nets, x, fold, rows(120, seed=3)[:held], config)
    assert type(scorer.distances[1].view) is kind
