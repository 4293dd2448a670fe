"""Bundles once published are loaded for ever: the tracked example, and each that is added here when the schema rises."""

from pathlib import Path

import pytest

from service.detector import Detector
from service.manifest import MANIFEST, read_bundle

ROOT = Path(__file__).parent.parent.parent
BUNDLES = sorted(path.parent for folder in ("models/example", "tests/contract") for path in ROOT.glob(f"{folder}/**/{MANIFEST}"))


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_it_loads_and_its_golden_records_have_their_scores(folder):
    detector = Detector(read_bundle(folder), "cpu")
    assert detector.manifest.golden


def test_there_is_one():
    assert BUNDLES
