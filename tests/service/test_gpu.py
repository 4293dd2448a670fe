"""On a machine with an NVIDIA GPU: it is used, it says so, and its scores are those of the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.bundle import Bundle
from service.detector import Detector
from service.session import CPU, CUDA, CUDA_OPTIONS, GPU_SLICES, NAMES, Provider
from service.subgraph import needed_by
from tests.service import gpu
from tests.service.test_http_protocol import WHOLE, serving

pytestmark = [pytest.mark.gpu, gpu.needed]


def golden(bundle: Bundle) -> NDArray[np.float32]:
    return np.array([record.x for record in bundle.manifest.golden], np.float32)


@pytest.mark.parametrize("provider", ["auto", "cuda"])
def test_it_is_used_and_its_scores_are_those_of_the_cpu(bundle: Bundle, provider: Provider) -> None:
    x = golden(bundle)
    fast, slow = Detector(bundle, provider), Detector(bundle, "cpu")
    assert (fast.provider, fast.gpu_lost) == (CUDA, None)
    meant = slow.score(x, explain="all")
    for rows in (1, len(x), GPU_SLICES[0] + 1):
        told, place = fast.score(np.resize(x, (rows, x.shape[1])), explain="all"), np.arange(rows) % len(x)
        for field in ("score", "elbo", "reconstruction_error", "contributions"):
            given = getattr(told, field)
            np.testing.assert_allclose(given, getattr(meant, field)[place], rtol=1e-4, atol=1e-4, err_msg=f"{field} of {rows}")
        np.testing.assert_allclose(told.contributions.sum(1), told.score, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("outputs", [NAMES, NAMES[:3]])
def test_nothing_in_the_graph_falls_back_to_the_cpu(bundle: Bundle, tmp_path: Path, outputs: tuple[str, ...]) -> None:
    """By onnxruntime's own profile: every node runs on CUDA, and nothing is copied between them."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    onnxruntime.preload_dlls()
    graph = needed_by(outputs, bundle.files["scorer.onnx"])
    session = onnxruntime.InferenceSession(graph, options, providers=[(CUDA, CUDA_OPTIONS), CPU])
    session.run(None, {"x": golden(bundle)})
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
