"""The register of torture runs: each keeps one promise to a count, small in the test suite and full in `make torture`.

To add one, write a function of (count, seed, folder) that returns its Outcome, put @torture above it, and name its module in
MODULES.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MODULES = (
    *("bundles", "tables", "fits", "overload", "switches", "processes", "prunes", "watched"),
    *("error_table", "right_answers", "hostile_requests", "floods", "slow_clients", "names_and_keys", "openapi_fuzz"),
)


@dataclass
class Outcome:
    """What a run did: how many cases, what failed, and what else is worth a column."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, float | int | str] = field(default_factory=dict)

    def check(self, holds: bool, failure: str) -> None:
        """Counts a case, and notes the failure where it does not hold."""
        self.tried += 1
        if not holds:
            self.failures.append(failure)


@dataclass(frozen=True)
class Run:
    """A registered run; suite and full are its counts."""

    name: str
    promise: str
    suite: int
    full: int
    function: Callable[[int, int, Path], Outcome]


RUNS: dict[str, Run] = {}


def torture(promise: str, *, suite: int, full: int) -> Callable[[Callable[[int, int, Path], Outcome]], Run]:
    """Registers a run under its function's name."""

    def register(function: Callable[[int, int, Path], Outcome]) -> Run:
        run = Run(function.__name__, promise, suite, full, function)
        RUNS[run.name] = run
        return run

    return register


def every() -> dict[str, Run]:
    """All runs, by name."""
    for module in MODULES:
        importlib.import_module(f"tests.torture.{module}")
    return RUNS
