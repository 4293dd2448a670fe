"""What was refused is not tried again for nothing, but when its files have changed since, or when what failed may have passed."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from service.manifest import BundleError, ProviderError

# Seconds until a bundle that failed its trial is tried again, twice as long each time: a busy host can be the reason, too.
SOON, LATE = 60.0, 3600.0
Seen = tuple[tuple[str, int, int, int], ...]  # name, bytes, and when content and entry changed, of each file


@dataclass(frozen=True)
class Refusal:
    """Why a bundle cannot be used, and how its files looked then."""

    seen: Seen
    reason: str
    times: int  # that it was refused with the files as they are
    again_at: float  # by time.monotonic()
    lacks_provider: bool  # the reason is not the bundle's

    @classmethod
    def of(cls, error: BundleError, seen: Seen, before: Refusal | None, now: float) -> Refusal:
        """The refusal of a bundle that looked so before it was read; `before`: that of the last time."""
        times = 1 if before is None or before.seen != seen else before.times + 1
        wait = min(SOON * 2 ** min(times - 1, 10), LATE) if error.stage == "trial" else math.inf
        return cls(seen, str(error), times, now + wait, isinstance(error, ProviderError))

    def stands(self, seen: Seen, now: float) -> bool:
        """Whether to try again would be in vain."""
        return self.seen == seen and now < self.again_at


def look(*paths: Path) -> Seen:
    """How files look, and those in folders: a copy that keeps the times of what it copies changes that of the entry."""
    folders = {path for path in paths if os.path.isdir(path)}  # noqa: PTH112 - pathlib's raises where one may not look
    files = [file for path in paths for file in ([path, *sorted(path.glob("*"))] if path in folders else [path])]
    return tuple(seen for file in files if (seen := _look_at(file)) is not None)


def _look_at(file: Path) -> tuple[str, int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return file.name, found.st_size, found.st_mtime_ns, found.st_ctime_ns
