"""Memory between blocks in use goes back to the system."""

import subprocess
import sys

import pytest

# In a process of its own, whose heap has nothing else: a body in 256 parts, small blocks above it, and the parts freed.
FREED = """
import asyncio, os
from service import memory
def mib():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
memory.give_back()
parts = [bytes(65_536).replace(b"\\0", b"x") for _ in range(256)]
above = [os.urandom(700) for _ in range(2_000)]
del parts
kept, memory.SECONDS = mib(), 0.01
async def a_while():
    try:
        await asyncio.wait_for(memory.give_back_for_ever(), 0.2)
    except TimeoutError:
        pass
asyncio.run(a_while())
print(kept - mib())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has a malloc_trim")
def test_the_parts_of_a_body_below_a_small_block_go_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 12
