"""What a published model is worth on labelled records: scored as the service scores them, told with 95 % intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from service.detector import open_detector
from service.session import Provider
from training.data import digests, read_for_evaluation
from training.metrics import Estimate, auroc_estimate, average_precision_estimate, false_alarm_band, rate_estimate

BATCH = 16_384  # records


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on one table; None for those that need anomalies, where the table has none."""

    model: str
    version: str
    score_kind: str
    alpha: float  # the false-alarm rate that was asked for when the model was trained
    threshold: float
    normal: int  # records
    anomalies: int  # records
    auroc: Estimate | None
    average_precision: Estimate | None
    false_alarm_rate: Estimate  # share of the normal records that are flagged
    true_alarm_rate: Estimate | None  # share of the anomalies that are flagged
    false_alarm_band: tuple[float, float]  # where that rate lies with 95 % if all normal records are alike
    trained: bool = False  # whether a file of the same content trained the model

    def as_table(self) -> str:
        """The figures as plain text, a line each."""
        lines = [
            f"{self.model} {self.version}: {self.normal} normal records, {self.anomalies} anomalies",
            f"flagged where the score ({self.score_kind}) is at least {self.threshold:.6g} (alpha {self.alpha:g})",
            "",
            f"{'':<18}{'value':>9}   95 % interval",
            _line("AUROC", self.auroc, 1),
            _line("average precision", self.average_precision, 1),
            _line("false-alarm rate", self.false_alarm_rate, 100),
            _line("true-alarm rate", self.true_alarm_rate, 100),
        ]
        low, high = self.false_alarm_band
        rate = self.false_alarm_rate.value
        verdict = "inside" if low <= rate <= high else "below" if rate < low else "above"
        band = f"{100 * low:.2f} to {100 * high:.2f} %"
        told = f"{self.normal} normal records like those of the training give {band} false alarms in 95 of 100 cases"
        remark = ["The model was fitted on a file of the same content: it has seen these records, which flatters it."]
        return "\n".join([*lines, "", f"{told}: these are {verdict}.", *(remark if self.trained else [])])

    def as_json(self) -> str:
        """The figures as one line of JSON; rates as shares of 1, null for a figure that the table does not give."""
        return json.dumps(asdict(self))


def evaluate(
    models_dir: Path,
    name: str,
    data: str,
    label: str | None = None,
    normal: str | None = None,
    version: str | None = None,
    provider: Provider = "auto",
    trusted: Sequence[Path] = (),
) -> Evaluation:
    """Scores the records of `data`, those whose `label` is `normal` being normal and all others anomalies, at the bundle's alpha;
    without a label all are normal.

    version: default, the one that is served. Raises BundleError, and what read_for_evaluation raises where the data are unusable.
    """
    detector = open_detector(models_dir, name, version, provider, trusted)
    x, is_anomaly = read_for_evaluation(data, detector.manifest.features, label, normal)
    parts = [detector.score(x[start : start + BATCH], explain="none") for start in range(0, len(x), BATCH)]
    score = np.concatenate([part.score for part in parts])
    flagged = np.concatenate([part.is_anomaly for part in parts])
    anomalies = int(is_anomaly.sum())
    normals = len(x) - anomalies
    alpha, n = detector.manifest.alpha, len(detector.manifest.calibration.scores)
    trained_on = detector.manifest.training.get("data", {})
    return Evaluation(
        model=detector.name,
        version=detector.version,
        score_kind=detector.manifest.score_kind,
        alpha=alpha,
        threshold=detector.manifest.threshold,
        normal=normals,
        anomalies=anomalies,
        auroc=auroc_estimate(is_anomaly, score) if anomalies else None,
        average_precision=average_precision_estimate(is_anomaly, score) if anomalies else None,
        false_alarm_rate=rate_estimate(int((flagged & ~is_anomaly).sum()), normals),
        true_alarm_rate=rate_estimate(int((flagged & is_anomaly).sum()), anomalies) if anomalies else None,
        false_alarm_band=false_alarm_band(n, normals, alpha),
        trained=not digests(data).isdisjoint(source["sha256"] for source in trained_on.get("sources", [])),
    )


def _line(name: str, estimate: Estimate | None, unit: int) -> str:
    if estimate is None:
        return f"{name:<18}{'-':>9}   no records for it"
    digits, sign = (2, " %") if unit == 100 else (4, "")
    value, low, high = (f"{unit * number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    told = f"{low} to {high}{sign}" if estimate.low < estimate.high else "none: no anomaly scores below a normal record"
    return f"{name:<18}{value + sign:>9}   {told}"
