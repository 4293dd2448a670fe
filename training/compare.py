"""A new model beside the one that is served, on the same records: what a person wants to know before promoting it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.detector import Detector
from service.manifest import Manifest
from service.sources import TableError
from training.data import read_for_evaluation
from training.metrics import (
    Estimate,
    auroc_difference,
    auroc_estimate,
    average_precision_estimate,
    false_alarm_band,
    rank_correlation,
    rate_estimate,
)

NAMED = 8  # columns in a line
COLUMN = 30  # letters


class Judged(NamedTuple):
    """The normal records that calibrate a new model, scored as new ones are, and the labelled anomalies."""

    rows: NDArray[np.intp]  # (n,) where in the table they are, the first row being 1
    score: NDArray[np.float32]  # (n,)
    anomalies_score: NDArray[np.float32] | None  # (M,) in the table's order; None where there are none


@dataclass(frozen=True)
class Comparison:
    """Two models on the same n normal records, which the new one has not seen, and M anomalies: (old, new) of every figure.

    Where the old one cannot read the table, `why_not` says why, and there are no figures.
    """

    versions: tuple[str, str]
    score_kinds: tuple[str, str]
    alphas: tuple[float, float]
    thresholds: tuple[float, float]
    notes: tuple[str, ...]
    why_not: str | None = None
    normal: int = 0  # records
    anomalies: int = 0  # records
    normal_flagged: tuple[Estimate, Estimate] | None = None
    anomalies_flagged: tuple[Estimate, Estimate] | None = None
    auroc: tuple[Estimate, Estimate] | None = None
    average_precision: tuple[Estimate, Estimate] | None = None
    auroc_difference: Estimate | None = None  # new - old
    agreement: Estimate | None = None  # share of all records that both flag or neither does
    flagged_by: tuple[int, int, int] = (0, 0, 0)  # records: both, the old alone, the new alone
    rank_correlation: Estimate | None = None
    held_out: bool = True  # whether no normal record trained the new model

    def as_table(self) -> str:
        """The figures as plain text, side by side."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield _line("", "served", "new")
        yield _line("version", *self.versions)
        yield _line("score", *self.score_kinds)
        yield _line("alpha", *(f"{alpha:g}" for alpha in self.alphas))
        yield _line("threshold", *(f"{threshold:.6g}" for threshold in self.thresholds))
        for name, pair, unit in (
            ("normal flagged", self.normal_flagged, 100),
            ("anomalies flagged", self.anomalies_flagged, 100),
            ("AUROC", self.auroc, 1),
            ("average precision", self.average_precision, 1),
        ):
            if pair is not None:
                yield _line(name, *(_told(estimate, unit) for estimate in pair))
        if self.agreement is not None:
            yield ""
            both, old, new = self.flagged_by
            flagged = f"flagged by both {both}, by the served alone {old}, by the new alone {new}"
            yield f"{'flags agree':<18} {_told(self.agreement, 100)}: {flagged}"
        if self.rank_correlation is not None:
            yield f"{'rank correlation':<18} {_told(self.rank_correlation, 1)}"
        if self.auroc_difference is not None:
            yield f"{'AUROC difference':<18} {_told(self.auroc_difference, 1)}, new less served"
        yield ""
        if self.why_not:
            yield f"No figures on the same records: {self.why_not}"
        else:
            more = f" and {self.anomalies} anomalies" if self.anomalies else ""
            how = (
                "that the new model was not trained on"
                if self.held_out
                else "of its training, each judged by the new one without itself"
            )
            yield f"On {self.normal} normal records {how}{more}; in brackets, 95 % intervals."
        yield from self.notes


