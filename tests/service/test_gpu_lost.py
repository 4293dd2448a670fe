"""A GPU that is not usable, or fails while it serves: scores come from the CPU, and everybody can see that they do."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from service import placement, session
from service.bundle import Bundle
from service.detector import Detector
from service.graph import check
from service.placement import GPU_LEAST
from service.session import CPU, CUDA, SLICE
from tests.service import gpu
from tests.service.client import Client
from tests.service.conftest import Serve
from tests.service.test_health import check_unavailable
from tests.service.tiny_bundle import GOOD

ONE = {"records": [GOOD]}
MANY = {"records": [GOOD] * GPU_LEAST}


class Gpu:
    """A session that says that it is on a GPU, until that fails."""

    fails = False

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def run(self, *given: Any) -> Any:
        if Gpu.fails:
            raise RuntimeError("CUDA failure 999: unknown error")
        return self._real.run(*given)


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    real = session.load
    monkeypatch.setattr(Gpu, "fails", False)
    monkeypatch.setattr(session, "load", lambda graph, provider="auto": (real if provider == "cpu" else load)(graph, "cpu"))

    def load(graph: bytes, provider: session.Provider) -> Any:
        return Gpu(real(graph, provider))


def lost(client: Client) -> tuple[Any, Any, str]:
    """What /health says, and the metric."""
    health = client.get("/health").raise_for_status().json()
    line = next(line for line in client.get("/metrics").text.splitlines() if line.startswith("anomaly_gpu_lost "))
    return health["provider"], health["gpu_lost"], line


@pytest.mark.usefixtures("on_gpu")
def test_a_gpu_that_fails_while_it_serves_is_replaced_by_the_cpu(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = serve(provider="auto", health_seconds=0.0)
    before = client.score(MANY)
    assert lost(client) == (CUDA, None, "anomaly_gpu_lost 0.0")
    monkeypatch.setattr(Gpu, "fails", True)
    assert client.score(MANY) == before
    assert lost(client) == (CPU, "RuntimeError", "anomaly_gpu_lost 1.0")
    assert client.score(MANY) == before
    assert capfd.readouterr().err.count("the GPU is lost") == 1


@pytest.mark.usefixtures("on_gpu")
def test_a_few_records_are_quicker_on_the_cpu(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(provider="auto")
    monkeypatch.setattr(Gpu, "fails", True)
    assert client.score({"records": [GOOD] * (GPU_LEAST - 1)})
    assert lost(client) == (CUDA, None, "anomaly_gpu_lost 0.0")


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(("worth", "least"), [(1, 1), (40, 40), (GPU_LEAST + 1, GPU_LEAST)])
def test_how_many_are_quicker_on_it_depends_on_the_graph(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, worth: int, least: int
) -> None:
    """A wide graph is worth it from a few records on, a narrow one with GPU_LEAST."""
    graph, width = bundle.files["scorer.onnx"], bundle.manifest.width
    monkeypatch.setattr(placement, "GPU_WORK", check(graph, SLICE) * worth // SLICE)
    placed, ran = placement.Placement(graph, width, "auto"), list[int]()
    real = Gpu.run
    monkeypatch.setattr(Gpu, "run", lambda gpu, names, given: ran.append(len(given["x"])) or real(gpu, names, given))
    for rows in range(1, GPU_LEAST + 2):
        placed.run(np.zeros((rows, width), np.float32), explain=False)
    assert ran == list(range(least, GPU_LEAST + 2))


@pytest.mark.usefixtures("on_gpu")
def test_where_cuda_was_asked_for_its_loss_is_an_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(provider="cuda", health_seconds=0.0)
    assert client.score(ONE)
    monkeypatch.setattr(Gpu, "fails", True)
    assert client.post("/score", json=ONE).status_code == 500
    assert "fails to score" in check_unavailable(client)


@pytest.mark.usefixtures("on_gpu")
def test_what_the_cpu_cannot_run_either_is_no_lost_gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector(bundle, "auto")
    monkeypatch.setattr(Gpu, "fails", True)
    with pytest.raises(Exception, match="dimension"):
        detector.score(np.zeros((GPU_LEAST, bundle.manifest.width + 1), np.float32))
    assert (detector.provider, detector.gpu_lost) == (CUDA, None)


@gpu.absent
def test_a_driver_without_a_usable_gpu_is_told(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "may_have_cuda", lambda: True)
    client = serve(provider="auto")
    assert client.score(ONE)
    assert lost(client) == (CPU, "onnxruntime could not use it", "anomaly_gpu_lost 1.0")


@gpu.absent
def test_a_machine_without_a_gpu_has_lost_none(serve: Serve) -> None:
    assert lost(serve(provider="auto")) == (CPU, None, "anomaly_gpu_lost 0.0")


# A kernel that faults: from then on all that is asked of CUDA in this process fails, as after a fault of the hardware.
LOSE = """
import ctypes, sys
import numpy as np
from pathlib import Path
from service.detector import Detector
from service.bundle import read_bundle

bundle = read_bundle(Path(sys.argv[1]))
detector, other = Detector(bundle, "auto"), Detector(bundle, "auto")
x = np.zeros((1000, bundle.manifest.width), np.float32)
before = detector.score(x).score
assert detector.provider == other.provider == "CUDAExecutionProvider"

cuda, context, module, kernel = ctypes.CDLL("libcuda.so.1"), *(ctypes.c_void_p() for _ in range(3))
source = b".version 6.3\\n.target sm_75\\n.address_size 64\\n.visible .entry fault() { trap; }"
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == cuda.cuCtxSetCurrent(context) == 0
assert cuda.cuModuleLoadData(ctypes.byref(module), source) == 0
assert cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"fault") == 0
assert cuda.cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 0
assert cuda.cuCtxSynchronize() != 0

assert np.allclose(detector.score(x).score, before, rtol=1e-4)
del other
print(detector.provider, bool(detector.gpu_lost), flush=True)
"""


@pytest.mark.gpu
@gpu.needed
def test_a_gpu_whose_context_is_gone_is_replaced_by_the_cpu(payments: Any) -> None:
    done = subprocess.run([sys.executable, "-c", LOSE, payments.bundle], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [CPU, "True"], done.stderr


@pytest.mark.usefixtures("on_gpu")
def test_reasons_come_from_the_provider_that_scored(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would not sum to the score: a few of many are explained, which alone would go to the CPU."""
    detector, ran = Detector(bundle, "auto"), list[int]()
    real = Gpu.run
    monkeypatch.setattr(Gpu, "run", lambda gpu, names, given: ran.append(len(given["x"])) or real(gpu, names, given))
    x = np.full((GPU_LEAST, bundle.manifest.width), np.nan, np.float32)
    x[0] = 1e9
    scores = detector.score(x)
    assert scores.explained.tolist() == [0]
    assert ran == [GPU_LEAST, 1]
