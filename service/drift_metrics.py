"""What a watch tells Prometheus: gauges, of which several workers tell the largest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily

from service.watch import WARNINGS, Watch


def families(watched: Iterable[tuple[str, str, Watch]]) -> Iterator[GaugeMetricFamily]:
    """Of each version (name, version, watch), as last judged."""
    labels = ["model", "version"]
    psi = GaugeMetricFamily("anomaly_drift_psi", "Distance of live from training records.", labels=[*labels, "feature", "kind"])
    warnings = GaugeMetricFamily("anomaly_drift_warnings", "How many drift warnings stand, by kind.", labels=[*labels, "kind"])
    evidence = GaugeMetricFamily("anomaly_drift_evidence", "Against p-values that are uniform still; 1 is none.", labels=labels)
    for name, version, watch in watched:
        kinds = Counter(one.kind for one in watch.warnings)
        for warned in WARNINGS:
            warnings.add_metric([name, version, warned], kinds[warned])
        evidence.add_metric([name, version], watch.evidence)
        for kind, measures in watch.measures.items():
            for feature, value in zip(watch.features, measures.psi.tolist(), strict=True):
                if not math.isnan(value):  # else it is not asked of this feature
                    psi.add_metric([name, version, feature.name, kind], value)
    yield from (psi, warnings, evidence)
