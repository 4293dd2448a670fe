"""Nothing is published that the service would not answer exactly as the fitted modules do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle import Bundle
from service.detector import FIELDS, Detector, relative_gap
from service.manifest import Feature, Golden, column_slices
from service.session import Session
from training.errors import ParityError
from training.preprocessing import PERIODS
from training.scorer import Answer, Scorer
from training.stable import total

UNCLEAR = 1e-4  # of a squared distance
RTOL = 5e-5  # of the largest answer of its kind for a record
RTOL_SCORE = 5e-4  # of score and contributions: where normal records are very alike, a surprise is steep in the error
RTOL_UNCLEAR = 1e-2  # of the score, where last bits choose which remembered records are the nearest
RTOL_SUM = 1e-5
GOLDEN = 16  # records, and so many more at most for what is expected of them
OCTANTS = 8  # of a day, a week or a year
TWICE = 2  # records of which a thing is expected: service/detector.py lets one of each column differ
PROVED = 1_000  # records, at most
MIXED = 500  # records, about
EXCHANGED, LACKING, FRACTIONAL = 0.3, 0.1, 0.02  # shares of their values: another's, missing, of whole ones raised by a half
GAPS, GAPPED = 0.3, 2  # share of their values that are missing, and records of which this is done
EDGE = np.finfo(np.float32).max


def golden_records(session: Session, scorer: Scorer, x: NDArray[np.float32], features: Sequence[Feature]) -> tuple[Golden, ...]:
    """Golden records: of the records x (n, C) that calibrate, from the least to the most odd, and the edges of what can come.

    The edges: no value at all, the largest and smallest numbers, and unknown categories. And records of which different
    categories and times are expected, some that contradict themselves and some with gaps, so that no branch of the graph goes
    unseen. Where there are any of which no last bits decide, as another build of onnxruntime may have them, the others are left
    out.
    """
    order = np.argsort(session.run(x, explain=False).score, kind="stable")
    order = order[np.unique(np.linspace(0, len(order) - 1, PROVED).astype(int))]
    with torch.no_grad():
        clear = ~scorer.ambiguous(torch.from_numpy(x[order]), UNCLEAR).numpy()
    order = order[clear] if clear.any() else order
    by_score = np.unique(np.linspace(0, len(order) - 1, GOLDEN - 3).astype(int))
    chosen = order[with_others_expected(by_score, session.run(x[order], explain=True).expected, features)]
    nothing, large, small = np.full_like(x[0], np.nan), x[order[0]].copy(), x[order[-1]].copy()
    for feature, at in zip(features, column_slices(features), strict=True):
        if feature.kind == "numeric":
            large[at], small[at] = EDGE, -EDGE
        elif feature.kind == "categorical":
            large[at] = len(feature.categories)
    lacking = with_gaps(scorer, x[order], features)
    rows = np.concatenate([x[chosen], contradicting(scorer, x[order], features), lacking, [nothing, large, small]])
    told = session.run(rows, explain=True)
    return tuple(
        Golden(
            x=tuple(None if np.isnan(value) else float(value) for value in rows[i]),
            score=float(told.score[i]),
            elbo=float(told.elbo[i]),
            reconstruction_error=float(told.reconstruction_error[i]),
            contributions=tuple(map(float, told.contributions[i])),
            expected=tuple(map(float, told.expected[i])),
        )
        for i in range(len(rows))
    )


def contradicting(scorer: Scorer, x: NDArray[np.float32], features: Sequence[Feature]) -> NDArray[np.float32]:
    """(m, C) records made of others' (n, C) values: the oddest by each term that tells of contradictions and by each kind of
    rule, without gaps and with, and with gaps the least odd that a term tells of.

    Such terms are 0 for nearly all that is normal, so that nothing else would show whether they are as they were.
    """
    draw = np.random.default_rng(0)
    mixed = np.repeat(x, math.ceil(MIXED / len(x)), axis=0)
    for feature, at in zip(features, column_slices(features), strict=True):
        other = draw.random(len(mixed)) < EXCHANGED
        mixed[other, at] = x[draw.integers(len(x), size=np.count_nonzero(other)), at]
        if feature.integer and feature.kind == "numeric":  # no exchange makes a fraction
            mixed[draw.random(len(mixed)) < FRACTIONAL, at] += 0.5
    lacking = mixed.copy()
    for at in column_slices(features):
        lacking[draw.random(len(mixed)) < LACKING, at] = np.nan
    found: list[NDArray[np.float32]] = []
    with torch.no_grad():
        for rows in (mixed, lacking):
            records = torch.from_numpy(rows)
            clear = ~scorer.ambiguous(records, UNCLEAR)
            slots = scorer.preprocessing(records)
            terms = [told(slots).value for told in scorer.in_nats]
            kinds = [] if scorer.rules is None else [total(broken) for broken in scorer.rules.every(slots).values()]
            for k, odd in enumerate([*terms, *kinds]):
                value = torch.where(clear, odd[:, 0], 0.0).numpy()
                if value.max() > 0:
                    found.append(rows[value.argmax()])
                gapped = np.flatnonzero((value > 0) & np.isnan(rows).any(1))
                if k < len(terms) and len(gapped):  # of which gaps leave the least: with wider ones nothing would be left
                    found.append(rows[gapped[value[gapped].argmin()]])
    return np.array(found, np.float32).reshape(-1, x.shape[1])


def with_gaps(scorer: Scorer, x: NDArray[np.float32], features: Sequence[Feature]) -> NDArray[np.float32]:
    """(GAPPED, C) of the records x (n, C), some of whose values are missing: also where training lacks none, graphs fill gaps."""
    draw = np.random.default_rng(1)
    rows = np.repeat(x, math.ceil(MIXED / len(x)), axis=0)[draw.permutation(math.ceil(MIXED / len(x)) * len(x))[:MIXED]]
    for at in column_slices(features):
        rows[draw.random(len(rows)) < GAPS, at] = np.nan
    with torch.no_grad():
        clear = ~scorer.ambiguous(torch.from_numpy(rows), UNCLEAR).numpy()
    return rows[np.flatnonzero(clear & np.isnan(rows).any(1) & ~np.isnan(rows).all(1))[:GAPPED]]


def with_others_expected(
    chosen: NDArray[np.intp], expected: NDArray[np.float32], features: Sequence[Feature]
) -> NDArray[np.intp]:
    """The chosen of n records, and up to GOLDEN more, so that each category that is expected (n, C) of any is so of two of them.

    Of times each octant. A greedy set cover: next is the record that adds most.
    """
    kinds = np.repeat([feature.kind for feature in features], [feature.width for feature in features])
    periods = np.tile(PERIODS, np.count_nonzero(kinds == "datetime") // len(PERIODS))
    octants = np.floor(expected[:, kinds == "datetime"] * OCTANTS / periods)
    told = np.concatenate([expected[:, kinds == "categorical"], octants], axis=1)
    columns = [column[:, None] == np.unique(column)[None, :] for column in told.T]
    is_expected = np.concatenate([np.zeros((len(expected), 0), dtype=bool), *columns], axis=1)
    while True:
        wanted = is_expected[:, np.count_nonzero(is_expected[chosen], axis=0) < TWICE]
        found = np.count_nonzero(wanted, axis=1)
        found[chosen] = 0
        if not found.any() or len(chosen) >= 2 * GOLDEN - 3:
            return chosen
        chosen = np.append(chosen, np.argmax(found))


def prove(scorer: Scorer, bundle: Bundle, x: NDArray[np.float32]) -> None:
    """Loads the bundle as the service does, golden records and all, and compares it with the scorer on x (N, C).

    Raises BundleError where the service would refuse the bundle, ParityError where an answer differs by more than RTOL.
    """
    detector = Detector(bundle, "cpu")
    golden = np.array([golden.x for golden in bundle.manifest.golden], dtype=np.float32)
    rows = np.concatenate([golden, x])
    told = detector.score(rows, alpha=None, explain="all")
    records = torch.from_numpy(rows)
    with torch.no_grad():
        meant: Answer = scorer(records)
        # a record with two neighbours equally near has reasons by either, and a score that is nearly the same
        clear = ~scorer.ambiguous(records, UNCLEAR).numpy()
    for field in FIELDS:
        got, want = getattr(told, field), getattr(meant, field).numpy()
        if not (np.isfinite(got).all() and np.isfinite(want).all()):
            raise ParityError(f"{field}: not finite for some of {len(rows)} records; nothing was published")
        gap = relative_gap(got, want, meant.reconstruction_error[:, 0].numpy())
        rtol = RTOL_SCORE if field in ("score", "contributions") else RTOL
        worst = gap[clear].max(initial=0)
        if field == "score":
            worst = max(worst, gap.max() * RTOL_SCORE / RTOL_UNCLEAR)
        elif field != "contributions":
            worst = gap.max()
        if worst > rtol:
            raise ParityError(
                f"{field}: the exported graph differs from the fitted modules by {worst:.2g} relative; nothing was published: "
                "report it with the versions of torch and onnxruntime"
            )
    share = np.abs(told.contributions.sum(1, dtype=np.float64) - told.score) / np.maximum(np.abs(told.score), 1)
    if share.max() > RTOL_SUM:
        raise ParityError(f"the contributions miss the score by {share.max():.2g} relative; nothing was published")
