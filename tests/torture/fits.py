"""Fits that are killed, that cannot write, that run at once or elsewhere. Each run is a process of its own (forked.py) that has
loaded torch once and forks a process for every case.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.torture.runs import Outcome, torture

ROOT = Path(__file__).parents[2]


def in_a_process_of_its_own(name: str, count: int, seed: int, folder: Path) -> Outcome:
    command = [sys.executable, "-W", "ignore", "-m", "tests.torture.forked", name, str(count), str(seed), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        return Outcome(1, [f"exit code {done.returncode}: {done.stderr[-2000:]}"])
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


@torture("kill -9 at a random moment of a fit: only whole bundles, and a rerun gives the same bytes", suite=2, full=200)
def killed_fits(count: int, seed: int, folder: Path) -> Outcome:
    return in_a_process_of_its_own("killed_fits", count, seed, folder)


@torture(
    "kill -9 before and after every system call of publishing: only whole bundles, and a rerun succeeds", suite=15, full=10_000
)
def killed_publishing(count: int, seed: int, folder: Path) -> Outcome:
    return in_a_process_of_its_own("killed_publishing", count, seed, folder)


@torture(
    "every write, fsync and rename fails, once and for good: one line, a non-zero exit, the old version whole",
    suite=3,
    full=10_000,
)
def failing_disks(count: int, seed: int, folder: Path) -> Outcome:
    return in_a_process_of_its_own("failing_disks", count, seed, folder)


@torture("two fits of one model at once: both succeed, all versions whole", suite=1, full=20)
def two_fits_at_once(count: int, seed: int, folder: Path) -> Outcome:
    return in_a_process_of_its_own("two_fits_at_once", count, seed, folder)


@torture("a bundle has the same bytes in another folder, time zone, locale and hash seed", suite=1, full=6)
def fits_elsewhere(count: int, seed: int, folder: Path) -> Outcome:
    return in_a_process_of_its_own("fits_elsewhere", count, seed, folder)
