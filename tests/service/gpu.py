"""Whether this machine has a GPU that the service would try: the same question that service/session.py asks."""

import ctypes

import pytest


def there() -> bool:
    """Whether there is an NVIDIA driver."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


needed = pytest.mark.skipif(not there(), reason="no NVIDIA driver (libcuda.so.1) on this machine")
absent = pytest.mark.skipif(there(), reason="this machine has an NVIDIA driver")
