"""What Prometheus sees. Counted in plain numbers on the event loop, and turned into its text only when it asks.

A histogram of prometheus_client costs a lock and a walk over its buckets at each observation; here values wait until there are
many, or until somebody asks: to count hundreds costs NumPy hardly more than to count one.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from service.drift_metrics import families
from service.errors import CODES
from service.limits import CLIENT_GONE
from service.watch import Watch

STAGES = ("parse", "queue", "inference", "total")
METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCORES = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 1000.0)
P_VALUES = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
DIFFERENCES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
COMPARISONS = 8  # of a shadow with the served versions that it was beside, the last ones
RESULTS = ("loaded", "refused")  # of a look at a new version
HOW_FAR = ("files", "trial", "proof")  # a bundle comes that is refused
WAITING, FEW = 256, 256  # observations that wait to be counted together; values of one, of which more do not wait
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES = {2: "answered", 4: "refused", 5: "failed"}  # of a request, by the first digit of its status


class Histogram:
    """Counts by bucket, and the sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self._array = bounds, np.array(bounds)
        self._counts, self._sum = [0] * (len(bounds) + 1), 0.0
        self._waiting: list[NDArray[Any]] = []
        self._lock = threading.Lock()  # a shadow's thread observes while the event loop tells

    @property
    def counts(self) -> list[int]:
        """How many values are in each bucket, and beyond the last."""
        self._count()
        return self._counts

    @property
    def sum(self) -> float:
        """Of all values."""
        self._count()
        return self._sum

    def observe(self, values: NDArray[Any]) -> None:
        """Counts values (N,), soon."""
        with self._lock:
            self._waiting.append(values)
            many = len(values) > FEW or len(self._waiting) >= WAITING
        if many:
            self._count()

    def _count(self) -> None:
        with self._lock:
            if self._waiting:
                values, self._waiting = np.concatenate(self._waiting), []
                found = np.bincount(np.searchsorted(self._array, values), minlength=len(self._counts))
                self._counts = [before + more for before, more in zip(self._counts, found.tolist(), strict=True)]
                self._sum += float(values.sum(dtype=np.float64))

    def buckets(self) -> list[tuple[str, float]]:
        """(bound, cumulative count) as Prometheus has them."""
        names = [*(f"{bound:g}" for bound in self.bounds), "+Inf"]
        return list(zip(names, np.cumsum(self.counts).tolist(), strict=True))


class ModelCounts:
    """What one version of a model has answered."""

    def __init__(self) -> None:
        self.records, self.anomalies = 0, 0
        self.batches, self.failed_batches = 0, 0  # runs of the graph for requests; those that raised
        self.requests: Counter[int] = Counter()  # by status
        self.scores, self.p_values = Histogram(SCORES), Histogram(P_VALUES)
        self.warnings: Counter[str] = Counter()

    def count(self, score: NDArray[np.float32], p_value: NDArray[np.float64], anomalies: int, warnings: dict[str, int]) -> None:
        """Counts the records of one run."""
        self.batches += 1
        self.records += len(score)
        self.anomalies += anomalies
        self.scores.observe(score)
        self.p_values.observe(p_value)
        if warnings:
            self.warnings.update(warnings)


class Comparison:
    """What a shadow would have flagged, beside what a served version did. Its thread counts, and those who drop records."""

    def __init__(self) -> None:
        self.results = dict.fromkeys(
            ("neither", "both", "served", "shadow", "failed", "dropped"), 0
        )  # records, by who flags them
        self.differences = Histogram(DIFFERENCES)

    def count(self, served: NDArray[np.bool_], shadow: NDArray[np.bool_], differences: NDArray[np.float64]) -> None:
        """Counts N records: who flags them, and how far the p-values are apart, each (N,)."""
        found = np.bincount(served + 2 * shadow.astype(np.intp), minlength=4).tolist()
        for name, n in zip(("neither", "served", "shadow", "both"), found, strict=True):
            self.results[name] += n
        self.differences.observe(differences)


