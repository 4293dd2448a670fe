"""The only file that knows onnxruntime: choosing a provider, loading a graph from bytes, running it in slices."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import weakref
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from service.graph import GraphError, check
from service.manifest import BundleError, ProviderError
from service.subgraph import needed_by

# Its official builds report their use to their maker over the network, and keep an id of the device in the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

Provider = Literal["auto", "cuda", "cpu"]
SLICE = 512  # rows a run: memory does not grow with the request, and a slice stays in the cache
GPU_SLICES = (16_384, 4_096, 1_024, SLICE)  # the largest that the graph's memory allows: few rows leave a GPU idle
NAMES = ("score", "elbo", "reconstruction_error", "contributions", "expected")
VERSION: str = onnxruntime.__version__
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# By default matrices are multiplied with 10 bits of mantissa where a GPU can: scores would be those of the CPU to 1e-2 only.
CUDA_OPTIONS = {"use_tf32": "0"}


class Answers(NamedTuple):
    """What the graph says of N records; contributions (N, T) and expected (N, C) only where asked for, else of no rows."""

    score: NDArray[np.float32]
    elbo: NDArray[np.float32]
    reconstruction_error: NDArray[np.float32]
    contributions: NDArray[np.float32]
    expected: NDArray[np.float32]


class Session:
    """A scorer graph on one provider."""

    def __init__(self, graph: bytes, width: int, provider: Provider = "auto") -> None:
        """Loads the graph from the very bytes that were verified. Raises BundleError."""
        whole = load(graph, provider)
        self.provider: str = whole.get_providers()[0]
        on_gpu = self.provider == CUDA
        self._slice = next(rows for rows in GPU_SLICES if rows == SLICE or fits(graph, rows)) if on_gpu else SLICE
        inputs, outputs = whole.get_inputs(), whole.get_outputs()
        if [(i.name, i.type, i.shape[1:]) for i in inputs] != [("x", "tensor(float)", [width])]:
            raise BundleError(f"scorer.onnx must take one float input x of {width} columns")
        if tuple(output.name for output in outputs) != NAMES:
            raise BundleError(f"scorer.onnx must give {', '.join(NAMES)}")
        columns = (1, 1, 1, outputs[3].shape[-1], width)
        if any(o.type != "tensor(float)" or o.shape[1:] != [n] for o, n in zip(outputs, columns, strict=True)):
            raise BundleError(
                "scorer.onnx must give float answers of one column, its contributions and expected values of theirs"
            )
        self._nothing = [np.empty((0, int(outputs[3].shape[1])), np.float32), np.empty((0, width), np.float32)]
        # Most records are asked no reasons for: those have a session of what the scores alone need, the first of the two.
        self._sessions = load(needed_by(NAMES[:3], graph), provider), whole
        if on_gpu:
            _ON_GPU.add(self)

    def run(self, x: NDArray[np.float32], explain: bool) -> Answers:
        """The graph's answers to x (N, C), in slices of SLICE rows, or more on a GPU."""
        session, rows = self._sessions[explain], self._slice
        if len(x) <= rows:
            return self._answers(_ask(session, x))
        slices = [_ask(session, x[start : start + rows]) for start in range(0, len(x), rows)]
        return self._answers([np.concatenate(parts) for parts in zip(*slices, strict=True)])

    def _answers(self, told: list[NDArray[np.float32]]) -> Answers:
        return Answers(told[0][:, 0], told[1][:, 0], told[2][:, 0], *(told[3:] or self._nothing))


_ON_GPU: weakref.WeakSet[Session] = weakref.WeakSet()


def abandon() -> None:
    """Says that the GPU is lost. No session on it is ever freed then, nor at the end: freed, it would take the process along."""
    for session in list(_ON_GPU):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        _ON_GPU.discard(session)


def _ask(session: Any, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return cast("list[NDArray[np.float32]]", session.run(None, {"x": x}))


def load(graph: bytes, provider: Provider = "auto") -> Any:
    """An onnxruntime session on one thread, with auto on CUDA where that is usable. Raises BundleError or ProviderError.

    onnxruntime sees no bytes that service/graph.py has not found to be within its limits, for runs of SLICE rows.

    What onnxruntime says is available is what it was built with, not what is there: only the loaded session tells.
    """
    try:
        check(graph, SLICE)
    except GraphError as error:
        raise BundleError(f"the service refuses the graph: {error}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    wanted: list[Any] = [(CUDA, CUDA_OPTIONS), CPU] if provider != "cpu" and may_have_cuda() else [CPU]
    if provider == "cuda" and wanted == [CPU]:
        raise ProviderError(
            "provider cuda: no NVIDIA driver, or an onnxruntime without CUDA; install the extra cuda in place of cpu, "
            "or use provider auto"
        )
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=wanted)
    except Exception as error:  # onnxruntime raises a class of its own for each kind of fault, with no base
        raise BundleError(f"onnxruntime refuses the graph: {type(error).__name__}") from error
    session.disable_fallback()  # a GPU that fails later is an error: onnxruntime would go on on the CPU without a word
    used = cast(str, session.get_providers()[0])
    if provider == "cuda" and used != CUDA:
        raise ProviderError("provider cuda: no usable GPU (the session fell back to the CPU); check driver and CUDA libraries")
    return session


def fits(graph: bytes, rows: int) -> bool:
    """Whether the graph may be run on so many rows at once."""
    try:
        check(graph, rows)
    except GraphError:
        return False
    return True


def may_have_cuda() -> bool:
    """Whether CUDA is worth trying: this build knows it, and there is a driver. Loads CUDA libraries installed as wheels."""
    if CUDA not in onnxruntime.get_available_providers():
        return False
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    with contextlib.redirect_stdout(sys.stderr):  # where it says what it does not find; standard output may be a file of scores
        onnxruntime.preload_dlls()
    return True
