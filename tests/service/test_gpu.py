"""On a machine with an NVIDIA GPU: it is used, it says so, and its scores are those of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from service import tabular
from service.bundle import Bundle, read_bundle
from service.detector import Detector
from service.session import CPU, CUDA, CUDA_OPTIONS, GPU_SLICES, NAMES, Provider
from service.subgraph import needed_by
from tests.service import gpu
from tests.service.orders import orders, with_one_cell_of_another
from tests.service.test_http_protocol import WHOLE, serving
from training.__main__ import main

pytestmark = [pytest.mark.gpu, gpu.needed]


@pytest.fixture(scope="module")
def orders_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a table with rules of every kind."""
    folder = tmp_path_factory.mktemp("orders")
    orders(3_000).to_csv(folder / "orders.csv", index=False)
    assert main(["fit", str(folder / "orders.csv"), "--model", "orders", "--models-dir", str(folder / "models")]) == 0
    (version,) = folder.glob("models/orders/*/manifest.json")
    bundle = read_bundle(version.parent)
    rules = bundle.manifest.rules
    assert rules
    assert all((rules.bounds, rules.whole, rules.pairs, rules.relations, rules.products, rules.apart))
    return bundle


@pytest.fixture(params=["bundle", "orders_bundle"])
def any_bundle(request: pytest.FixtureRequest) -> Bundle:
    """That of the payments, and that of a table with rules of every kind."""
    made: Bundle = request.getfixturevalue(request.param)
    return made


def x_of(bundle: Bundle, table: pd.DataFrame) -> NDArray[np.float32]:
    """The table as x (N, C)."""
    out, given = pa.BufferOutputStream(), pa.Table.from_pandas(table, preserve_index=False)
    with pa.ipc.new_stream(out, given.schema) as writer:
        writer.write_table(given)
    return tabular.read(bundle.manifest, out.getvalue().to_pybytes(), len(table), 1 << 30)


def golden(bundle: Bundle) -> NDArray[np.float32]:
    return np.array([record.x for record in bundle.manifest.golden], np.float32)


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_it_is_used_and_its_scores_are_those_of_the_cpu(any_bundle: Bundle, provider: Provider) -> None:
    x = golden(any_bundle)
    fast, slow = Detector(any_bundle, provider), Detector(any_bundle, "cpu")
    assert (fast.provider, fast.gpu_lost) == (CUDA, None)
    meant = slow.score(x, explain="all")
    for rows in (1, len(x), GPU_SLICES[0] + 1):
        told, place = fast.score(np.resize(x, (rows, x.shape[1])), explain="all"), np.arange(rows) % len(x)
        for field in ("score", "elbo", "reconstruction_error", "contributions"):
            given = getattr(told, field)
            np.testing.assert_allclose(given, getattr(meant, field)[place], rtol=1e-4, atol=1e-4, err_msg=f"{field} of {rows}")
        np.testing.assert_allclose(told.contributions.sum(1), told.score, rtol=1e-4, atol=1e-4)


def test_it_finds_the_same_rules_kept_and_broken_as_the_cpu(orders_bundle: Bundle) -> None:
    """Records on the edge of a relation's rounding, and over it: a last bit must not decide."""
    table = orders(4_000, seed=1)
    kept, altered = x_of(orders_bundle, table), x_of(orders_bundle, with_one_cell_of_another(table))
    fast, slow = Detector(orders_bundle, "cuda"), Detector(orders_bundle, "cpu")
    for x in (kept, altered):
        meant, told = slow.score(x, explain="all"), fast.score(x, explain="all")
        for field in ("score", "contributions"):
            np.testing.assert_allclose(getattr(told, field), getattr(meant, field), rtol=1e-4, atol=1e-4, err_msg=field)
    assert slow.score(altered).is_anomaly.mean() > 10 * slow.score(kept).is_anomaly.mean()


@pytest.mark.parametrize("outputs", [NAMES, NAMES[:3]])
def test_nothing_in_the_graph_falls_back_to_the_cpu(any_bundle: Bundle, tmp_path: Path, outputs: tuple[str, ...]) -> None:
    """By onnxruntime's own profile: every node runs on CUDA, and nothing is copied between them."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    onnxruntime.preload_dlls()
    graph = needed_by(outputs, any_bundle.files["scorer.onnx"])
    session = onnxruntime.InferenceSession(graph, options, providers=[(CUDA, CUDA_OPTIONS), CPU])
    session.run(None, {"x": golden(any_bundle)})
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes: list[dict[str, Any]] = [
        event["args"] for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]
    assert len(nodes) > 50
    assert {node["op_name"] for node in nodes if node["provider"] != CUDA} == set()
    assert [node["op_name"] for node in nodes if node["op_name"].startswith("Memcpy")] == []


def test_the_service_says_that_it_is_used(bundle_dir: Path) -> None:
    with serving(bundle_dir, provider="cuda") as server:
        assert server.ask(WHOLE)[0] == 200
        status, _, health = server.ask(b"GET /health HTTP/1.1\r\n\r\n")
    assert (status, health["provider"], health["gpu_lost"]) == (200, CUDA, None)