class Metrics(Collector):
    """Every number of one process. Only the event loop's thread counts, but for failed_batches, which two threads do."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()  # (route, method, status)
        # By code. All are told from the start: of a counter that first appears at 1, Prometheus sees no increase.
        self.errors: Counter[str] = Counter(dict.fromkeys(CODES, 0))
        self.reloads: Counter[tuple[str, str]] = Counter()  # (model, one of RESULTS)
        self.refusals: Counter[tuple[str, str]] = Counter()  # (model, stage at which its bundle was refused)
        self._stages = {stage: Histogram(SECONDS) for stage in STAGES}
        self._spent: list[tuple[float, ...]] = []  # seconds of each stage, not counted yet
        self.models: dict[tuple[str, str], ModelCounts] = {}  # by name and version, those loaded
        self.retired: OrderedDict[tuple[str, str], ModelCounts] = OrderedDict()  # those no longer loaded
        self.retained = 0  # how many of the latter stay in the text
        self.served: Callable[[], Iterable[tuple[str, str, str, str]]] = tuple  # (name, version, score kind, provider)
        self.watched: Callable[[], Iterable[tuple[str, str, Watch]]] = tuple  # (name, version, watch)
        self.queue_rows: Callable[[], int] = int
        self.held_bytes: Callable[[], int] = int
        self.log_lines_dropped: Callable[[], int] = int
        self.comparisons: OrderedDict[tuple[str, str, str], Comparison] = OrderedDict()  # by model, version, shadow
        self.shadow_up: Callable[[], tuple[str, str, bool] | None] = lambda: None
        self.gpu_lost: Callable[[], int] = int
        self.refused: Callable[[], Mapping[str, bool]] = dict  # by model: whether its CURRENT is, now
        self.models_unreadable: Callable[[], bool] = bool
        self.not_ready: Callable[[], bool] = bool
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # of the process: memory, CPU time, open files

    def observe(self, *seconds: float) -> None:
        """Counts the seconds that each of STAGES took of one request, soon."""
        self._spent.append(seconds)
        if len(self._spent) >= WAITING:
            self._count_stages()

    @property
    def stages(self) -> Mapping[str, Histogram]:
        """The seconds of requests, by stage."""
        self._count_stages()
        return self._stages

    def _count_stages(self) -> None:
        if self._spent:
            for histogram, seconds in zip(self._stages.values(), np.array(self._spent).T, strict=True):
                histogram.observe(seconds)
            self._spent = []

    def counts(self, model: str, version: str) -> ModelCounts:
        """The counts of a version, from now on in the text; of one that was forgotten and is retained, they go on."""
        key = model, version
        if key not in self.models:
            self.models[key] = self.retired.pop(key) if key in self.retired else ModelCounts()
        return self.models[key]

    def forget(self, model: str, version: str) -> None:
        """Leaves a version that is no longer loaded out of the text, which must not grow for ever."""
        counts = self.models.pop((model, version), None)
        if counts is not None:
            self.retired[model, version] = counts
            while len(self.retired) > self.retained:
                self.retired.popitem(last=False)

    def comparison(self, model: str, version: str, shadow: str) -> Comparison:
        """What is counted of a shadow beside a served version."""
        key = model, version, shadow
        if key not in self.comparisons:
            self.comparisons[key] = Comparison()
            while len(self.comparisons) > COMPARISONS:
                self.comparisons.popitem(last=False)
        return self.comparisons[key]

    def families(self) -> Iterator[Any]:
        """Every family, those of the process included."""
        yield from self._registry.collect()

    def text(self) -> bytes:
        """The Prometheus text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Any]:
        """The families, for prometheus_client."""
        requests = CounterMetricFamily("anomaly_requests", "Requests answered.", labels=["route", "method", "status"])
        for (route, method, status), n in self.requests.items():
            requests.add_metric([route, method, str(status)], n)
        errors = CounterMetricFamily("anomaly_errors", "Answers that were errors, by their code.", labels=["code"])
        for code, n in self.errors.items():
            errors.add_metric([code], n)
        stages = HistogramMetricFamily("anomaly_request_seconds", "Time of scoring requests, by stage.", labels=["stage"])
        for stage, histogram in self.stages.items():
            stages.add_metric([stage], histogram.buckets(), histogram.sum)
        yield from (requests, errors, stages)
        yield from self._collect_models()
        yield from families(self.watched())
        yield from self._collect_versions()
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield gauge("anomaly_queue_rows", "Rows waiting for, or in, the background thread.", value=self.queue_rows())
        yield gauge("anomaly_held_bytes", "Bytes of bodies, and of answers not taken, that are held.", value=self.held_bytes())
        yield gauge("anomaly_gpu_lost", "Served versions on the CPU although there is a GPU.", value=self.gpu_lost())
        dropped = self.log_lines_dropped()
        yield counter("anomaly_log_lines_dropped", "Lines of requests and events that the log could not take.", value=dropped)
        yield replaced_family(0)
        yield from self._collect_shadow()

    def _collect_models(self) -> Iterator[Any]:
        labels = ["model", "version"]
        requests = CounterMetricFamily("anomaly_model_requests", "Scoring requests, by outcome.", labels=[*labels, "outcome"])
        batches = CounterMetricFamily("anomaly_batches", "Runs of the graph, by outcome.", labels=[*labels, "outcome"])
        records = CounterMetricFamily("anomaly_records", "Records scored, by outcome.", labels=[*labels, "outcome"])
        warnings = CounterMetricFamily("anomaly_warnings", "Warnings given with records, by code.", labels=[*labels, "code"])
        scores = HistogramMetricFamily("anomaly_score", "Scores given.", labels=labels)
        p_values = HistogramMetricFamily("anomaly_p_value", "p-values given.", labels=labels)
        for key, counts in (*self.models.items(), *self.retired.items()):
            outcomes = Counter[str]()
            for status, n in counts.requests.items():
                outcomes[outcome(status)] += n
            for told, n in outcomes.items():
                requests.add_metric([*key, told], n)
            batches.add_metric([*key, "scored"], counts.batches)
            batches.add_metric([*key, "failed"], counts.failed_batches)
            records.add_metric([*key, "normal"], counts.records - counts.anomalies)
            records.add_metric([*key, "anomaly"], counts.anomalies)
            for code, n in counts.warnings.items():
                warnings.add_metric([*key, code], n)
            scores.add_metric(key, counts.scores.buckets(), counts.scores.sum)
            p_values.add_metric(key, counts.p_values.buckets(), counts.p_values.sum)
        yield from (requests, batches, records, warnings, scores, p_values)

    def _collect_versions(self) -> Iterator[Any]:
        reloads = CounterMetricFamily("anomaly_reloads", "Versions loaded or refused.", labels=["model", "result"])
        for model in sorted({model for model, _ in self.reloads}):
            for result in RESULTS:
                reloads.add_metric([model, result], self.reloads[model, result])
        refusals = CounterMetricFamily("anomaly_refusals", "Bundles refused, by how far they came.", labels=["model", "stage"])
        for model in sorted({model for model, _ in (*self.reloads, *self.refusals)}):
            for stage in HOW_FAR:
                refusals.add_metric([model, stage], self.refusals[model, stage])
        refused = GaugeMetricFamily("anomaly_bundle_refused", "1 for each model whose CURRENT cannot be used.", labels=["model"])
        for model, is_refused in self.refused().items():
            refused.add_metric([model], int(is_refused))
        yield from (reloads, refusals, refused)
        blind = int(self.models_unreadable())
        yield GaugeMetricFamily("anomaly_models_unreadable", "1 where new versions cannot be looked for.", value=blind)
        yield GaugeMetricFamily("anomaly_not_ready", "1 where no score can be given.", value=int(self.not_ready()))
        labels = ["model", "version", "score_kind", "provider"]
        info = GaugeMetricFamily("anomaly_model_info", "1 for each served version.", labels=labels)
        for served in self.served():
            info.add_metric(served, 1)
        yield info

    def _collect_shadow(self) -> Iterator[Any]:
        up = GaugeMetricFamily("anomaly_shadow_up", "1 unless the shadow cannot be used.", labels=["model", "shadow"])
        told = self.shadow_up()
        if told is not None:
            up.add_metric(told[:2], int(told[2]))
        labels = ["model", "version", "shadow"]
        records = CounterMetricFamily(
            "anomaly_shadow_records", "Records handed to the shadow, by who flags them.", labels=[*labels, "result"]
        )
        differences = HistogramMetricFamily(
            "anomaly_shadow_p_value_difference", "How far the p-values of shadow and served version are apart.", labels=labels
        )
        for key, comparison in list(self.comparisons.items()):
            for name, n in comparison.results.items():
                records.add_metric([*key, name], n)
            differences.add_metric(key, comparison.differences.buckets(), comparison.differences.sum)
        yield from (up, records, differences)


def replaced_family(n: int) -> CounterMetricFamily:
    """How many workers their supervisor has replaced; each worker itself tells of none."""
    return CounterMetricFamily("anomaly_workers_replaced", "Worker processes started for one that was gone.", value=n)


def outcome(status: int) -> str:
    """What became of a request for scores, from the status of its answer."""
    return "gone" if status == CLIENT_GONE else OUTCOMES.get(status // 100, "failed")


def method_label(method: str) -> str:
    """The method, if it is a usual one: a client cannot make labels grow."""
    return method if method in METHODS else "OTHER"
