"""Figures as scikit-learn's, intervals as SciPy's where it has them, and covering the truth where it does not."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from training import metrics


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("values", [2, 7, 10_000])
def test_auroc_and_average_precision_are_those_of_scikit_learn_with_and_without_ties(seed, values):
    random = np.random.default_rng(seed)
    label = random.random(random.integers(20, 400)) < 0.3
    label[:2] = True, False
    score = (random.integers(0, values, len(label)) + 1.0 * label).astype(np.float32)
    assert metrics.auroc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    assert metrics.average_precision(label, score) == pytest.approx(average_precision_score(label, score), abs=1e-12)
    assert metrics.auroc(label.astype(int), score) == metrics.auroc(label, score)
    for estimate in (metrics.auroc_estimate(label, score), metrics.average_precision_estimate(label, score)):
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
        assert estimate.low < estimate.high
    assert metrics.average_precision_estimate(label, score).value == metrics.average_precision(label, score)


def test_counts_end_with_all_records_and_tell_ties_together():
    counts = metrics.count([True, False, True, False], [2.0, 2.0, 3.0, 1.0])
    assert counts.threshold.tolist() == [3, 2, 1]
    assert counts.true.tolist() == [1, 2, 2]
    assert counts.false.tolist() == [0, 1, 2]


def test_the_interval_of_auroc_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    truth = stats.norm.cdf(1 / math.sqrt(2))  # of N(1, 1) against N(0, 1)
    label = np.arange(100) < 40
    covered = 0
    for _ in range(600):
        estimate = metrics.auroc_estimate(label, random.normal(size=100) + label)
        covered += estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 600 <= 0.98


def test_the_interval_of_average_precision_narrows_with_records_and_is_the_same_each_time():
    random = np.random.default_rng(1)
    label = np.arange(4_000) % 5 == 0
    score = random.normal(size=4_000) + label
    small, large = metrics.average_precision_estimate(label[:200], score[:200]), metrics.average_precision_estimate(label, score)
    assert large.high - large.low < (small.high - small.low) / 2
    assert metrics.average_precision_estimate(label, score) == large


@pytest.mark.parametrize("turned", [False, True])
def test_a_perfect_figure_from_few_records_is_no_certainty(turned):
    label = np.arange(20) < 10
    few = metrics.auroc_estimate(label, np.where(label ^ turned, 1.0, 0.0))
    many = metrics.auroc_estimate(np.repeat(label, 100), np.where(np.repeat(label, 100) ^ turned, 1.0, 0.0))
    if turned:
        assert few.value == few.low == 0 < many.high < few.high < 0.4
    else:
        assert few.value == few.high == 1 > many.low > few.low > 0.6


def test_one_record_of_each_kind_says_next_to_nothing():
    estimate = metrics.auroc_estimate([True, False], [2.0, 1.0])
    assert estimate.value == 1
    assert estimate.low < 0.3


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 50), (1, 50), (25, 50), (50, 50), (7, 20_000)])
def test_the_interval_of_a_rate_is_wilsons(hits, n):
    told = stats.binomtest(hits, n).proportion_ci(method="wilson")
    estimate = metrics.rate_estimate(hits, n)
    assert estimate.value == hits / n
    assert (estimate.low, estimate.high) == pytest.approx((told.low, told.high), abs=1e-12)


@pytest.mark.parametrize(
    ("n", "m", "alpha"), [(99, 500, 0.01), (99, 500, 0.5), (2_000, 20_000, 0.01), (2_000, 20_000, 0.05), (30, 1, 0.2)]
)
def test_the_band_of_false_alarms_is_beta_binomial(n, m, alpha):
    k = math.floor(alpha * (n + 1) + 1e-9)
    told = stats.betabinom(m, k, n + 1 - k).ppf([0.025, 0.975]) / m
    assert metrics.false_alarm_band(n, m, alpha) == pytest.approx(tuple(told), abs=1e-12)


def test_the_band_holds_what_conformal_p_values_really_do():
    random = np.random.default_rng(4)
    low, high = metrics.false_alarm_band(200, 300, 0.1)
    inside = 0
    for _ in range(500):
        calibration, fresh = np.sort(random.random(200)), random.random(300)
        p = (1 + 200 - np.searchsorted(calibration, fresh)) / 201
        inside += low <= (p <= 0.1).mean() <= high
    assert 0.93 <= inside / 500 <= 0.99


def test_an_alpha_that_the_calibration_cannot_support_gives_no_alarms():
    assert metrics.false_alarm_band(50, 1_000, 0.01) == (0, 0)


@pytest.mark.parametrize("label", [[True, True], [False, False]])
def test_figures_that_need_both_kinds_say_so(label):
    with pytest.raises(ValueError, match="one of each is needed"):
        metrics.auroc(label, [1.0, 2.0])
    with pytest.raises(ValueError, match="one of each is needed"):
        metrics.average_precision_estimate(label, [1.0, 2.0])


def test_rates_and_bands_of_nothing_are_refused():
    for hits, n in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="is none"):
            metrics.rate_estimate(hits, n)
    with pytest.raises(ValueError, match="no band"):
        metrics.false_alarm_band(10, 0, 0.1)
    with pytest.raises(ValueError, match="one anomaly at least"):
        metrics.average_precision([False], [1.0])


def test_the_interval_of_a_difference_of_aurocs_covers_the_truth_and_is_narrower_than_two_apart():
    random = np.random.default_rng(3)
    label = np.arange(120) < 50
    truth = stats.norm.cdf(1.2 / math.sqrt(2)) - stats.norm.cdf(1 / math.sqrt(2))
    covered = 0
    for _ in range(600):
        common = random.normal(size=120)  # two scores of one record are alike
        old, new = (0.8 * common + 0.6 * random.normal(size=120) + shift * label for shift in (1, 1.2))
        told = metrics.auroc_difference(label, old, new)
        assert told.value == pytest.approx(metrics.auroc(label, new) - metrics.auroc(label, old), abs=1e-12)
        covered += told.low <= truth <= told.high
    assert 0.92 <= covered / 600 <= 0.98
    old_alone, new_alone = metrics.auroc_estimate(label, old), metrics.auroc_estimate(label, new)
    assert told.high - told.low < (old_alone.high - old_alone.low) + (new_alone.high - new_alone.low)
    assert metrics.auroc_difference(label, old, old) == metrics.Estimate(0, 0, 0)
    with pytest.raises(ValueError, match="0 anomalies"):
        metrics.auroc_difference([False, False], [1, 2], [1, 2])


@pytest.mark.parametrize("values", [3, 10_000])
def test_rank_correlation_is_that_of_scipy_and_its_interval_covers_the_truth(values):
    random = np.random.default_rng(values)
    truth, covered = 6 / math.pi * math.asin(0.7 / 2), 0  # Spearman's of two normal numbers correlated by 0.7
    for _ in range(400):
        one = random.normal(size=80)
        other = 0.7 * one + math.sqrt(1 - 0.49) * random.normal(size=80)
        if values == 3:
            one, other = np.round(one), np.round(other)
        told = metrics.rank_correlation(one, other)
        assert told.value == pytest.approx(stats.spearmanr(one, other)[0], abs=1e-12)
        covered += told.low <= truth <= told.high
    assert values == 3 or 0.92 <= covered / 400 <= 0.98
    assert metrics.rank_correlation([1, 2, 3, 4], [1, 2, 3, 9]) == metrics.Estimate(1, 1, 1)
    for bad in ([1, 1, 1, 1], [1, 2, 3]):
        with pytest.raises(ValueError, match="no correlation of ranks"):
            metrics.rank_correlation(bad, list(range(len(bad))))
