"""The figures of a report: what the fit was like, what the scores are worth, and how sure one can be of the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from service.calibration import p_values
from training.fit import Curve
from training.metrics import Estimate, auroc_estimate, average_precision_estimate, count, false_alarm_band
from training.svg import Axis, Chart, adaptive, linear, logarithmic, ranking, short

BINS = 48  # of a histogram, at most
DOTS = 2_000
POINTS = 150  # of a curve
RANKED = 30  # features
NETS = 6  # colours
SHARES = (0.5, 0.8, 0.95, 0.99)  # of the records, by score: the colours of the latent space
LEAST = 10  # calibration records that can be halved

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Plot:
    """A figure: its legend as (class, text), and what it says in words. Texts are plain, svg is markup."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    caption: str


def losses(curves: Sequence[Curve]) -> Plot:
    """The negative evidence lower bound by step, on training and on validation records, for each net."""
    told = [np.array([*curve.train, *curve.validation]) for curve in curves if curve.step] or [np.zeros(1)]
    steps = max([1, *(step for curve in curves for step in curve.step)])
    chart = Chart(linear("step", 0, steps), adaptive("−ELBO, nats a record", np.concatenate(told)))
    for k, curve in enumerate(curves):
        chart.line(curve.step, curve.train, f"n{k % NETS} thin")
        chart.line(curve.step, curve.validation, f"n{k % NETS}")
    for k, curve in enumerate(curves):
        if curve.best in curve.step:
            chart.ring(curve.best, curve.validation[curve.step.index(curve.best)], f"n{k % NETS}")
    legend = [(f"n{k}", f"net {k + 1}") for k in range(min(len(curves), NETS))]
    return Plot(
        "Training",
        chart.render(f"Training and validation loss of {len(curves)} nets by step."),
        (*legend, ("n9 thin", "training"), ("n9", "validation")),
        "The loss of each net: on the records it is trained on, whose values are partly hidden and noisy (thin), and on its "
        "validation fold, which it never sees (thick). The ring marks the step whose weights were kept. Lower is better.",
    )


def scores(held: Floats, anomalies: Floats | None, threshold: float, alpha: float) -> Plot:
    """The distribution of the scores of calibration records, and of labelled anomalies, with the threshold."""
    groups = [("normal", "calibration records", held)]
    if anomalies is not None:
        groups.append(("anomaly", "labelled anomalies", anomalies))
    every = np.concatenate([*(np.asarray(group, np.float64) for _, _, group in groups), [threshold]])
    axis = adaptive("score", every)
    bins = int(np.clip(3 * np.sqrt(min(len(group) for _, _, group in groups)), 10, BINS))
    edges = _edges(axis, bins)
    shares = [np.histogram(axis.at(group), np.linspace(0, 1, bins + 1))[0] / len(group) for _, _, group in groups]
    chart = Chart(axis, linear("share of the group", 0, 1.08 * max(float(share.max()) for share in shares), percent=True))
    for (kind, _, _), share in zip(groups, shares, strict=True):
        chart.bars(edges, share, kind)
    chart.vertical(threshold, f"threshold {short(threshold)}")
    above = f"{short(100 * float((held >= threshold).mean()))} % of the calibration records"
    if anomalies is not None:
        above += f" and {short(100 * float((anomalies >= threshold).mean()))} % of the labelled anomalies"
    return Plot(
        "Scores",
        chart.render(f"Histogram of the scores; {above} are at the threshold or above."),
        tuple((f"{kind} box", f"{text} ({len(group):,})") for kind, text, group in groups),
        f"High is anomalous. {above} are at the threshold of {short(threshold)} or above, which was chosen for a share of "
        f"{short(100 * alpha)} % of normal records.",
    )


