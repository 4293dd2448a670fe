"""The last hour of a process, for the page: what its metrics have counted, half a minute at a time, in constant memory.

Costs requests nothing: the counts are those of service.metrics, looked at by a timer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.metrics import P_VALUES, SCORES, SECONDS, Metrics, ModelCounts

SLOT_SECONDS, SLOTS = 30.0, 120
Totals = NDArray[np.int64]


class Slot(NamedTuple):
    """What was counted in some seconds."""

    seconds: float
    errors: int
    latency: Totals  # (17,) requests by the buckets of their time
    models: dict[str, Totals]  # by name: records, anomalies, (16,) scores and (17,) p-values by bucket


class Activity:
    """A ring of slots. Belongs to the event loop."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._slots: deque[Slot] = deque(maxlen=SLOTS)
        self._began = time.monotonic()
        self._errors, self._latency = 0, np.zeros(len(SECONDS) + 1, np.int64)
        self._seen: dict[int, tuple[str, ModelCounts, Totals]] = {}  # by the identity of the counts

    def tick(self) -> None:
        """Ends a slot, and begins the next."""
        self._slots.append(self._current())
        self._began = time.monotonic()
        self._errors, self._latency = self._counted()
        self._seen = {key: (name, counts, _totals(counts)) for key, (name, counts) in self._known().items()}

    def document(self, model: str) -> dict[str, Any]:
        """The hour of a model, and of the process: lists of a value a slot, the last one not over yet."""
        slots = [*self._slots, self._current()]
        nothing = np.zeros(2 + len(SCORES) + 1 + len(P_VALUES) + 1, np.int64)
        counted = np.array([slot.models.get(model, nothing) for slot in slots])
        latency = np.array([slot.latency for slot in slots])
        whole, split = counted.sum(0)[2:].tolist(), len(SCORES) + 1
        return {
            "seconds": [round(slot.seconds, 3) for slot in slots],
            "requests": latency.sum(1).tolist(),
            "errors": [slot.errors for slot in slots],
            "p50_ms": _milliseconds(latency, 0.5),
            "p99_ms": _milliseconds(latency, 0.99),
            "records": counted[:, 0].tolist(),
            "anomalies": counted[:, 1].tolist(),
            "scores": {"bounds": SCORES, "counts": whole[:split]},
            "p_values": {"bounds": P_VALUES, "counts": whole[split:]},
        }

    def _current(self) -> Slot:
        """What was counted since the last tick; of versions that were swapped out since, too."""
        every = self._known() | {key: (name, counts) for key, (name, counts, _) in self._seen.items()}
        models = dict[str, Totals]()
        for key, (name, counts) in every.items():
            more = _totals(counts)
            if key in self._seen:
                more = more - self._seen[key][2]
            if more[0]:
                models[name] = models[name] + more if name in models else more
        errors, latency = self._counted()
        return Slot(time.monotonic() - self._began, errors - self._errors, latency - self._latency, models)

    def _known(self) -> dict[int, tuple[str, ModelCounts]]:
        """The counts of versions that are loaded, and of those that were and may be again: then they go on."""
        every = {**self._metrics.models, **self._metrics.retired}
        return {id(counts): (name, counts) for (name, _), counts in every.items()}

    def _counted(self) -> tuple[int, Totals]:
        return sum(self._metrics.errors.values()), np.array(self._metrics.stages["total"].counts)

    async def tick_for_ever(self) -> None:
        """Ends a slot every SLOT_SECONDS."""
        while True:
            await asyncio.sleep(SLOT_SECONDS)
            self.tick()


def shares(scores: NDArray[np.floating], bounds: tuple[float, ...]) -> list[float]:
    """The share of scores (n,) in each bucket of these bounds."""
    counts = np.bincount(np.searchsorted(np.array(bounds), scores), minlength=len(bounds) + 1)
    return [float(share) for share in np.round(counts / len(scores), 6)]


def _totals(counts: ModelCounts) -> Totals:
    return np.array([counts.records, counts.anomalies, *counts.scores.counts, *counts.p_values.counts])


def _milliseconds(latency: Totals, q: float) -> list[float | None]:
    """The q-quantile of each row of (S, 17) counts by bucket, as Prometheus interpolates it; None of a row without requests."""
    bounds = np.array([0.0, *SECONDS, SECONDS[-1]])  # beyond the last bound: that bound
    below = np.concatenate([np.zeros((len(latency), 1), np.int64), latency.cumsum(1)], axis=1)
    rank = q * below[:, -1:]
    bucket = np.clip((below[:, 1:] < rank).sum(1), 0, len(SECONDS))
    rows = np.arange(len(latency))
    inside = (rank[:, 0] - below[rows, bucket]) / np.maximum(latency[rows, bucket], 1)
    value = 1e3 * (bounds[bucket] + inside * (bounds[bucket + 1] - bounds[bucket]))
    return [round(float(v), 4) if n else None for v, n in zip(value, below[:, -1], strict=True)]
