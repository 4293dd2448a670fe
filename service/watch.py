"""What a version is watched for while it serves: far more flags than alpha, drift of its features, and scores unlike those of its
calibration.

Requests only leave what they scored in a small buffer. A timer digests it once a second, in constant memory, 1,024 records at
most: of more traffic than that, a sample is looked at. Nothing here is ever a failure: /health tells of it as a warning.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service import log
from service.drift import KINDS, Cells, Kind, Measures
from service.flagged import FlaggedShare
from service.manifest import Manifest
from service.martingale import Martingale, Ranks

ROWS, VALUES = 1_024, 1 << 16  # looked at in a digest, at most; of a wide table fewer rows
DIGEST_SECONDS, JUDGE_SECONDS = 1.0, 5.0
RECENT_SECONDS = 3600.0  # a record of then counts 1 / e of one of now
LEAST = 200  # records, before anything is said of features
WarningKind = Kind | Literal["p_values", "flagged"]
WARNINGS: tuple[WarningKind, ...] = (*KINDS, "p_values", "flagged")
FALSE_WARNINGS = 0.01  # probability that p-values ever warn where nothing has changed
TOLERANCE = 0.05  # from uniform, as Kolmogorov and Smirnov have it: a smaller distance is evident at times, but no warning
PERSISTENCE = 10  # times the records that it took to warn have to pass without evidence before a warning ends by itself
WIDE_TOLERANCE = 0.1  # where the calibration records trained, too, so that p-values are not exactly uniform


class Warned(NamedTuple):
    """Something that has changed: a feature, or with no feature, the p-values or the share that is flagged."""

    kind: WarningKind
    feature: str | None
    reason: str | None = None  # in words, where no measures tell


class Window:
    """Counts of records, of all since it began or of recent ones: those of `seconds` ago count 1 / e."""

    def __init__(self, cells: tuple[int, int], bins: int, seconds: float, now: float) -> None:
        """Nothing counted, in cells (F, W) and bins of p-values (B,)."""
        self.cells, self.bins = np.zeros(cells), np.zeros(bins)
        self.total = self.squares = 0.0  # of the records' weights, and of their squares
        self._seconds, self._last = seconds, now

    def add(self, cells: NDArray[np.float64], bins: NDArray[np.float64], records: int, now: float) -> None:
        """Counts records, none perhaps, at this time."""
        kept = math.exp((self._last - now) / self._seconds)
        self._last = now
        self.cells = kept * self.cells + cells
        self.bins = kept * self.bins + bins
        self.total = kept * self.total + records
        self.squares = kept**2 * self.squares + records

    @property
    def tells(self) -> bool:
        """Whether there are records enough to say anything."""
        return self.total >= LEAST

    @property
    def weight(self) -> float:
        """How many equal records a counted one stands for, as to chance."""
        return self.total / self.squares if self.squares else 1.0

    @property
    def flagged(self) -> float:
        """The share of records with p <= the bundle's alpha: they are in no bin."""
        return max(0.0, 1 - float(self.bins.sum()) / self.total) if self.total else 0.0

    def distance(self, expected: NDArray[np.float64]) -> float:
        """The largest gap between the shares of p-values up to a bin's end and those expected; 0 where there are none."""
        shares = np.cumsum(self.bins) / max(self.bins.sum(), 1e-9)
        return float(np.abs(shares - np.cumsum(expected) / expected.sum()).max(initial=0.0)) if self.bins.sum() else 0.0


