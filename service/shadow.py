"""A version that is scored beside the served one and never answered: what it would have flagged, told in the metrics alone.

Those who score hand their records over in one call that waits for nothing. A thread gathers, scores and compares them; what it
cannot keep up with is dropped and counted. Whatever goes wrong here is a number, a line in the log and a word in /health.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service import log
from service.detector import Detector
from service.manifest import BundleError, Feature, Manifest
from service.metrics import Comparison, Metrics
from service.refusals import Refusal, Seen

GATHER_SECONDS = 0.05  # a run costs far more to begin than to go on, and nobody waits for this one
RUN_ROWS = 512
MAX_BYTES = 16 << 20  # of x that may wait
JOIN_SECONDS = 5.0
TOLD = 3  # features named where they differ


class Beside:
    """The shadow of one served version. `offer` is called by whatever thread scores."""

    __slots__ = ("_align", "_alpha", "_detector", "_shadow", "comparison")

    def __init__(self, shadow: Shadow, detector: Detector, served: Manifest, comparison: Comparison) -> None:
        """Raises ValueError where the two versions do not have the same features."""
        self._shadow, self._detector, self._alpha, self.comparison = shadow, detector, served.alpha, comparison
        self._align = Alignment(served, detector.manifest)

    def offer(self, x: NDArray[np.float32], p_value: NDArray[np.float64]) -> None:
        """Takes records x (N, C) and the p-values (N,) that the served version gave them, or drops them."""
        self._shadow.put(self, x, p_value)

    def compare(self, x: NDArray[np.float32], p_value: NDArray[np.float64]) -> None:
        """Scores and counts: each version by its own alpha, whatever the requests asked for."""
        scores = self._detector.score(self._align(x), explain="none")
        self.comparison.count(p_value <= self._alpha, scores.is_anomaly, np.abs(scores.p_value - p_value))


Waiting = tuple[Beside, NDArray[np.float32], NDArray[np.float64]]


class Served(Protocol):
    """What a shadow needs of the version that it goes beside."""

    version: str
    detector: Detector
    shadow: Beside | None


class Shadow:
    """The version that ANOMALY_SHADOW names. Its methods belong to the event loop, but for `put`."""

    def __init__(self, name: str, version: str, metrics: Metrics) -> None:
        self.name, self.version = name, version
        self._metrics = metrics
        self._detector: Detector | None = None
        self._refusal: Refusal | None = None  # of the bundle that was tried last
        self.state, self.reason = "loading", "it is being loaded"
        self._queue: SimpleQueue[Waiting | None] = SimpleQueue()
        self._bytes, self._lock = 0, threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False
        metrics.shadow_up = self._up

    def document(self) -> dict[str, Any]:
        """What /health says of it, to whoever asks: no path and no feature."""
        failing = self.state == "comparing" and self._failing
        state, reason = (
            ("failing", "it fails to score; the log has the class of the error") if failing else (self.state, self.reason)
        )
        return {"model": self.name, "version": self.version, "state": state, "reason": reason or None}

    def _up(self) -> tuple[str, str, bool] | None:
        state = self.document()["state"]
        return None if state == "loading" else (self.name, self.version, state in ("comparing", "idle"))

    def is_new(self, seen: Seen) -> bool:
        """Whether a bundle that looks so is to be tried: none is loaded, and this one has not been for nothing."""
        return self._detector is None and not (self._refusal and self._refusal.stands(seen, time.monotonic()))

    def refuse(self, seen: Seen, error: BundleError) -> None:
        """The bundle that looked so cannot be used."""
        self._refusal = Refusal.of(error, seen, self._refusal, time.monotonic())
        log.event(logging.WARNING, "shadow refused", model=self.name, version=self.version, reason=str(error))
        self.state, self.reason = "refused", "its bundle cannot be used; the log has the reason"

    def take(self, detector: Detector, live: Served | None) -> None:
        """The bundle is loaded, and goes beside this served version from now on."""
        self._detector = detector
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()
        self.attach(live)

    def attach(self, live: Served | None) -> None:
        """Goes beside this version of its model, which is served from now on."""
        if self._detector is None:
            return
        if live is None:
            self.state, self.reason = "idle", "its model has no served version"
        elif live.version == self.version:
            self.state, self.reason = "idle", "it is the served version"
        else:
            comparison = self._metrics.comparison(self.name, live.version, self.version)
            try:
                live.shadow = Beside(self, self._detector, live.detector.manifest, comparison)
            except ValueError as error:
                self.state, self.reason = "refused", "its features are not those of the served version; the log names them"
                log.event(logging.WARNING, "shadow refused", model=self.name, version=self.version, reason=str(error))
            else:
                self.state, self.reason = "comparing", ""
                members = {"model": self.name, "version": live.version, "shadow": self.version}
                log.event(logging.INFO, "shadow scored beside the served version", **members)

    def put(self, beside: Beside, x: NDArray[np.float32], p_value: NDArray[np.float64]) -> None:
        """Adds records to those that wait, or counts them as dropped where there are too many."""
        with self._lock:
            fits = self._bytes + x.nbytes <= MAX_BYTES
            if fits:
                self._bytes += x.nbytes
            else:
                beside.comparison.results["dropped"] += len(x)
        if fits:
            self._queue.put((beside, x, p_value))

    def close(self) -> None:
        """Ends the thread, after what it is scoring now."""
        self._ending.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)

    def _work(self) -> None:
        while (first := self._queue.get()) is not None:
            if self._ending.wait(GATHER_SECONDS):
                return
            for beside, x, p_value in _together(self._gather(first)):
                self._compare(beside, x, p_value)
            if self._ending.is_set():  # what says so may have been gathered
                return

    def _gather(self, first: Waiting) -> list[Waiting]:
        taken, rows = [first], len(first[1])
        while rows < RUN_ROWS:
            try:
                more = self._queue.get_nowait()
            except Empty:
                break
            if more is None:
                break
            taken.append(more)
            rows += len(more[1])
        return taken

    def _compare(self, beside: Beside, x: NDArray[np.float32], p_value: NDArray[np.float64]) -> None:
        try:
            beside.compare(x, p_value)
            self._failing = False
        except Exception as error:  # noqa: BLE001 - whatever it is, it is nobody's answer
            beside.comparison.results["failed"] += len(x)
            if not self._failing:
                log.event(
                    logging.WARNING, "shadow fails to score", model=self.name, version=self.version, error=type(error).__name__
                )
            self._failing = True
        with self._lock:
            self._bytes -= x.nbytes


class Alignment:
    """From x (N, C) as one manifest has it to x as another of the same features has it."""

    def __init__(self, served: Manifest, other: Manifest) -> None:
        """Raises ValueError that names the features in which they differ."""
        ours, theirs = ({feature.name: feature for feature in manifest.features} for manifest in (served, other))
        differing = [
            name for name in {**ours, **theirs} if name not in ours or name not in theirs or _differ(ours[name], theirs[name])
        ]
        if differing:
            more = "" if len(differing) <= TOLD else f" and {len(differing) - TOLD} more"
            raise ValueError(f"the features differ: {', '.join(differing[:TOLD])}{more}")
        starts = dict(zip(ours, np.cumsum([0, *(feature.width for feature in ours.values())]), strict=False))
        self._columns = np.concatenate([starts[name] + np.arange(feature.width) for name, feature in theirs.items()])
        self._codes: list[tuple[int, NDArray[np.float32]]] = []  # a column of categories, and the place there of each place here
        at = 0
        for name, feature in theirs.items():
            if feature.kind == "categorical" and feature.categories != ours[name].categories:
                places = {category: place for place, category in enumerate(feature.categories)}
                unknown = len(feature.categories)
                codes = [places.get(category, unknown) for category in ours[name].categories]
                self._codes.append((at, np.array([*codes, unknown], np.float32)))
            at += feature.width
        self._same = not self._codes and list(ours) == list(theirs)

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same records. A category that the first manifest does not know is unknown in the second, too."""
        if self._same:
            return x
        aligned = x[:, self._columns]
        for column, codes in self._codes:
            there = ~np.isnan(aligned[:, column])
            aligned[there, column] = codes[aligned[there, column].astype(np.intp)]
        return aligned


def _differ(one: Feature, other: Feature) -> bool:
    same = one.kind == other.kind and bool(one.day_first) == bool(other.day_first)
    return not same or (one.kind == "categorical" and one.integer != other.integer)


def _together(taken: list[Waiting]) -> list[Waiting]:
    """One entry for each served version: there are two for a moment, where it has just changed."""
    return [
        (
            beside,
            np.concatenate([x for one, x, _ in taken if one is beside]),
            np.concatenate([p_value for one, _, p_value in taken if one is beside]),
        )
        for beside in dict.fromkeys(one for one, _, _ in taken)
    ]
