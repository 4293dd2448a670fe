"""How far the fit is: a bar with rows/s and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.config import Config

EVERY = 5.0  # seconds between plain lines
Progress = Callable[[int, float, int], None]  # net, share of its steps that are done, records seen since the last call


@contextmanager
def show(config: Config) -> Iterator[Progress]:
    """Yields what fit_nets tells its progress to; writes to standard error."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("fit {task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]:,.0f} rows/s"),
            TimeElapsedColumn(),
            TextColumn("at most"),
            TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("", total=config.nets, rate=0.0)

            def draw(net: int, done: float, rate: float) -> None:
                bar.update(task, description=f"net {net + 1}/{config.nets}", completed=done, rate=rate)

            yield _Counter(draw)
        return
    last = time.monotonic()

    def line(net: int, done: float, rate: float) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            share = f"{100 * done / config.nets:.0f} %"
            print(f"fit net {net + 1}/{config.nets}: {share}, {rate:,.0f} rows/s", file=sys.stderr, flush=True)

    yield _Counter(line)


class _Counter:
    """The share of one net -> nets done (one that stopped early counts whole), and the rate in records a second."""

    def __init__(self, tell: Callable[[int, float, float], None]) -> None:
        self._tell, self._began, self._records = tell, time.monotonic(), 0

    def __call__(self, net: int, share: float, records: int) -> None:
        self._records += records
        self._tell(net, net + share, self._records / max(time.monotonic() - self._began, 1e-9))
