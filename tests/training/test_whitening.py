"""Whitening: what deviations are multiplied by, so that ways in which they hardly vary count as much as any."""

import dataclasses

import numpy as np
import pytest
import torch

from training.calibrate import build
from training.preprocessing import Preprocessing
from training.views import View
from training.whitening import FILLING, Variation, Whitened, whitening

from .conftest import TINY
from .mixed import FEATURES, rows

RIDGE = 0.01


def deviations(n=4_000, slots=5, seed=0):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(n, slots)) @ random.normal(size=(slots, slots)) * 10.0 ** (np.arange(slots) % 4 - 2)
    return torch.from_numpy((mixed - mixed.mean(0)).astype(np.float32))


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(("n", "slots"), [(4_000, 5), (5, 5), (40, 80)], ids=["tall", "square", "wide"])
def test_in_units_of_the_slots_ways_of_less_variance_than_the_mean_get_it_and_others_keep_theirs(n, slots, alone):
    values = deviations(n, slots)
    unit = torch.sqrt((values.double() ** 2).mean(0))
    usual = values.double() / unit
    root = whitening(values, RIDGE, alone).double() * unit[:, None] / unit
    torch.testing.assert_close(root, root.T, rtol=1e-4, atol=1e-5)
    correlations = found_by_others(usual.numpy()) if alone else usual.T @ usual / n
    variances, ways = torch.linalg.eigh(correlations)
    became = torch.diagonal(ways.T @ root @ correlations @ root @ ways)
    should = torch.where(variances < 1, variances * (1 + RIDGE) / (variances.clamp(min=0) + RIDGE), variances)
    assert (variances < 0.9).any()
    assert (variances > 1.1).any()
    torch.testing.assert_close(became, should, rtol=1e-3, atol=1e-4)


def found_by_others(usual):
    """Record by record: the squares of its parts in each way that the other quarters tell, alike where those never vary."""
    correlations = np.zeros((usual.shape[1],) * 2)
    for k in range(4):
        others = usual[np.arange(len(usual)) % 4 != k]
        variances, ways = np.linalg.eigh(others.T @ others)
        vary = ways[:, variances > 1e-9].T
        rest = np.eye(usual.shape[1]) - vary.T @ vary
        for record in usual[k::4]:
            correlations += sum((record @ way) ** 2 * np.outer(way, way) for way in vary)
            correlations += record @ rest @ record / max(np.trace(rest), 1) * rest
    return torch.from_numpy(correlations / len(usual))


@pytest.mark.parametrize("n", [20, 200, 2_000])
def test_what_varies_together_by_chance_alone_stays_as_it_is(n):
    """Of 100 slots that have nothing to do with each other, 20 records never vary in 80 ways."""
    independent = torch.from_numpy(np.random.default_rng(n).normal(size=(n, 100)).astype(np.float32))
    most = [torch.linalg.eigvalsh(whitening(independent - independent.mean(0), RIDGE, alone)).max() for alone in (False, True)]
    assert most[1] < 1.7
    assert most[1] < most[0]


def test_each_slot_keeps_its_unit():
    values = deviations()
    units = torch.tensor([3.0, 1.0, 0.2, 7.0, 50.0])
    rescaled = (values * units) @ whitening(values * units, RIDGE, False) / units
    torch.testing.assert_close(rescaled, values @ whitening(values, RIDGE, False), rtol=1e-3, atol=1e-3)


def test_slots_that_vary_with_no_other_or_not_at_all_stay_as_they_are():
    values = deviations(slots=4)
    random = torch.from_numpy(np.random.default_rng(1).normal(size=(4_000, 1)).astype(np.float32))
    matrix = whitening(torch.cat([values, torch.zeros(4_000, 1), random], 1), RIDGE, False)
    torch.testing.assert_close(matrix[4], torch.eye(6)[4])
    torch.testing.assert_close(matrix[:, 4], torch.eye(6)[4])
    torch.testing.assert_close(matrix[5, 5], torch.tensor(1.0), rtol=0, atol=1e-2)
    torch.testing.assert_close(whitening(torch.zeros(9, 3), RIDGE, True), torch.eye(3))
    few = torch.cat([deviations(20, 30), torch.zeros(20, 70)], 1)  # as slots of levels that no record has
    torch.testing.assert_close(whitening(few, RIDGE, True)[:30, :30], whitening(few[:, :30], RIDGE, True))
    torch.testing.assert_close(whitening(few, RIDGE, True)[30:, 30:], torch.eye(70))
    torch.testing.assert_close(whitening(torch.zeros(2, 5), RIDGE, True), torch.eye(5))


def seen_in_view(x):
    preprocessing = Preprocessing(FEATURES, x)
    slots = preprocessing(torch.from_numpy(x))
    view = View(preprocessing, slots, wide=False)
    return view, view(slots, torch.zeros_like(slots.y)), slots


