"""Bundles once published are loaded for ever: the tracked example, and each that is added here when the schema rises."""

import json
from pathlib import Path

import pytest

from service.bundle import read_bundle
from service.detector import Detector
from service.manifest import MANIFEST, BundleError, parse_manifest

ROOT = Path(__file__).parent.parent.parent
BUNDLES = sorted(path.parent for folder in ("models/example", "tests/contract") for path in ROOT.glob(f"{folder}/**/{MANIFEST}"))


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_it_loads_and_its_golden_records_have_their_scores(folder):
    detector = Detector(read_bundle(folder), "cpu")
    assert detector.manifest.golden


def test_a_manifest_of_before_references_is_read_as_one_that_has_none():
    told = json.loads((BUNDLES[0] / MANIFEST).read_bytes())
    del told["calibration"]["held_out"], told["rules"]
    for feature in told["features"]:
        del feature["reference"]
    assert all("day_first" not in feature for feature in told["features"])
    told["dropped"] = [{"column": "alarm", "reason": "constant"}]
    manifest = parse_manifest(json.dumps(told).encode())
    assert all(feature.day_first is None for feature in manifest.features)
    assert manifest.calibration.held_out is None
    assert manifest.rules is None
    assert "rules" not in json.loads(manifest.dump())
    assert manifest.dropped[0].value is None
    assert json.loads(manifest.dump())["dropped"] == told["dropped"]  # as older readers need it
    assert all(feature.reference is None for feature in manifest.features)


def test_every_member_but_what_may_be_empty_is_needed_the_schema_version_too():
    told = json.loads((BUNDLES[0] / MANIFEST).read_bytes())
    for member in told.keys() - {"dropped", "warnings", "rules"}:
        with pytest.raises(BundleError, match=member):
            parse_manifest(json.dumps({name: value for name, value in told.items() if name != member}).encode())
    for version in (0, 2, "1", None):
        with pytest.raises(BundleError, match="schema version 1"):
            parse_manifest(json.dumps({**told, "schema_version": version}).encode())


def test_there_is_one():
    assert BUNDLES
