"""The scores of a model on a GPU beside those on the CPU of the same machine: how fast, how far apart, and from how many records
on the GPU is the quicker.

    python benchmarks/gpu.py                                    about 2 minutes
    python benchmarks/gpu.py --models-dir .demo/serving         keeps its model for the next run

Trains the model of benchmarks/serving.py, unless it is there. In this process: calls of so many records, by one session as the
service has it, on one thread or on the GPU, and by as many threads as there are cores, each with its part. Over HTTP: Arrow
streams, one after the other, posted to one process of the service for each provider. Medians; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from beside import NAMES
from serving import ARROW, LIMITS, make_rows, running, train

from service.session import CUDA, SLICE, Session

SIZES = (1, 16, 64, 128, 256, 512, 1_000, 2_000, 5_000, 10_000, 100_000)
OVER_HTTP = (1_000, 10_000, 100_000)
WIDE = {**LIMITS, "MAX_RECORDS": "200000", "MAX_BODY_BYTES": str(64 << 20), "QUEUE_ROWS": "400000", "HELD_BYTES": str(1 << 30)}


def median(work: Callable[[], object], seconds: float) -> float:
    """Milliseconds of a call, after one to warm up: the median of at least five."""
    work()
    times, end = list[float](), time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times)


def in_process(graph: bytes, rows: Any, seconds: float) -> dict[str, Any]:
    """Milliseconds by number of records, and how far the scores are apart."""
    cpu, gpu = Session(graph, rows.shape[1], "cpu"), Session(graph, rows.shape[1], "cuda")
    cores = len(os.sched_getaffinity(0))
    told: dict[str, Any] = {"sizes": SIZES, "cpu_ms": [], "all_cores_ms": [], "gpu_ms": []}
    with ThreadPoolExecutor(cores) as pool:
        for size in SIZES:
            x = np.resize(rows, (size, rows.shape[1]))
            parts = np.array_split(x, -(-size // SLICE))
            told["cpu_ms"].append(median(lambda x=x: cpu.run(x, explain=False), seconds))
            told["all_cores_ms"].append(
                median(lambda parts=parts: list(pool.map(lambda part: cpu.run(part, explain=False), parts)), seconds)
            )
            told["gpu_ms"].append(median(lambda x=x: gpu.run(x, explain=False), seconds))
            print(f"{size:7d} records: CPU {told['cpu_ms'][-1]:9.3f} ms, {cores} cores {told['all_cores_ms'][-1]:9.3f} ms, "
                  f"GPU {told['gpu_ms'][-1]:9.3f} ms", flush=True)  # fmt: skip
    meant, given = cpu.run(rows, explain=False).score, gpu.run(rows, explain=False).score
    told["apart"] = float((np.abs(given - meant) / np.maximum(1, np.abs(meant))).max())
    told["quicker_from"] = [
        next((size for size, a, b in zip(SIZES, told[name], told["gpu_ms"], strict=True) if b < a), None)
        for name in ("cpu_ms", "all_cores_ms")
    ]
    return told


def over_http(models: Path, folder: Path, rows: Any) -> dict[str, list[float]]:
    """Rows a second of one process of the service, by provider and records a body."""
    told = dict[str, list[float]]()
    for provider in ("cpu", "cuda"):
        environment = {"ANOMALY_MODELS_DIR": str(models)}
        environment |= {f"ANOMALY_{key}": value for key, value in {**WIDE, "PROVIDER": provider}.items()}
        cores = set(sorted(os.sched_getaffinity(0))[:2])
        with running(provider, ["service", "serve"], environment, cores, folder) as server:
            began = server.wait("/score", json.dumps({"columns": {name: [0] for name in NAMES}}).encode())
            print(f"first answer, {provider}: {began:.2f} s after the start", flush=True)
            provided = json.loads(server.ask("GET", "/health")[1])["provider"]
            if (provided == CUDA) != (provider == "cuda"):
                raise SystemExit(f"{provider}: /health names {provided}")
            for size in OVER_HTTP:
                body = stream(np.resize(rows, (size, rows.shape[1])))
                ms = median(lambda body=body, server=server: check(server.ask("POST", "/score", body, ARROW)), 2)
                told.setdefault(provider, []).append(round(1e3 * size / ms))
                print(f"{size:7d} records over HTTP, {provider}: {1e3 * size / ms:,.0f} a second", flush=True)
    return told


def check(answer: tuple[int, bytes]) -> None:
    """Ends the measurement where a request fails."""
    if answer[0] != 200:
        raise SystemExit(f"{answer[0]}: {answer[1][:200]!r}")


def stream(x: Any) -> bytes:
    """An Arrow stream of the records."""
    out, table = BytesIO(), pa.table(dict(zip(NAMES, x.T.copy(), strict=True)))
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models-dir", type=Path, help="where the model is, or is to be kept")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each median")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = (options.models_dir or folder / "models").resolve()
        bundle, rows = train(folder, models), make_rows(20_000, 1).astype(np.float32)
        told = in_process(bundle.files["scorer.onnx"], rows, options.seconds)
        told["http_rows_per_s"] = {"sizes": OVER_HTTP, **over_http(models, folder, rows.astype(np.float64))}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