def reconstruction(names: Sequence[str], error: Floats) -> Plot:
    """The mean reconstruction error (n, F) of each feature over the calibration records, the largest first."""
    mean = np.asarray(error, np.float64).mean(axis=0)
    order = np.argsort(-mean, kind="stable")[:RANKED]
    svg = ranking(
        [names[f] for f in order],
        mean[order].clip(min=0).tolist(),
        "normal",
        "Bars of the mean reconstruction error a feature, largest first.",
    )
    left = len(mean) - len(order)
    return Plot(
        "Reconstruction error by feature",
        svg,
        (),
        "How badly the nets tell each value from the others of its record: mean over the calibration records, in nats. A "
        "feature with a large error has little to do with the others; only values far from its usual ones will stand out in it."
        + (f" The {left} features with the smallest errors are left out." if left else ""),
    )


def latent_space(mu: Floats, score: Floats) -> Plot:
    """The first two principal components of mu (n, L) of calibration records, coloured by score."""
    chosen = np.random.default_rng(0).permutation(len(mu))[:DOTS]
    chosen = chosen[np.argsort(score[chosen], kind="stable")]  # the odd ones are drawn last, above the others
    place, share = principal(np.asarray(mu[chosen], np.float64))
    labels = [f"principal component {k + 1} ({short(100 * s)} % of the variance)" for k, s in enumerate(share)]
    chart = Chart(adaptive(labels[0], place[:, 0]), adaptive(labels[1], place[:, 1]))
    limits = np.quantile(score, SHARES)
    level = np.searchsorted(limits, score[chosen], side="left")
    for k in range(len(SHARES) + 1):
        chart.dots(place[level == k, 0], place[level == k, 1], f"s{k}")
    bounds = [0, *(short(100 * s) for s in SHARES), 100]
    legend = [(f"s{k} box", f"{low} to {high} %") for k, (low, high) in enumerate(pairwise(bounds))]
    return Plot(
        "Latent space",
        chart.render("Scatter plot of the first two principal components of the latent means, coloured by score."),
        tuple(legend),
        f"Where {len(chosen):,} of the calibration records lie in the latent space (mu, {mu.shape[1]} values a record). The "
        "colour tells how high a record's score is among them: the last are the highest 1 %.",
    )


def principal(mu: NDArray[np.float64]) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """(n, 2) principal components of mu (n, L), and the share of the variance that each has; 0 where there is none."""
    centred = mu - mu.mean(axis=0)
    if centred.shape[1] < 2:
        centred = np.concatenate([centred, np.zeros_like(centred)], axis=1)
    # Subspace iteration (Halko et al. 2011): two components of a thousand columns do not need all of the decomposition.
    basis = np.random.default_rng(0).standard_normal((centred.shape[1], 8))
    for _ in range(12):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    left, size, _ = np.linalg.svd(centred @ basis, full_matrices=False)
    if left.shape[1] < 2:
        left, size = np.pad(left, ((0, 0), (0, 1))), np.pad(size, (0, 1))
    turned = np.where(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])] < 0, -1, 1)  # a component's sign means nothing
    share = size**2 / max(float((centred**2).sum()), 1e-300)
    return (left * size * turned)[:, :2], (float(share[0]), float(share[1]))


def calibration(score: Floats) -> Plot | None:
    """Asked against realised false-alarm rates: thresholds from one half of the scores (n,), alarms on the other, both ways."""
    if len(score) < LEAST:
        return None
    order = np.random.default_rng(0).permutation(len(score))
    half = len(score) // 2
    halves = np.sort(score[order[:half]]), np.sort(score[order[half : 2 * half]])
    asked = np.geomspace(1.001 / (half + 1), 0.5, 28)
    low, high = np.array([false_alarm_band(half, half, float(alpha)) for alpha in asked]).T
    floor = asked[0] / 2
    chart = Chart(logarithmic("asked", asked[0], 0.5, percent=True), logarithmic("realised", floor, 1.0, percent=True))
    chart.area(asked, low.clip(min=floor), high, "band")
    chart.line(asked, asked, "ideal")
    for k in range(2):
        p = p_values(halves[k], halves[1 - k])
        chart.line(asked, [max(float((p <= alpha).mean()), floor) for alpha in asked], f"n{k}")
    return Plot(
        "Calibration",
        chart.render(
            "Realised against asked false-alarm rates, both on logarithmic axes, with the band in which they should lie."
        ),
        (("n0", "first half calibrates"), ("n1", "second half calibrates"), ("band box", "95 % band"), ("ideal", "as asked")),
        f"One half of the calibration records ({half:,}) sets the threshold for each false-alarm rate that is asked for, the "
        "other half tells how many alarms there really are. The band is where that rate lies in 95 of 100 cases if all is well "
        "(beta-binomial, since the records that calibrate are drawn by chance too). The bundle's threshold uses both halves. A "
        "rate of 0 is drawn at the lower edge.",
    )