def test_a_record_that_goes_another_way_than_its_values_usually_do_is_farther_than_one_that_goes_their_way():
    random = np.random.default_rng(2)
    values = random.normal(size=(1_000, 1)) * [[1, 1]] + 0.1 * random.normal(size=(1_000, 2))
    matrix = whitening(torch.from_numpy(values.astype(np.float32)), RIDGE, False)
    along, across = ((torch.tensor([value]) @ matrix).norm().item() for value in ([1.0, 1.0], [1.0, -1.0]))
    assert across > 5 * along
    assert along == pytest.approx(2**0.5, rel=0.02)  # what is usual is as far as it was


def test_groups_are_not_taken_for_the_way_in_which_values_vary_together():
    """Two groups that lie apart in two columns, which within each have nothing to do with each other."""
    random = np.random.default_rng(2)
    apart = 40 * (np.arange(600) % 2)[:, None] + random.normal(size=(600, 2))
    seen = torch.from_numpy((apart - apart.mean(0)).astype(np.float32))
    config = dataclasses.replace(TINY, groups=2)
    view = View.__new__(View)
    torch.nn.Module.__init__(view)
    matrix = Whitened(view, seen, config, np.random.default_rng(0), False).matrix
    torch.testing.assert_close(matrix, torch.eye(2), rtol=0, atol=0.1)
    assert whitening(seen, RIDGE, False)[0, 1].abs() > 1


@pytest.mark.parametrize("jitter", [0.0, 1e-3], ids=["last bits", "hardly"])
def test_what_hardly_varies_within_groups_does_not_set_them_apart_by_more_than_it_does(jitter):
    """The levels of three sorts of records: one in each group, but the middle of a group is a mean, and rounded."""
    random = np.random.default_rng(3)
    sort, off = random.integers(0, 3, 6_000), random.normal(size=(6_000, 1))
    told = np.eye(3)[sort] * [0.3, 0.7, 0.9] + jitter * off
    seen = torch.from_numpy(np.column_stack([told, 0.01 * off + 1e-3 * random.normal(size=(6_000, 1))]).astype(np.float32))
    view = View.__new__(View)
    torch.nn.Module.__init__(view)
    matrix = Whitened(view, seen - seen.mean(0), dataclasses.replace(TINY, groups=3), random, False).matrix
    torch.testing.assert_close(matrix, torch.eye(4))


def test_the_same_draw_gives_the_same_matrix_and_the_view_of_a_whole_record_is_multiplied_by_it():
    view, seen, slots = seen_in_view(rows(300, seed=1))
    one, two = (Whitened(view, seen, TINY, np.random.default_rng(3), False) for _ in range(2))
    assert torch.equal(one.matrix, two.matrix)
    whole, white = ~slots.missing.any(1), one(slots, torch.zeros_like(slots.y))
    assert 0 < whole.sum() < len(seen)
    torch.testing.assert_close(white[whole], (seen @ one.matrix)[whole])
    assert not torch.allclose(white[~whole], (seen @ one.matrix)[~whole], atol=1e-2)


@pytest.mark.parametrize("hidden", [1, 3, 6])
def test_what_is_missing_goes_to_where_the_record_is_the_least_odd(hidden):
    """By Chebyshev's bound, beside the least there is."""
    x = rows(600, seed=4)
    view, seen, _ = seen_in_view(x)
    white = Whitened(view, seen, TINY, np.random.default_rng(3), False)
    holes = np.argsort(np.random.default_rng(5).random(x.shape), axis=1) < hidden
    slots = Preprocessing(FEATURES, x)(torch.from_numpy(np.where(holes, np.nan, x).astype(np.float32)))
    start = view(slots, torch.zeros_like(slots.y)).double()
    ended = torch.linalg.solve(white.matrix.double().T, white(slots, torch.zeros_like(slots.y)).double().T).T
    unit = Variation.of(seen - seen.mean(0), False).unit
    ways = white.inverse.double() * unit[:, None] / unit  # of values in units of their slots: symmetric
    largest = torch.linalg.eigvalsh((ways + ways.T) / 2).max()
    for row in range(0, len(x), 40):
        gap = slots.gap[row] > 0
        if not gap.any():
            continue
        there, odd = start[row] / unit, lambda value: value @ ways @ value
        least = there.clone()
        least[gap] = -torch.linalg.solve(ways[gap][:, gap], ways[gap][:, ~gap] @ there[~gap])
        left = odd(ended[row] / unit) - odd(least)
        assert -1e-3 <= left <= 1.01 * largest / (2 * FILLING + 1) ** 2 * ((there - least) ** 2).sum() + 1e-3
        torch.testing.assert_close(ended[row][~gap], start[row][~gap], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("held", "most", "kind"), [(0, 1_000, Whitened), (120, 1_000, Whitened), (0, 20, View), (120, 20, View)])
def test_where_slots_are_few_the_memory_is_in_a_whitened_view(fitted, held, most, kind):
    preprocessing, nets, x, fold = fitted
    config = dataclasses.replace(TINY, whiten_most=most)
    scorer, _ = build(preprocessing, nets, x, fold, rows(120, seed=3)[:held], config)
    assert [type(distance.view) for distance in scorer.distances] == [kind, View]
