"""Missing values in distances: they count for less than what is there, and for more than nothing."""

import numpy as np
import pytest
import torch

from service.manifest import Feature
from training.config import Config
from training.gaps import FILLED, REMEMBERED, UNKNOWN, counts_of, trust, unknown
from training.memory import Memory, nearest_other, place_of, squared_distance
from training.preprocessing import Preprocessing
from training.views import View

from .mixed import FEATURES, rows


def made(x, features=FEATURES):
    preprocessing = Preprocessing(features, x)
    slots = preprocessing(torch.from_numpy(x))
    view = View(preprocessing, slots, wide=False)
    seen = view(slots, torch.zeros_like(slots.y))
    owned = preprocessing.slot_ownership(), preprocessing.slot_levels()
    memory = Memory(view, *owned, seen, slots.gap, Config(memory=64), np.random.default_rng(0))
    return memory, slots, seen


def blanked(n, seed, share=0.2):
    x = rows(n, seed=seed)
    x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    return x


def test_the_values_that_are_there_count_as_much_more_and_a_whole_record_as_it_is():
    preprocessing = Preprocessing(FEATURES, blanked(50, 1))
    slots = preprocessing(torch.from_numpy(blanked(50, 1)))
    counts = counts_of(slots, torch.full((50, 1), 1.5), preprocessing.reals)
    numbers, levels = (slots.gap > 0).split([preprocessing.reals, preprocessing.slots - preprocessing.reals], 1)
    assert numbers.any()
    assert (counts[:, : preprocessing.reals][numbers] == FILLED).all()
    assert levels.any()
    assert (counts[:, preprocessing.reals :][levels] == 0).all()
    assert (counts[slots.gap == 0] == 1.5).all()
    assert (counts_of(slots, torch.ones(50, 1), preprocessing.reals)[slots.gap == 0] == 1).all()  # to the last bit


def test_what_a_remembered_record_was_filled_in_with_counts_less_beside_its_other_values():
    gap = torch.tensor([[0.0, 0, 1, 1], [0, 0, 0, 0]])
    told = trust(gap)
    torch.testing.assert_close(told.mean(1), torch.ones(2))
    torch.testing.assert_close(told[0, 2] / told[0, 0], torch.tensor(REMEMBERED))
    assert (told[1] == 1).all()
    assert trust(torch.zeros(3, 4)).shape == (0, 4)


def test_parts_are_at_least_0_and_sum_to_the_distance():
    memory, _, _ = made(blanked(300, 1))
    preprocessing = Preprocessing(FEATURES, blanked(300, 1))
    slots = preprocessing(torch.from_numpy(blanked(200, 2)))
    told = memory(slots, torch.zeros_like(slots.y), counts_of(slots, torch.ones(200, 1), preprocessing.reals))
    assert len(memory.trust)
    assert (told.parts >= 0).all()
    torch.testing.assert_close(told.parts.sum(1, keepdim=True), told.value)


def test_a_value_that_is_missing_adds_to_the_distance_of_a_remembered_record():
    """It would be 0 from itself, whatever is missing."""
    memory, slots, seen = made(blanked(64, 1))  # all are remembered
    place = memory.kept
    own = memory.nearest(seen[place], torch.ones_like(seen), 0 * slots.gap, 1 - torch.eye(64)).value
    added = memory.nearest(seen[place], torch.ones_like(seen), (slots.gap * memory.unknown)[place], 1 - torch.eye(64)).value
    gaps = (slots.gap[place] * (memory.unknown > 0)).any(1)
    assert gaps.any()
    assert (~gaps).any()
    assert (added[gaps] > own[gaps]).all()
    assert (added[~gaps] == own[~gaps]).all()


def test_what_a_missing_value_adds_is_told_by_those_that_are_there():
    squared, there = torch.tensor([[1.0, 5, 9], [3, 100, 9]]), torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    assert unknown(squared, there).tolist() == pytest.approx([UNKNOWN * 2, UNKNOWN * 5, 0])


def test_what_a_missing_value_adds_is_the_gap_of_records_that_both_have_it():
    memory, slots, seen = made(blanked(300, 1))
    other = memory.kept[nearest_other(seen, memory.records, place_of(torch.arange(300), memory.kept))]
    for slot in range(seen.shape[1]):
        both = (slots.gap[:, slot] == 0) & (slots.gap[other, slot] == 0)
        mean = ((seen - seen[other])[both, slot] ** 2).mean() if both.any() else torch.tensor(0.0)
        torch.testing.assert_close(memory.unknown[slot], UNKNOWN * mean)