def detection(normal: Floats, anomalies: Floats, threshold: float) -> tuple[list[Plot], Estimate, Estimate]:
    """ROC and precision-recall curves of calibration records and labelled anomalies; AUROC and average precision."""
    score = np.concatenate([normal, anomalies])
    is_anomaly = np.arange(len(score)) >= len(normal)
    area, precision = auroc_estimate(is_anomaly, score), average_precision_estimate(is_anomaly, score)
    counts = count(is_anomaly, score)
    caught, false = counts.true / len(anomalies), counts.false / len(normal)
    right = counts.true / (counts.true + counts.false)
    kept = np.unique(np.concatenate([np.searchsorted(share, np.linspace(0, 1, POINTS)) for share in (caught, false)]))
    here_caught, here_false = float((anomalies >= threshold).mean()), float((normal >= threshold).mean())
    flagged = int((score >= threshold).sum())

    roc = Chart(linear("false-alarm rate", 0, 1, percent=True), linear("true-alarm rate", 0, 1, percent=True))
    roc.line([0, 1], [0, 1], "ideal")
    roc.line([0, *false[kept]], [0, *caught[kept]], "n0")
    roc.ring(here_false, here_caught, "anomaly", "at the threshold")
    pr = Chart(linear("recall (true-alarm rate)", 0, 1, percent=True), linear("precision", 0, 1, percent=True))
    pr.line([0, 1], [is_anomaly.mean()] * 2, "ideal")
    pr.line(caught[kept], right[kept], "n0")
    if flagged:
        pr.ring(here_caught, float((anomalies >= threshold).sum()) / flagged, "anomaly", "at the threshold", lift=14)
    told = (
        f"{len(normal):,} calibration records and {len(anomalies):,} labelled anomalies, none of them scored by what was "
        "trained on it"
    )
    plots = [
        Plot(
            "ROC",
            roc.render(f"ROC curve; the area below it is {area.value:.3f}."),
            (("n0", "this model"), ("ideal", "chance")),
            f"AUROC {interval(area)}: the chance that an anomaly scores above a normal record. From {told}.",
        ),
        Plot(
            "Precision and recall",
            pr.render(f"Precision by recall; the average precision is {precision.value:.3f}."),
            (("n0", "this model"), ("ideal", "chance")),
            f"Average precision {interval(precision)}. It depends on how many of the records are anomalies, here "
            f"{short(100 * float(is_anomaly.mean()))} %: where they are rarer, precision is lower.",
        ),
    ]
    return plots, area, precision


def interval(estimate: Estimate) -> str:
    """A figure with its 95 % interval, as text."""
    return f"{estimate.value:.3f} (95 %: {estimate.low:.3f} to {estimate.high:.3f})"


def _edges(axis: Axis, bins: int) -> NDArray[np.float64]:
    """(bins + 1,) values that lie evenly on the axis, found by halving, since an axis knows only the way there."""
    low, high = np.full(bins + 1, axis.low), np.full(bins + 1, axis.high)
    wanted = np.linspace(0, 1, bins + 1)
    for _ in range(60):
        middle = (low + high) / 2
        before = axis.at(middle) < wanted
        low, high = np.where(before, middle, low), np.where(before, high, middle)
    return high
