"""Loading a bundle once in a process of its own before it is loaded where scores are given.

A graph that crashes onnxruntime, hangs or eats memory in spite of service/graph.py ends that process and not the service.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

from service.bundle import Bundle
from service.manifest import BundleError, parse_manifest

SCORER = "scorer.onnx"
MEMORY = 4 << 30  # bytes of address space beside the bundle: 2 GiB that a graph may hold by service/graph.py, and libraries
REFUSED = 3
PRIORITY = 5  # of `nice`: requests go first, but on a busy host the trial has to come to an end in its time


def attempt(bundle: Bundle, seconds: float, memory: int = MEMORY) -> None:
    """Loads and proves these very bytes, on the CPU, in another process with so much time and memory. Raises BundleError."""
    manifest = bundle.manifest.dump()
    content = manifest + bundle.files[SCORER]
    memory += 4 * len(content)
    command = [sys.executable, "-m", "service.trial", bundle.version, str(len(manifest)), str(int(seconds) + 1), str(memory)]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("ANOMALY_")}  # no keys
    try:
        done = subprocess.run(  # noqa: S603 - this very program
            command, input=content, capture_output=True, timeout=seconds, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise BundleError(f"it was not loaded and proven within {seconds:g} s (ANOMALY_TRIAL_SECONDS)") from None
    except OSError as error:
        raise BundleError(f"no process to try it in: {error.strerror}") from error
    if done.returncode == REFUSED:
        raise BundleError(done.stdout.decode(errors="replace").strip())
    if done.returncode:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise BundleError(f"loading it ended a process of its own ({how}), as too much memory does, or a faulty graph")


def main(version: str, manifest_bytes: int, seconds: int, memory: int) -> int:
    """The other process: what it is to load comes on standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(seconds)  # ends it where it hangs, also when nobody is left to wait for it
    os.nice(PRIORITY)
    from service.detector import Detector  # noqa: PLC0415 - under the limits, too

    content = sys.stdin.buffer.read()
    try:
        bundle = Bundle(version, parse_manifest(content[:manifest_bytes]), {SCORER: content[manifest_bytes:]})
        Detector(bundle, "cpu")
    except BundleError as error:
        print(error)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
