"""How well scores tell anomalies from normal records, and how sure one can be of it: figures with 95 % intervals.

As in scikit-learn, labels come first, then scores: is_anomaly (N,), bool or 0 and 1, and score (N,), high being anomalous.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from service.calibration import flagged_ranks

Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution
BOOTSTRAP_RECORDS = 20_000_000  # records drawn in all: what a bootstrap may cost, half a second
BISECTIONS = 60


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """Alarms at each threshold that tells records apart, from the highest: (K,) whole numbers, ending with all records."""

    threshold: NDArray[np.float64]
    true: NDArray[np.int64]  # anomalies scored at least so high
    false: NDArray[np.int64]  # normal records scored at least so high


def count(is_anomaly: ArrayLike, score: ArrayLike) -> Counts:
    """The alarms at each score; records of one score raise theirs together."""
    odd, ordered = _descending(is_anomaly, score)
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    true = np.cumsum(odd)[last]
    return Counts(ordered[last], true, last + 1 - true)


def auroc(is_anomaly: ArrayLike, score: ArrayLike) -> float:
    """The chance that an anomaly scores above a normal record, ties counting half. Raises ValueError without both kinds."""
    anomaly, normal = _both(is_anomaly, score)
    return float(_beaten(anomaly, normal).mean())


def auroc_estimate(is_anomaly: ArrayLike, score: ArrayLike) -> Estimate:
    """auroc with DeLong's interval (1988), on the logit scale, which keeps it within (0, 1).

    Where DeLong's variance is 0 or unknown, as when the two kinds do not overlap, Newcombe's score interval (2006, method 5) is
    taken: a perfect figure from few records is no certainty. Raises ValueError without both kinds.
    """
    anomaly, normal = _both(is_anomaly, score)
    by_anomaly, by_normal = _beaten(anomaly, normal), 1 - _beaten(normal, anomaly)
    value = float(by_anomaly.mean())
    enough = min(len(anomaly), len(normal)) > 1
    variance = by_anomaly.var(ddof=1) / len(anomaly) + by_normal.var(ddof=1) / len(normal) if enough else 0.0
    if variance < 1e-15 or not 0 < value < 1:
        low = _newcombe_low(value, len(anomaly), len(normal))
        return Estimate(value, low, 1 - _newcombe_low(1 - value, len(anomaly), len(normal)))
    centre, reach = math.log(value / (1 - value)), Z * math.sqrt(variance) / (value * (1 - value))
    return Estimate(value, _logistic(centre - reach), _logistic(centre + reach))


def auroc_difference(is_anomaly: ArrayLike, old: ArrayLike, new: ArrayLike) -> Estimate:
    """auroc of the scores `new` less that of `old`, of the same records, with DeLong's interval (1988) for such pairs.

    The interval has no width where both rank all pairs alike. Raises ValueError without both kinds.
    """
    (old_anomaly, old_normal), (new_anomaly, new_normal) = _both(is_anomaly, old), _both(is_anomaly, new)
    by_anomaly = _beaten(new_anomaly, new_normal) - _beaten(old_anomaly, old_normal)
    by_normal = _beaten(old_normal, old_anomaly) - _beaten(new_normal, new_anomaly)
    value, variance = float(by_anomaly.mean()), 0.0
    for part in (by_anomaly, by_normal):
        variance += float(part.var(ddof=1)) / len(part) if len(part) > 1 else 1.0
    reach = Z * math.sqrt(variance)
    return Estimate(value, max(-1.0, value - reach), min(1.0, value + reach))


def rank_correlation(one: ArrayLike, other: ArrayLike) -> Estimate:
    """Spearman's correlation of two scores (N,) of the same records, ties at their mean rank, with its interval.

    The interval is Bonett & Wright's (2000): Fisher's z with a variance of (1 + r^2 / 2) / (N - 3). Raises ValueError for fewer
    than 4 records, or where all of one's scores are the same.
    """
    a, b = (_ranks(np.asarray(scores, np.float64)) for scores in (one, other))
    if len(a) < 4 or min(np.ptp(a), np.ptp(b)) == 0:
        raise ValueError(f"no correlation of ranks: {len(a)} records, {len(np.unique(a))} and {len(np.unique(b))} scores")
    a, b = a - a.mean(), b - b.mean()
    value = float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))
    if abs(value) > 1 - 1e-12:
        return Estimate(value, value, value)
    centre, reach = math.atanh(value), Z * math.sqrt((1 + value**2 / 2) / (len(a) - 3))
    return Estimate(value, math.tanh(centre - reach), math.tanh(centre + reach))


def average_precision(is_anomaly: ArrayLike, score: ArrayLike) -> float:
    """The mean precision over the anomalies, in order of score: the area below the precision-recall steps.

    Records of one score share a precision. Raises ValueError without anomalies.
    """
    counts = count(is_anomaly, score)
    return _average_precision(counts.true, counts.true + counts.false)


def average_precision_estimate(is_anomaly: ArrayLike, score: ArrayLike, seed: int = 0) -> Estimate:
    """average_precision with a percentile bootstrap interval, each kind drawn from its own records; one seed, one interval.

    The interval has no width where anomalies and normal records do not overlap. Raises ValueError without both kinds.
    """
    anomalies, normals = (len(kind) for kind in _both(is_anomaly, score))
    odd, ordered = _descending(is_anomaly, score)
    # Only where anomalies are does the average change: the last record of each score that one of them has.
    last = np.unique(np.searchsorted(-ordered, -ordered[odd], side="right")) - 1
    draw = np.random.default_rng(seed)
    repeats = max(100, min(1_000, BOOTSTRAP_RECORDS // len(ordered)))
    drawn = np.empty(repeats)
    times = np.empty(len(ordered), np.int64)  # how often each record was drawn
    for repeat in range(repeats):
        times[odd] = np.bincount(draw.integers(anomalies, size=anomalies), minlength=anomalies)
        times[~odd] = np.bincount(draw.integers(normals, size=normals), minlength=normals)
        true, every = np.cumsum(times * odd)[last], np.cumsum(times)[last]
        drawn[repeat] = _average_precision(true, every)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(average_precision(odd, ordered), float(low), float(high))


def rate_estimate(hits: int, n: int) -> Estimate:
    """The rate hits / n with Wilson's interval (1927). Raises ValueError where n is 0."""
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"a rate of {hits} in {n} is none")
    share = hits / n
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return Estimate(share, max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach)))


