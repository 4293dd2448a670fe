"""A crash at any moment of publishing leaves the old version or the new one, whole."""

import dataclasses
import os
import stat
from pathlib import Path

import pytest

from service.bundle import current_version, list_versions, read_bundle
from service.manifest import CURRENT
from training.publish import STALE_SECONDS, publish, stage


@pytest.fixture
def bundles(bundle):
    """Two bundles of one model that differ in a warning."""
    other = bundle.manifest.model_copy(update={"warnings": ("another",)})
    return bundle, stage(other, bundle.files)


def whole(models: Path, name: str) -> list[str]:
    """The versions that are there; each must verify, and CURRENT must name one of them."""
    versions = list_versions(models, name)
    for version in versions:
        read_bundle(models / name / version)
    if (models / name / CURRENT).exists():
        assert current_version(models, name) in versions
    return versions


def test_published_is_what_was_staged(bundles, tmp_path):
    first, second = bundles
    assert publish(first, tmp_path) == tmp_path / first.manifest.name / first.version
    assert publish(second, tmp_path).name == current_version(tmp_path, first.manifest.name) == second.version
    assert read_bundle(tmp_path / first.manifest.name / first.version) == first
    assert sorted(p.name for p in (tmp_path / first.manifest.name).iterdir()) == sorted([CURRENT, first.version, second.version])


def test_another_user_can_read_what_is_published_whatever_the_umask(bundles, tmp_path):
    first, _ = bundles
    before = os.umask(0o077)
    try:
        publish(dataclasses.replace(first, signature=b"signed"), tmp_path)
    finally:
        os.umask(before)
    there = list((tmp_path / first.manifest.name).rglob("*"))
    assert len(there) == 8  # CURRENT, the version, its six files
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / first.manifest.name, *there]}
    assert modes == {path.name: 0o755 if path.is_dir() else 0o644 for path in [tmp_path / first.manifest.name, *there]}


def test_a_folder_that_is_there_keeps_its_mode(bundles, tmp_path):
    first, _ = bundles
    (tmp_path / first.manifest.name).mkdir(0o750)
    publish(first, tmp_path)
    assert stat.S_IMODE((tmp_path / first.manifest.name).stat().st_mode) == 0o750


def test_publishing_twice_is_publishing_once(bundles, tmp_path):
    first, second = bundles
    where = publish(first, tmp_path)
    publish(second, tmp_path)
    assert publish(stage(first.manifest, first.files), tmp_path) == where
    assert current_version(tmp_path, first.manifest.name) == first.version
    assert len(whole(tmp_path, first.manifest.name)) == 2


def test_a_damaged_version_of_the_same_content_is_not_taken_for_it(bundles, tmp_path):
    first, _ = bundles
    where = publish(first, tmp_path)
    (where / "report.html").write_text("damaged")
    again = stage(first.manifest, first.files)
    if again.version == first.version:  # the same second: the name is taken
        again = type(again)("29990101T000000Z-" + first.version.rpartition("-")[2], again.manifest, again.files)
    assert publish(again, tmp_path) != where
    read_bundle(tmp_path / first.manifest.name / current_version(tmp_path, first.manifest.name))


def test_what_killed_processes_left_is_removed_when_it_is_old(bundles, tmp_path):
    first, _ = bundles
    folder = tmp_path / first.manifest.name
    folder.mkdir()
    for age in (60, 2 * STALE_SECONDS):
        half, current = folder / f".publishing-{age}", folder / f".CURRENT-{age}"
        half.mkdir()
        (half / "scorer.onnx").write_bytes(b"half of it")
        current.write_text("none")
        then = current.stat().st_mtime - age
        for path in (half, current):
            os.utime(path, (then, then))
    publish(first, tmp_path)
    assert sorted(path.name for path in folder.glob(".*")) == [".CURRENT-60", ".publishing-60"]


def test_where_the_name_is_taken_it_is_a_second_later(bundles, tmp_path):
    first, _ = bundles
    taken = tmp_path / first.manifest.name / first.version
    taken.mkdir(parents=True)
    (taken / "half").touch()
    where = publish(first, tmp_path)
    assert where.name > first.version
    assert where.name == current_version(tmp_path, first.manifest.name)
    assert read_bundle(where).files == first.files


def test_a_version_may_be_published_without_being_served(bundles, tmp_path):
    first, second = bundles
    publish(first, tmp_path)
    assert publish(second, tmp_path, promote=False).name == second.version
    assert current_version(tmp_path, first.manifest.name) == first.version


CALLS = ("os.fsync", "pathlib.Path.rename", "pathlib.Path.replace", "pathlib.Path.chmod", "os.fchmod")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk full", "interrupted"])
def test_whichever_call_fails_the_old_version_stays_and_a_rerun_succeeds(bundles, tmp_path, monkeypatch, call, kind):
    first, second = bundles
    publish(first, tmp_path)
    owner, name = (os, call[3:]) if call.startswith("os.") else (Path, call.rpartition(".")[2])
    real, tried = getattr(owner, name), 0
    for failing in range(1, 20):
        tried = 0

        def faulty(*args, failing=failing, **kwargs):
            nonlocal tried
            tried += 1
            if tried == failing:
                raise kind
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, faulty)
            try:
                publish(second, tmp_path)
            except (OSError, KeyboardInterrupt):
                assert whole(tmp_path, first.manifest.name)[0] == min(first.version, second.version)
                leftovers = [p.name for p in (tmp_path / first.manifest.name).iterdir() if p.name.startswith(".")]
                assert not leftovers
            else:
                assert tried < failing  # every place was tried
                break
    assert tried > 0
    publish(second, tmp_path)
    assert current_version(tmp_path, first.manifest.name) == second.version
