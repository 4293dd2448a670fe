"""Providers: only what the loaded session says counts."""

import os
import subprocess
import sys

import numpy as np
import pytest

from service.detector import Detector
from service.manifest import BundleError
from service.session import CPU, CUDA, Session, load
from tests.service import gpu


@gpu.absent
def test_auto_takes_the_cpu_where_there_is_no_gpu(bundle):
    assert Detector(bundle, "auto").provider == CPU


@gpu.absent
def test_cuda_is_refused_where_there_is_no_gpu(bundle):
    with pytest.raises(BundleError, match="provider cuda"):
        Detector(bundle, "cuda")


def test_cpu_is_the_cpu_everywhere(bundle):
    assert Detector(bundle, "cpu").provider == CPU


@pytest.mark.parametrize("content", [b"", b"not a graph", bytes(1000)])
def test_what_is_no_graph_is_refused(content):
    with pytest.raises(BundleError, match="refuses the graph"):
        load(content, "cpu")


def test_a_graph_of_another_shape_is_refused(bundle):
    with pytest.raises(BundleError, match="one float input x"):
        Session(bundle.files["scorer.onnx"], bundle.manifest.width + 1, "cpu")
    with pytest.raises(BundleError, match="must take"):
        Session(bundle.files["decoder.onnx"], bundle.manifest.width, "cpu")


def test_no_rows_have_no_answers(bundle):
    answers = Session(bundle.files["scorer.onnx"], bundle.manifest.width, "cpu").run(
        np.empty((0, bundle.manifest.width), np.float32), explain=True
    )
    assert answers.score.shape == (0,)
    assert answers.contributions.shape == (0, len(bundle.manifest.features))


@pytest.mark.gpu
@gpu.needed
def test_auto_takes_the_gpu_and_its_scores_are_those_of_the_cpu(bundle):
    x = np.array([golden.x for golden in bundle.manifest.golden], np.float32)
    x = np.concatenate([x, np.repeat(x[:10], 300, 0)])
    fast, slow = Detector(bundle, "auto"), Detector(bundle, "cpu")
    assert fast.provider == CUDA
    told, meant = fast.score(x, explain="none"), slow.score(x, explain="none")
    for field in ("score", "elbo", "reconstruction_error"):
        np.testing.assert_allclose(getattr(told, field), getattr(meant, field), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@gpu.needed
def test_nothing_in_the_graph_falls_back_to_the_cpu(bundle, tmp_path):
    """By onnxruntime's own profile: every node runs on CUDA, but for copies at the ends."""
    import json

    import onnxruntime

    onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(bundle.files["scorer.onnx"], options, providers=[CUDA, CPU])
    x = np.array([golden.x for golden in bundle.manifest.golden], np.float32)
    session.run(None, {"x": x})
    events = json.loads((tmp_path / session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    there = {(node["op_name"], node["provider"]) for node in nodes}
    assert {provider for op, provider in there if not op.startswith("Memcpy")} == {CUDA}, there


def test_onnxruntime_reports_to_nobody(tmp_path, bundle_dir):
    """Its own telemetry would keep an id of the device in the home folder, and look its maker up."""
    words = [sys.executable, "-m", "service", "inspect", "tiny", "--models-dir", str(bundle_dir)]
    environment = {**os.environ, "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run(words, env=environment, check=True, capture_output=True)
    assert list(tmp_path.rglob("*")) == []