def false_alarm_band(n: int, m: int, alpha: float) -> tuple[float, float]:
    """Between which rates the false alarms among m fresh normal records lie in 95 of 100 cases, with n calibration records.

    With k = floor(alpha (n + 1)), the chance of an alarm, given the calibration, is Beta(k, n + 1 - k) distributed (Vovk 2012),
    so that the number of alarms is beta-binomial: its 2.5 % and 97.5 % quantiles over m, by exact sums. Where scores are tied,
    there are fewer alarms. Raises ValueError where n or m is 0.
    """
    if m < 1 or n < 1:
        raise ValueError(f"no band for {n} calibration and {m} fresh records")
    k = flagged_ranks(n, alpha)
    if k == 0:
        return 0.0, 0.0
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + m + 1)))])
    alarms, rest = np.arange(m + 1), np.arange(m, -1, -1)
    log_chance = (
        log_factorial[m] - log_factorial[alarms] - log_factorial[rest]
        + log_factorial[alarms + k - 1] + log_factorial[rest + n - k] - log_factorial[n + m]
        - log_factorial[k - 1] - log_factorial[n - k] + log_factorial[n]
    )  # fmt: skip
    below = np.cumsum(np.exp(log_chance))
    low, high = np.searchsorted(below / below[-1], [0.025, 0.975])
    return float(low / m), float(high / m)


def _descending(is_anomaly: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels and scores, the highest score first."""
    scores = np.asarray(score, np.float64)
    order = np.argsort(-scores, kind="stable")
    return np.asarray(is_anomaly, bool)[order], scores[order]


def _both(is_anomaly: ArrayLike, score: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    odd, scores = np.asarray(is_anomaly, bool), np.asarray(score, np.float64)
    anomaly, normal = scores[odd], scores[~odd]
    if not len(anomaly) or not len(normal):
        raise ValueError(f"{len(anomaly)} anomalies and {len(normal)} normal records: one of each is needed at least")
    return anomaly, normal


def _beaten(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each score of one kind, the share of the other's that lie below it, ties counting half: DeLong's components."""
    ordered = np.sort(other)
    return (np.searchsorted(ordered, one, "left") + np.searchsorted(ordered, one, "right")) / (2 * len(other))


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) the rank of each, from 0, those of one score at their mean rank."""
    ordered = np.sort(scores)
    return (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right") - 1) / 2


def _average_precision(true: NDArray[np.int64], every: NDArray[np.int64]) -> float:
    if true[-1] == 0:
        raise ValueError("an average precision needs one anomaly at least")
    precision = true / np.maximum(every, 1)
    return float(np.diff(true, prepend=0) @ precision / true[-1])


def _newcombe_low(value: float, anomalies: int, normals: int) -> float:
    """The t below value with value - t = Z sd(t), sd as Hanley & McNeil's (1982) with both kinds' numbers at their mean."""
    mean = (anomalies + normals) / 2
    low, high = 0.0, value
    for _ in range(BISECTIONS):
        t = (low + high) / 2
        spread = 1 + (mean - 1) * ((1 - t) / (2 - t) + t / (1 + t))
        if value - t > Z * math.sqrt(t * (1 - t) * spread / (anomalies * normals)):
            low = t
        else:
            high = t
    return low


def _logistic(v: float) -> float:
    return 1 / (1 + math.exp(-v))
