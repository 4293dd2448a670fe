"""The share that is flagged: what the luck of a calibration set explains is no warning."""

import math

import numpy as np
import pytest
from scipy.stats import betabinom

from service.flagged import PROBABILITY, FlaggedShare, log_tail


@pytest.mark.parametrize(("records", "places", "n"), [(200, 1, 99), (200, 10, 999), (5_000, 10, 999), (1_000, 50, 99)])
def test_the_bound_is_above_the_probability_and_close_where_it_is_small(records: int, places: int, n: int) -> None:
    each = betabinom(records, places, n + 1 - places).logpmf(np.arange(records + 1))
    tails = np.logaddexp.accumulate(each[::-1])[::-1]
    bounds = [log_tail(flagged, records, places, n + 1 - places) for flagged in range(records + 1)]
    assert (bounds > tails - 1e-6).all()
    assert (bounds < tails + 1)[tails < math.log(PROBABILITY)].all()


def test_chance_is_no_warning_and_many_times_alpha_is() -> None:
    """Over calibration sets and streams together, of 200,000 each."""
    random = np.random.default_rng(0)
    for alpha, n in ((0.01, 99), (0.01, 999), (0.05, 99), (0.2, 99), (0.5, 19)):
        places = int(alpha * (n + 1) + 1e-9)
        share = FlaggedShare(alpha, places, n)
        shares = random.binomial(500, random.beta(places, n + 1 - places, 200_000)) / 500
        assert not any(share.warned(one, 500) for one in np.unique(shares))
        assert share.warned(1.0, 500)
        assert not share.warned(1.0, 1)
    assert FlaggedShare(0.01, 10, 999).limit == 0.1
    assert FlaggedShare(0.001, 1, 999).limit == 0.05
    assert not FlaggedShare(0.001, 1, 999).warned(0.04, 1e6)