@pytest.mark.parametrize("remembered", [1, 2, 40])
def test_the_nearest_other_record_is_never_the_record_itself(remembered):
    seen = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
    place = torch.where(torch.arange(40) < remembered, torch.arange(40), -1)
    other = nearest_other(seen, seen[:remembered], place)
    distance = torch.cdist(seen.double(), seen[:remembered].double())
    if remembered > 1:
        distance[torch.arange(remembered), torch.arange(remembered)] = torch.inf
    assert torch.equal(other, distance.argmin(1))


def test_of_a_record_with_few_values_these_count_twice_at_most(fitted, exported):
    scorer, _ = exported("surprise")
    preprocessing = fitted[0]
    x = torch.from_numpy(rows(8)).nan_to_num(0)
    for hidden, meant in ((0, 1.0), (1, None), (preprocessing.columns - 1, 2.0), (preprocessing.columns, 2.0)):
        gaps = x.clone()
        gaps[:, :hidden] = torch.nan
        share = 1 - torch.isnan(gaps).float().mean(1, keepdim=True)
        told = scorer.scale(preprocessing(gaps))
        torch.testing.assert_close(told, 1 / share if meant is None else torch.full_like(told, meant))


def test_where_gaps_make_two_records_equally_near_last_bits_decide():
    draw = np.random.default_rng(3)
    x = draw.integers(0, 2, (300, 4)).astype(np.float32)
    x[draw.random(x.shape) < 0.3] = np.nan
    levels = Feature(name="c", kind="categorical", categories=("a", "b"), missing_rate=0.3)
    memory, slots, _ = made(x, tuple(levels.model_copy(update={"name": f"c{place}"}) for place in range(4)))
    out, counts = torch.zeros_like(slots.y), counts_of(slots, torch.full((len(x), 1), 1.3), 0)
    seen, added = memory.view(slots, out), slots.gap * memory.unknown
    candidates = memory.distance(seen, slots.gap).topk(memory.candidates, largest=False)[1]
    squared = (memory.exact(seen, counts, added, candidates).sum(2) * memory.weight[candidates]).sort(1)[0]
    k = memory.neighbours
    alike = (squared[:, k] - squared[:, k - 1] < 1e-6 * squared[:, k]) & (squared[:, k] > 0)
    plain = (squared_distance(seen, memory.records) * memory.weight).sort(1)[0]
    apart = plain[:, k] - plain[:, k - 1] > 1e-3 * plain[:, k]
    assert (alike & apart).any()  # equally near, though not by the distances that choose candidates
    assert memory.ambiguous(slots, out, counts, 1e-4)[alike].all()


@pytest.mark.parametrize("column", [2, 3, 4])
def test_a_level_that_is_missing_is_not_far_where_records_lie_close_together(column):
    """Half of each level is near none: beside two numbers it would be farther than any record is from its neighbours."""
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=(900, 2))
    x = np.column_stack([numbers, draw.integers(0, 3, 900), draw.random(900) < 0.5, draw.random(900) < 0.9]).astype(np.float32)
    names = ("a", "b")
    features = [Feature(name=name, kind="numeric") for name in names]
    features += [Feature(name="c", kind="categorical", categories=("p", "q", "r"))]
    features += [Feature(name=name, kind="boolean") for name in ("d", "e")]
    preprocessing = Preprocessing(features, x)
    slots = preprocessing(torch.from_numpy(x))
    view = View(preprocessing, slots, wide=False)
    owned, out = (preprocessing.slot_ownership(), preprocessing.slot_levels()), torch.zeros_like(slots.y)
    memory = Memory(view, *owned, view(slots, out), slots.gap, Config(), draw)
    scale, rows = torch.ones(900, 1), torch.arange(900)
    whole = memory.honest(slots, out, counts_of(slots, scale, preprocessing.reals), rows).value
    x[:, column] = np.nan
    slots = preprocessing(torch.from_numpy(x))
    lacking = memory.honest(slots, out, counts_of(slots, scale, preprocessing.reals), rows).value
    assert (lacking <= whole * (1 + 1e-4)).all()  # of those that are near, more are as near
    assert lacking.median() > whole.median() / 2
