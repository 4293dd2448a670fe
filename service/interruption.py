"""Ctrl-C and SIGTERM as exceptions of the command, that leave nothing half-made, whatever a library makes of them on the way.

arro3 reads a file by calling back into Python, where a signal is told first: it takes that for a fault of the file.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def interruptible(*signals: signal.Signals) -> Iterator[None]:
    """Raises what a signal asks for: KeyboardInterrupt for SIGINT, else SystemExit(128 + its number). In the main thread only."""
    told: list[int] = []

    def end(number: int, _: FrameType | None) -> NoReturn:
        told.append(number)
        raise _asked(number)

    before = {number: signal.signal(number, end) for number in signals}
    try:
        yield
    except Exception:
        if told:
            raise _asked(told[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _asked(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
