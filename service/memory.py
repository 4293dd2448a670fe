"""Memory that large bodies took goes back to the system."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
BYTES = 1 << 20
SECONDS = 1.0


def give_back() -> None:
    """Has glibc return freed blocks above a megabyte. By itself it raises that threshold with each large block that is freed,
    up to 32 MiB, and then keeps tens of megabytes of bodies that it could give back. Elsewhere it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, BYTES)
        mallopt(M_TRIM_THRESHOLD, BYTES)


async def give_back_for_ever() -> None:
    """Has glibc return what lies between blocks that are in use, too: a body that came in parts may be as much, and a single log
    line above it keeps all of it. Once a second; it takes 15 us where there is nothing, and a millisecond for 16 MiB.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        malloc_trim = ctypes.CDLL(None).malloc_trim
        while True:
            await asyncio.sleep(SECONDS)
            malloc_trim(0)
