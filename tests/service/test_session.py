"""Providers: only what the loaded session says counts."""

import os
import subprocess
import sys

import numpy as np
import onnx
import pytest

from service.detector import Detector
from service.manifest import BundleError
from service.session import CPU, SLICE, Session, load
from tests.service import gpu
from tests.service.tiny_bundle import FEATURES, sample, scorer


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


def test_a_graph_of_other_answers_is_refused():
    width = sum(feature.width for feature in FEATURES)
    named, other = onnx.load_from_string(scorer(FEATURES)), onnx.load_from_string(scorer(FEATURES))
    named.graph.output[1].name, named.graph.output[2].name = "reconstruction_error", "elbo"
    with pytest.raises(BundleError, match="must give score, elbo"):
        Session(named.SerializeToString(), width, "cpu")
    places = {one.name: one for one in other.graph.output}
    next(node for node in other.graph.node if node.output[0] == "expected").output[0] = "nobody's"
    other.graph.node.append(onnx.helper.make_node("Identity", ["contributions"], ["expected"]))
    places["expected"].type.CopyFrom(places["contributions"].type)  # six columns, and the model has eight
    with pytest.raises(BundleError, match="expected values of theirs"):
        Session(other.SerializeToString(), width, "cpu")


@pytest.mark.parametrize("rows", [SLICE, SLICE + 1, 2 * SLICE, 2 * SLICE + 1])
def test_no_row_is_lost_between_slices(rows):
    x = sample(FEATURES, rows)
    answers = Session(scorer(FEATURES), x.shape[1], "cpu").run(x, explain=True)
    assert [len(part) for part in answers] == [rows] * 5
    np.testing.assert_allclose(answers.score, x.sum(1), rtol=1e-5)


def test_no_rows_have_no_answers(bundle):
    answers = Session(bundle.files["scorer.onnx"], bundle.manifest.width, "cpu").run(
        np.empty((0, bundle.manifest.width), np.float32), explain=True
    )
    assert answers.score.shape == (0,)
    assert answers.contributions.shape == (0, len(bundle.manifest.features))


def test_onnxruntime_reports_to_nobody(tmp_path, bundle_dir):
    """Its own telemetry would keep an id of the device in the home folder, and look its maker up."""
    words = [sys.executable, "-m", "service", "inspect", "tiny", "--models-dir", str(bundle_dir)]
    environment = {**os.environ, "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "0"}
    subprocess.run(words, env=environment, check=True, capture_output=True)
    assert list(tmp_path.rglob("*")) == []
