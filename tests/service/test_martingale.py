"""The test of exchangeability: exact against its law, true to its rate over many calibration sets, and quick to see a change."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from service.calibration import p_values, threshold
from service.martingale import BOUNDS, Counts, Martingale, Ranks, log_probability
from tests.torture.watched import Source, first_alarm


def float32(values: object) -> np.ndarray:
    return np.asarray(values, np.float32)


def test_bins_are_those_of_the_p_values_that_are_not_flagged() -> None:
    random = np.random.default_rng(0)
    calibration, scores = np.sort(float32(random.normal(size=500))), float32(random.normal(size=10_000))
    ranks = Ranks(calibration, 0.01)
    p = p_values(calibration, scores)
    flagged = scores >= threshold(calibration, 0.01)
    bins = np.searchsorted(float32(ranks.bounds) + 1e-6, p[~flagged])
    assert len(ranks.bounds) == len(BOUNDS)
    assert ranks.count(scores).tolist() == np.bincount(bins, minlength=len(ranks.bounds)).tolist()
    assert ranks.expected.sum() == 501 - 5  # intervals, but for the five whose p-values are at most 0.01


@pytest.mark.parametrize("n", [1, 2, 3, 19, 99])
def test_a_few_calibration_records_make_fewer_bins(n: int) -> None:
    ranks = Ranks(np.arange(n, dtype=np.float32), 1 / (n + 1))
    assert (ranks.expected >= 1).all()
    assert ranks.expected.sum() == n  # of n + 1 intervals, all but the first
    assert ranks.count(float32(np.arange(n + 1) - 0.5)).tolist() == ranks.expected.tolist()  # one score in each interval


def test_equal_scores_are_spread_over_their_bins_by_chance() -> None:
    """Half of the records have one score: then p-values as they are given have a heap, and the ranks have none."""
    random = np.random.default_rng(1)

    def draw(n: int) -> np.ndarray:
        return float32(np.where(random.random(n) < 0.5, 3.0, random.normal(size=n)))

    shares = np.zeros(12)
    for _ in range(200):
        ranks = Ranks(np.sort(draw(999)), 0.01)
        counts = ranks.count(draw(2_000))
        shares += counts / counts.sum() / 200
    assert shares == pytest.approx(ranks.expected / ranks.expected.sum(), rel=0.08)


def sequences(expected: Counts, draws: int) -> list[tuple[float, list[Counts]]]:
    """Every sequence of so many draws from the urn, with its probability."""
    told = []
    for bins in product(range(len(expected)), repeat=draws):
        urn, probability, blocks = expected.copy(), 1.0, []
        for b in bins:
            probability *= urn[b] / urn.sum()
            urn[b] += 1
            blocks.append(np.eye(len(expected))[b])
        told.append((probability, blocks))
    return told


def test_the_evidence_is_1_on_average_over_all_that_may_be_drawn() -> None:
    """Which is all that the bound on false warnings needs: exactly, in blocks of any lengths."""
    expected = np.array([1.0, 2.0, 4.0])
    for lengths in ([1] * 5, [2, 3], [1, 3, 1]):
        total = mean = 0.0
        for probability, blocks in sequences(expected, 5):
            martingale, start = Martingale(expected), 0
            for length in lengths:
                martingale.see(np.sum(blocks[start : start + length], axis=0))
                start += length
            total, mean = total + probability, mean + probability * martingale.evidence
        assert total == pytest.approx(1)
        assert mean == pytest.approx(1, abs=1e-9)


def test_a_block_is_as_likely_as_its_draws_one_by_one() -> None:
    urn, block = np.array([3.0, 1.0, 6.5]), [0, 2, 2, 1, 0, 2]
    held, alone = urn.copy(), 0.0
    for b in block:
        alone += np.log(held[b] / held.sum())
        held[b] += 1
    assert log_probability(np.bincount(block).astype(float), urn) == pytest.approx(alone)


def test_nothing_seen_changes_nothing() -> None:
    martingale = Martingale(np.ones(3))
    martingale.see(np.zeros(3))
    assert (martingale.evidence, martingale.records) == (1.0, 0)


def test_a_change_of_everything_at_once_is_evidence_that_float64_holds() -> None:
    martingale = Martingale(np.full(10, 100.0))
    martingale.see(np.eye(10)[0] * 1024)
    assert 1e100 < martingale.evidence < np.inf


@pytest.mark.parametrize(
    ("n", "before", "shift", "within"),
    [
        (1_000, 0, 0.5, 3_000),
        (1_000, 50_000, 0.3, 3_000),
        (1_000, 50_000, -0.3, 3_000),
        (100, 50_000, 0.3, 3_000),
        (5_000, 0, 0.3, 3_000),
    ],
)
def test_a_change_is_seen_soon(n: int, before: int, shift: float, within: int) -> None:
    """Scores that move by a share of their standard deviation, at the start or after long sameness: in nine of ten cases."""
    seen = [first_alarm(Source(n, seed), before, before + within, shift) for seed in range(10)]
    assert sum(at is not None and at > before for at in seen) >= 9


def test_a_change_of_spread_is_seen_too() -> None:
    seen = [first_alarm(Source(1_000, seed), 10_000, 13_000, 0.0, spread=1.5) for seed in range(10)]
    assert sum(at is not None and at > 10_000 for at in seen) >= 9