def compare(old: Detector, new: Manifest, version: str, judged: Judged, data: str | Path) -> Comparison:
    """The served model and a new one of this version, on the records that the new one was judged on.

    data: the table that it was made from, which is read once more, as the served model reads it. Where it is another one by now
    the comparison says that there is none: the new model is published, whatever became of its table.
    """
    was = old.manifest
    told: dict[str, Any] = {
        "versions": (old.version, version),
        "score_kinds": (was.score_kind, new.score_kind),
        "alphas": (was.alpha, new.alpha),
        "thresholds": (was.threshold, new.threshold),
    }
    asked, odd = new.training["data"], judged.anomalies_score
    try:
        x, is_anomaly = read_for_evaluation(data, was.features, asked["label"], asked["normal"])
    except TableError as error:
        return Comparison(**told, notes=tuple(_differences(was, new)), why_not=str(error))
    odd = np.empty(0, np.float32) if odd is None else odd
    if len(x) - int(is_anomaly.sum()) != asked["normal_records"] or int(is_anomaly.sum()) != len(odd):
        changed = f"{data}: it has other rows than when the fit began; compare again, on a table that nobody writes to"
        return Comparison(**told, notes=tuple(_differences(was, new)), why_not=changed)
    kinds = np.repeat([False, True], [len(judged.rows), len(odd)])
    before = old.score(np.concatenate([x[judged.rows - 1], x[is_anomaly]]), explain="none").score
    after = np.concatenate([judged.score, odd])
    flagged = before >= was.threshold, after >= new.threshold
    notes = (*_remarks(was, new, flagged[0][~kinds]), *_differences(was, new))
    told["held_out"] = new.calibration.held_out is not False
    return Comparison(**told, notes=notes, **_figures(kinds, before, after, *flagged))


def _figures(
    is_anomaly: NDArray[np.bool_],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    old: NDArray[np.bool_],
    new: NDArray[np.bool_],
) -> dict[str, Any]:
    """The figures of scores (N,) before and after, and of what the old and the new model flag (N,)."""
    anomalies = int(is_anomaly.sum())
    normal = len(is_anomaly) - anomalies
    figures: dict[str, Any] = {
        "normal": normal,
        "anomalies": anomalies,
        "normal_flagged": tuple(rate_estimate(int(flags[~is_anomaly].sum()), normal) for flags in (old, new)),
        "agreement": rate_estimate(int((old == new).sum()), len(old)),
        "flagged_by": (int((old & new).sum()), int((old & ~new).sum()), int((new & ~old).sum())),
    }
    if min(np.ptp(before), np.ptp(after)) > 0:
        figures["rank_correlation"] = rank_correlation(before, after)
    if anomalies:
        figures |= {
            "anomalies_flagged": tuple(rate_estimate(int(flags[is_anomaly].sum()), anomalies) for flags in (old, new)),
            "auroc": tuple(auroc_estimate(is_anomaly, score) for score in (before, after)),
            "average_precision": tuple(average_precision_estimate(is_anomaly, score) for score in (before, after)),
            "auroc_difference": auroc_difference(is_anomaly, before, after),
        }
    return figures


def _remarks(was: Manifest, new: Manifest, flagged: NDArray[np.bool_]) -> Iterator[str]:
    """What to keep in mind; flagged (n,): which of the normal records the old model flags."""
    yield "The new threshold was set on these normal records: that it flags no more of them than its alpha says nothing for it."
    hashes = [{source["sha256"] for source in manifest.training["data"]["sources"]} for manifest in (was, new)]
    if hashes[0] & hashes[1]:
        yield "The served model was fitted on a file of the same content: it has seen most of these records, which flatters it."
    low, high = false_alarm_band(len(was.calibration.scores), len(flagged), was.alpha)
    rate = float(flagged.mean())
    verdict = "inside" if low <= rate <= high else "below" if rate < low else "above: the data has changed, or holds anomalies"
    band = f"{100 * low:.2f} to {100 * high:.2f} %"
    yield f"The served model flags {band} of normal records like those of its training in 95 of 100 cases: these are {verdict}."


def _differences(was: Manifest, new: Manifest) -> Iterator[str]:
    """How the two models' features differ."""
    kinds = [{feature.name: feature.kind for feature in manifest.features} for manifest in (was, new)]
    for told, ours, others in (("the served", *kinds), ("the new", *reversed(kinds))):
        if alone := [name for name in ours if name not in others]:
            yield f"Features of {told} model alone: {_some(alone)}."
    if changed := [
        f"{name} ({kinds[0][name]}, now {kind})" for name, kind in kinds[1].items() if kinds[0].get(name, kind) != kind
    ]:
        yield f"Features of another kind: {_some(changed)}."


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _line(name: str, old: str, new: str) -> str:
    return f"{name:<18} {old:<{COLUMN}} {new}".rstrip()


def _told(estimate: Estimate, unit: int) -> str:
    digits, sign = (2, " %") if unit == 100 else (4, "")
    value, low, high = (f"{unit * number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    return f"{value}{sign} ({low} to {high})"
