"""Whether far more live records are flagged than alpha, and more than the luck of the calibration set explains.

If live and calibration scores are exchangeable and no two are equal, a live score lies in one of the n + 1 intervals between the
calibration scores by Pólya's urn (service.martingale). The k intervals of p <= alpha then have a beta-binomial number of N live
records: a share of Beta(k, n + 1 - k), drawn once with the calibration set, and N draws.
"""

from __future__ import annotations

import math

TIMES, LEAST = 10, 0.05  # a share is worth a warning above so many alphas, and above so much
PROBABILITY = 0.01 / 100_000  # of so large a share by chance, in a look: 1 % in as many looks as drift of features has


class FlaggedShare:
    """The share of flagged records of one model."""

    def __init__(self, alpha: float, places: int, calibration: int) -> None:
        """Flagged are p <= alpha: `places` of the intervals that so many calibration scores make."""
        self.alpha = alpha
        self._places, self._others = places, calibration + 1 - places
        # A large alpha has no room for ten of it: half way to all is enough then.
        self.limit = min(max(TIMES * alpha, LEAST), (1 + alpha) / 2)

    def warned(self, share: float, records: float) -> bool:
        """Whether this share of so many records is above the limit, and beyond chance."""
        if share <= self.limit or not self._places:
            return False
        return log_tail(share * records, records, self._places, self._others) < math.log(PROBABILITY)


def log_tail(flagged: float, records: float, places: int, others: int) -> float:
    """An upper bound of the log-probability that so many of the records or more are flagged. Neither needs to be whole.

    Beyond the mode a probability has at most `ratio` of the one before, and these ratios fall: a geometric series is above them.
    """
    rest = records - flagged
    ratio = rest * (places + flagged) / ((flagged + 1) * max(others + rest - 1, 1e-9))
    if ratio >= 1:
        return 0.0
    ways = math.lgamma(records + 1) - math.lgamma(flagged + 1) - math.lgamma(rest + 1)
    drawn = math.lgamma(places + flagged) - math.lgamma(places) + math.lgamma(others + rest) - math.lgamma(others)
    every = math.lgamma(places + others + records) - math.lgamma(places + others)
    return min(0.0, ways + drawn - every - math.log1p(-ratio))
