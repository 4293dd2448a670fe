"""Watching for drift: that nothing is warned of where nothing has changed, over many calibration sets and long streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from service.martingale import Counts, Martingale, Ranks
from service.watch import FALSE_WARNINGS
from tests.torture.runs import Outcome, torture

SIZES = (100, 1_000, 5_000)
STREAM, BLOCK = 200_000, 1_000


class Source:
    """Normal scores of a calibration set of n, and live ones."""

    def __init__(self, n: int, seed: int) -> None:
        self.random = np.random.default_rng([n, seed])
        self.ranks = Ranks(np.sort(self.random.normal(size=n)).astype(np.float32), 0.01)

    def counts(self, n: int, shift: float = 0.0, spread: float = 1.0) -> Counts:
        """Of n more live scores, by bin."""
        return self.ranks.count(self.random.normal(shift, spread, n).astype(np.float32))


def first_alarm(source: Source, before: int, until: int, shift: float, spread: float = 1.0, block: int = 250) -> int | None:
    """After how many live records the evidence is enough for a warning, if by `until`; they move after so many."""
    martingale = Martingale(source.ranks.expected)
    for seen in range(0, until, block):
        moved = seen >= before
        martingale.see(source.counts(block, shift if moved else 0.0, spread if moved else 1.0))
        if martingale.evidence >= 1 / FALSE_WARNINGS:
            return seen + block
    return None


@torture("p-values warn of nothing in 99 % of streams in which nothing changes", suite=30, full=3_000)
def false_warnings(count: int, seed: int, folder: Path) -> Outcome:
    """Streams of 200,000 records, each with a calibration set of its own, of 100, 1,000 and 5,000 records by turns."""
    outcome, alarms = Outcome(), dict.fromkeys(SIZES, 0)
    for stream in range(count):
        n = SIZES[stream % len(SIZES)]
        alarms[n] += first_alarm(Source(n, 1_000_000 * seed + stream), STREAM, STREAM, 0.0, block=BLOCK) is not None
        outcome.tried += 1
    for n, found in alarms.items():
        tried = count // len(SIZES)
        allowed = FALSE_WARNINGS * tried
        outcome.figures[f"alarms_{n}"] = found
        if found > allowed + 3 * allowed**0.5 + 1:
            outcome.failures.append(f"{found} of {tried} streams beside {n} calibration records warned")
    return outcome
