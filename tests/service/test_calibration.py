"""Conformal p-values: valid, consistent with the threshold, and refused where n cannot support them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.calibration import (
    UnsupportedAlphaError,
    benjamini_hochberg,
    p_values,
    rounded_up,
    severity,
    smallest_alpha,
    threshold,
)

scores = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60).map(lambda v: np.sort(np.array(v, np.float32)))


@given(scores, st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20), st.floats(0.001, 0.999))
def test_flagged_by_p_value_is_flagged_by_threshold(calibration, new, alpha):
    new = np.array([*new, *calibration], np.float32)
    if alpha < smallest_alpha(len(calibration)):
        with pytest.raises(UnsupportedAlphaError, match="smallest"):
            threshold(calibration, alpha)
        return
    limit = threshold(calibration, alpha)
    assert np.array_equal(p_values(calibration, new) <= alpha, new >= np.float32(limit))


@given(scores, st.floats(-1e6, 1e6, width=32))
def test_the_p_value_is_what_the_definition_says(calibration, score):
    told = p_values(calibration, np.array([score], np.float32))[0]
    assert told == (1 + sum(c >= score for c in calibration)) / (len(calibration) + 1)


def test_at_most_a_share_alpha_of_exchangeable_records_is_flagged():
    random = np.random.default_rng(0)
    for n, alpha in ((19, 0.05), (99, 0.01), (500, 0.1)):
        flagged = [
            (
                p_values(np.sort(random.normal(size=n).astype(np.float32)), random.normal(size=50).astype(np.float32)) <= alpha
            ).mean()
            for _ in range(2_000)
        ]
        assert np.mean(flagged) < alpha + 4 * np.std(flagged) / len(flagged) ** 0.5
        assert np.mean(flagged) > alpha - 4 * np.std(flagged) / len(flagged) ** 0.5


def by_definition(ranks, n, fdr):
    """In whole numbers: the ranks, of p = rank / (n + 1), of the largest set that Benjamini and Hochberg allow."""
    found, share = sorted(ranks), Fraction(str(fdr))
    best = max((k for k in range(1, len(ranks) + 1) if Fraction(found[k - 1], n + 1) <= share * k / len(ranks)), default=0)
    return [best > 0 and rank <= found[best - 1] for rank in ranks]


@st.composite
def many_at_the_boundary(draw):
    """Ranks, n and fdr; some ranks are as large as the boundary of some k allows, or one larger."""
    n, fdr = draw(st.integers(1, 2000)), draw(st.integers(1, 9999)) / 10_000
    count = draw(st.integers(1, 60))
    at = [int(Fraction(str(fdr)) * k * (n + 1) / count) for k in range(1, count + 1)]
    rank = st.integers(1, n + 1) | st.sampled_from([min(max(1, most + more), n + 1) for most in at for more in (0, 1)])
    return draw(st.lists(rank, min_size=count, max_size=count)), n, fdr


@given(many_at_the_boundary())
@settings(max_examples=500)
@example(([1] * 29, 99, 0.01))
@example(([3] * 7, 99, 0.03))
def test_benjamini_hochberg_is_the_slow_definition(case):
    ranks, n, fdr = case
    assert benjamini_hochberg(np.array(ranks) / (n + 1), fdr).tolist() == by_definition(ranks, n, fdr)


def test_severity_rises_with_the_score():
    calibration = np.arange(100, dtype=np.float32)
    new = np.array([0, 50, 96, 99.5, 148, 200, 1e30], np.float32)
    level = severity(calibration, new, p_values(calibration, new), alpha=0.05)
    assert level.tolist() == [0, 0, 1, 2, 2, 3, 3]


def test_severity_at_its_very_bounds():
    calibration = np.arange(100, dtype=np.float32)  # of which the median is 50, and the largest 49 above it
    beyond = np.nextafter(np.float32([99, 148]), np.float32(np.inf))
    new = np.array([99, beyond[0], 148, beyond[1]], np.float32)
    assert severity(calibration, new, p_values(calibration, new), alpha=0.05).tolist() == [1, 2, 2, 3]


@given(st.integers(1, 10**6))
def test_the_smallest_alpha_that_is_told_is_taken(n):
    shown = float(rounded_up(smallest_alpha(n)))
    assert smallest_alpha(n) <= shown <= smallest_alpha(n) * (1 + 1e-5)
