"""From a score to a p-value, a threshold and a verdict: conformal calibration, in plain NumPy.

Let c_1 <= ... <= c_n be honest scores of normal records: of records held out, from which no preprocessing, net or memory was made
(split-conformal; for the surprise they do set its scale), or, in a small table, of training records each judged without itself.
For a new normal record, exchangeable with records held out, and a score made without them, p = (1 + #{c_i >= score}) / (n + 1)
satisfies P(p <= alpha) <= alpha (Vovk et al. 2005; Bates et al. 2023); for the other cases the rate is measured: docs/scoring.md.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Context

import numpy as np
from numpy.typing import NDArray

ROUNDING = 4 * np.finfo(np.float64).eps  # relative; more than four operations lose
SEVERITIES = ("low", "medium", "high", "critical")


class UnsupportedAlphaError(ValueError):
    """n calibration records cannot support so small an alpha; `smallest` is what they do."""

    def __init__(self, alpha: float, n: int) -> None:
        self.smallest = smallest_alpha(n)
        super().__init__(
            f"alpha {alpha:g} is below {rounded_up(self.smallest)}, the smallest that {n} calibration records support"
        )


def smallest_alpha(n: int) -> float:
    """1 / (n + 1): the p-value of a record that scores above all n calibration records."""
    return 1 / (n + 1)


def rounded_up(alpha: float) -> str:
    """A smallest alpha in six digits, rounded up: what a person is told must be one that is taken."""
    shown = f"{alpha:.6g}"
    return shown if float(shown) >= alpha else f"{Context(6, ROUND_CEILING).create_decimal(alpha):g}"


def p_values(calibration: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) conformal p-values of scores (N,); calibration (n,) ascending, of the same dtype."""
    at_least = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return (1 + at_least) / (len(calibration) + 1)


def flagged_ranks(n: int, alpha: float) -> int:
    """How many of the p-values that n calibration scores can give, 1 / (n + 1), 2 / (n + 1) and so on below 1, are at most alpha:
    by the very comparison that flags a record.
    """
    return int(np.count_nonzero((1 + np.arange(n)) / (n + 1) <= alpha))


def threshold(calibration: NDArray[np.float32], alpha: float) -> float:
    """The smallest float32 score whose p-value is at most alpha. Raises UnsupportedAlphaError where n is too small for it."""
    n = len(calibration)
    if smallest_alpha(n) > alpha:
        raise UnsupportedAlphaError(alpha, n)
    return float(np.nextafter(calibration[n - flagged_ranks(n, alpha)], np.float32(np.inf)))


def benjamini_hochberg(p: NDArray[np.float64], fdr: float) -> NDArray[np.bool_]:
    """(N,) the largest set whose expected share of false alarms is at most fdr (Benjamini & Hochberg 1995).

    p-values are shares of whole numbers, so that many lie on the very boundary: a few roundings must not take them from there.
    """
    order = np.argsort(p, kind="stable")
    limits = fdr * np.arange(1, len(p) + 1) / len(p)
    passed = np.flatnonzero(p[order] <= limits * (1 + ROUNDING))
    marked = np.zeros(len(p), dtype=bool)
    if len(passed):
        marked[order[: passed[-1] + 1]] = True
    return marked


def reach(calibration: NDArray[np.float32]) -> float:
    """How far the calibration scores (n,) reach from their median to their maximum."""
    return float(calibration[-1]) - float(calibration[len(calibration) // 2])


def severity(
    calibration: NDArray[np.float32], scores: NDArray[np.float32], p: NDArray[np.float64], alpha: float
) -> NDArray[np.int8]:
    """(N,) places in SEVERITIES.

    low: p > alpha. medium: p <= alpha. high: also above every calibration score, or p <= alpha / 10.
    critical: above them by more than they reach from their median to their maximum.
    """
    highest = calibration[-1]
    level = (p <= alpha).astype(np.int8)
    level += (level == 1) & ((scores > highest) | (p <= alpha / 10))
    level += (level == 2) & (scores.astype(np.float64) - highest > reach(calibration))
    return level
