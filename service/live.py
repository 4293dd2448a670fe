"""A version of a model that is ready to score, and how a bundle becomes one."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from service import trial
from service.answers import Writer
from service.bundle import check_name, read_bundle
from service.detector import Detector
from service.latest import KEPT, Latest
from service.manifest import BundleError
from service.metrics import ModelCounts
from service.records import Reader
from service.settings import Settings
from service.shadow import Beside
from service.watch import Watch

PROOF_RTOL = 1e-4


class Live:
    """One version of a model: loaded, proven on its golden records, and everything that its requests need, made once."""

    def __init__(self, detector: Detector, settings: Settings) -> None:
        self.detector, self.name, self.version = detector, detector.name, detector.version
        self.reader = Reader(detector.manifest, settings.max_records)
        self.writer = Writer(detector.manifest, detector.version)
        self.counts = ModelCounts()
        self.latest = Latest(detector.manifest, KEPT if settings.page else 0, values=settings.page_values)
        self.shadow: Beside | None = None  # the version that is scored beside this one
        self.watch = Watch(detector.manifest, settings.workers)
        self.loaded_at = datetime.now(UTC)
        self.scored_at = time.monotonic()  # when it last gave a score
        self.failed = False  # whether it has failed since
        self._golden = detector.manifest.golden[0]
        self._x = np.array([self._golden.x], dtype=np.float32)

    def prove(self) -> str | None:
        """Scores a golden record: None if the score is the manifest's, else what is wrong."""
        try:
            score = float(self.detector.score(self._x, explain="none").score[0])
        except Exception as error:  # noqa: BLE001 - whatever it is, it keeps the model from scoring
            return f"the model fails to score ({type(error).__name__})"
        if not math.isclose(score, self._golden.score, rel_tol=PROOF_RTOL, abs_tol=PROOF_RTOL):
            return "the model gives a golden record another score than its manifest"
        self.scored_at, self.failed = time.monotonic(), False
        return None

    def unavailable(self, trusted_seconds: float) -> str | None:
        """Why no score can be given, or None: because one was given so many seconds ago, or else right now."""
        if not self.failed and time.monotonic() - self.scored_at < trusted_seconds:
            return None
        return self.prove()


def load(models_dir: Path, name: str, version: str, settings: Settings, tried: bool) -> Live:
    """Reads, verifies, loads and proves one version, where `tried` in a process of its own first. Raises BundleError."""
    folder, stage = models_dir / check_name(name) / check_name(version, "version"), BundleError.stage
    try:
        bundle = read_bundle(folder, trusted=settings.trusted_keys)
        if bundle.manifest.name != name:
            raise BundleError(f"{folder}: its manifest is of another model, '{bundle.manifest.name}'")
        if tried and settings.trial_seconds:
            stage = "trial"
            trial.attempt(bundle, settings.trial_seconds)
        stage = "proof"
        return Live(Detector(bundle, settings.provider), settings)
    except BundleError as error:
        error.stage = stage
        raise
    except Exception as error:  # whatever a bundle brings about is a reason to refuse it
        refused = BundleError(f"{folder}: it cannot be loaded: {type(error).__name__}")
        refused.stage = stage
        raise refused from error
