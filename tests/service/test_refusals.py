"""When a bundle that was refused is tried again."""

import math
import os
from pathlib import Path

import pytest

from service.manifest import BundleError
from service.refusals import LATE, SOON, Refusal, look


def error(stage: str) -> BundleError:
    refused = BundleError("it is none")
    refused.stage = stage
    return refused


@pytest.mark.parametrize("stage", ["files", "proof"])
def test_what_is_wrong_with_its_files_stays_so_until_they_change(tmp_path: Path, stage: str) -> None:
    (tmp_path / "scorer.onnx").write_text("one")
    seen = look(tmp_path)
    refusal = Refusal.of(error(stage), seen, None, now=5.0)
    assert refusal.again_at == math.inf
    assert refusal.stands(look(tmp_path), now=1e12)
    (tmp_path / "manifest.sig").touch()
    assert not refusal.stands(look(tmp_path), now=5.0)


def test_a_file_that_is_replaced_by_one_of_its_size_and_time_is_another(tmp_path: Path) -> None:
    file = tmp_path / "scorer.onnx"
    file.write_text("one")
    before, times = look(tmp_path, file), file.stat()
    assert before == look(tmp_path, file)
    file.write_text("two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert look(tmp_path, file) != before
    assert look(tmp_path / "not there") == ()


def test_a_failed_trial_is_tried_again_ever_later(tmp_path: Path) -> None:
    seen, refusal, waits = look(tmp_path), None, []
    for now in range(12):
        refusal = Refusal.of(error("trial"), seen, refusal, float(now))
        waits.append(refusal.again_at - now)
        assert refusal.stands(seen, refusal.again_at - 1)
        assert not refusal.stands(seen, refusal.again_at)
    assert waits == [min(SOON * 2**times, LATE) for times in range(12)]
    (tmp_path / "scorer.onnx").touch()
    assert Refusal.of(error("trial"), look(tmp_path), refusal, 0.0).again_at == SOON
