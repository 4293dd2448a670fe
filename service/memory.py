"""Memory that large bodies took goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
BYTES = 1 << 20


def give_back() -> None:
    """Has glibc return freed blocks above a megabyte. By itself it raises that threshold with each large block that is freed,
    up to 32 MiB, and then keeps tens of megabytes of bodies that it could give back. Elsewhere it does nothing.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, BYTES)
        mallopt(M_TRIM_THRESHOLD, BYTES)
