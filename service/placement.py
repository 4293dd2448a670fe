"""Where a graph runs: on the GPU if there is one, but for a few records at a time, and on the CPU when the GPU is lost."""

from __future__ import annotations

import logging
import threading

import numpy as np
from numpy.typing import NDArray

from service import log
from service.graph import check
from service.session import CPU, SLICE, Answers, Provider, Session, abandon, may_have_cuda

GPU_WORK = 1 << 25  # multiplications and additions, from which on a GPU is the quicker: to begin takes it a millisecond
GPU_LEAST = 128  # records that it is given in any case


class Placement:
    """A scorer graph on what it runs best on. Safe to run from several threads."""

    def __init__(self, graph: bytes, width: int, provider: Provider) -> None:
        """Loads the graph, with auto on both providers where there is a GPU. Raises BundleError."""
        self._lock = threading.Lock()
        self.lost: str | None = None  # why a GPU that is there is not used, or no longer
        self._many = self._few = Session(graph, width, provider)
        self._least = 1  # records with which a run goes to the GPU
        if provider == "auto" and self._many.provider != CPU:
            self._few = Session(graph, width, "cpu")
            self._least = min(GPU_LEAST, -(-GPU_WORK * SLICE // check(graph, SLICE)))
        elif provider == "auto" and may_have_cuda():
            self._lose("onnxruntime could not use it")

    @property
    def provider(self) -> str:
        """The execution provider that runs of many records really use."""
        return self._many.provider

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All that may be asked."""
        return (self._many,) if self._many is self._few else (self._many, self._few)

    def run(self, x: NDArray[np.float32], explain: bool, among: int = 0) -> Answers:
        """The graph's answers to x (N, C), some of `among` records: all of these are to be judged by one provider."""
        many, few = self._many, self._few
        if max(len(x), among) < self._least or many is few:
            return few.run(x, explain)
        try:
            return many.run(x, explain)
        except Exception as error:  # noqa: BLE001 - onnxruntime raises a class of its own for each kind of fault, with no base
            answers = few.run(x, explain)  # what the CPU cannot run either is the graph's fault, and no lost GPU
            with self._lock:  # several threads may find it lost at a time
                if self._many is many:
                    self._many = few
                    abandon()
                    self._lose(type(error).__name__)
            return answers

    def _lose(self, why: str) -> None:
        self.lost = why
        log.event(logging.ERROR, "the GPU is lost: scores come from the CPU", reason=why)