class Watch:
    """Watches one version. Noted in whichever thread scores; all else belongs to the event loop."""

    def __init__(self, manifest: Manifest, processes: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        """Of a version that so many processes serve, each with a watch of its own: together they warn falsely no more often."""
        self.warns_at = processes / FALSE_WARNINGS
        self.features, self._clock = manifest.features, clock
        self.cells = Cells(manifest.features) if all(feature.reference for feature in manifest.features) else None
        self.ranks = Ranks(np.asarray(manifest.calibration.scores, np.float32), manifest.alpha)
        self.flagged = FlaggedShare(manifest.alpha, self.ranks.flagged, len(manifest.calibration.scores))
        self._martingale = Martingale(self.ranks.expected)
        self.held_out = manifest.calibration.held_out
        self.tolerance = TOLERANCE if self.held_out else WIDE_TOLERANCE
        self._rows = max(64, min(ROWS, VALUES // manifest.width))
        self._noted: deque[tuple[NDArray[np.float32], NDArray[np.float32]]] = deque()
        self._room = self._rows
        shape = self.cells.reference.shape if self.cells else (0, 0)
        now = self._judged = clock()
        self.ever, self.recent = (Window(shape, len(self.ranks.expected), span, now) for span in (math.inf, RECENT_SECONDS))
        self.records = 0
        self.measures: dict[Kind, Measures] = {}  # as last judged; none where there are too few records
        self.warnings: list[Warned] = []
        self.warned_at: datetime | None = None  # when the p-values last gave evidence enough
        self._stands_until, self._needed = now, 0

    @property
    def evidence(self) -> float:
        """Against live scores that come from where the calibration scores came from; 1 is none."""
        return self._martingale.evidence

    @property
    def judged_by(self) -> Window:
        """What warnings go by: the recent records, or all where those are too few."""
        return self.recent if self.recent.tells else self.ever

    def note(self, x: NDArray[np.float32], score: NDArray[np.float32]) -> None:
        """Leaves scored records x (N, C), score (N,) for the next digest. On the way of every request: in few steps."""
        n, room = len(score), self._room
        if n > room:  # two threads may both see the same room: a few rows more, no harm
            if room <= 0:
                return
            step = -(-n // room)
            x, score = x[::step].copy(), score[::step]
            n = len(score)
        self._room = room - n
        self._noted.append((x, score))

    def digest(self, *, judge: bool = False) -> None:
        """Counts what was noted; judges anew every few seconds, or if asked to."""
        now = self._clock()
        noted = [self._noted.popleft() for _ in range(len(self._noted))]
        self._room = self._rows
        if noted:
            x, score = (np.concatenate(parts) for parts in zip(*noted, strict=True))
            sound = np.isfinite(score)
            self._count(x[sound], score[sound], now)
        if judge or now - self._judged >= JUDGE_SECONDS:
            self._judged = now
            self._judge(now)

    def _count(self, x: NDArray[np.float32], score: NDArray[np.float32], now: float) -> None:
        bins = self.ranks.count(score)
        cells = self.cells.count(x) if self.cells else np.zeros((0, 0))
        self.records += len(x)
        for window in (self.ever, self.recent):
            window.add(cells, bins, len(x), now)
        self._martingale.see(bins)
        if self._martingale.evidence >= self.warns_at:
            # A test that has found something begins anew; the warning stands until the new one had far longer without finding it.
            self.warned_at, self._stands_until = datetime.now(UTC), now + RECENT_SECONDS
            self._needed = PERSISTENCE * self._martingale.records
            self._martingale = Martingale(self.ranks.expected)

    def _judge(self, now: float) -> None:
        nothing = np.zeros(())
        for window in (self.ever, self.recent):
            window.add(nothing, nothing, 0, now)
        window = self.judged_by
        self.measures = self.cells.measures(window.cells, window.weight) if self.cells and window.tells else {}
        self.warnings = [
            Warned(kind, self.features[place].name)
            for kind, measures in self.measures.items()
            for place in np.flatnonzero(measures.warned).tolist()
        ]
        stands = now < self._stands_until or self._martingale.records < self._needed
        if stands and window.distance(self.ranks.expected) >= self.tolerance:
            self.warnings.append(Warned("p_values", None))
        if window.tells and self.flagged.warned(window.flagged, window.total * window.weight):
            reason = f"{100 * window.flagged:.3g} % of the records are flagged, and alpha is {self.flagged.alpha:g}"
            self.warnings.insert(0, Warned("flagged", None, reason))


class Watched(Protocol):
    """What a watch belongs to."""

    name: str
    version: str
    watch: Watch


async def digest_for_ever(watched: Callable[[], Iterable[Watched]]) -> None:
    """Digests every second what the requests of each version have left."""
    while True:
        await asyncio.sleep(DIGEST_SECONDS)
        for live in watched():
            try:
                live.watch.digest()
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the watching of the others
                log.event(logging.ERROR, "watching failed", model=live.name, version=live.version, error=type(error).__name__)
