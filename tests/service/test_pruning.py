"""Old versions go, and nothing that is served, or that rollback would take, goes with them."""

import errno
import os
import random
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service import promotion
from service.__main__ import main
from service.bundle import current_version, list_versions, read_bundle
from service.manifest import BundleError
from service.pruning import prune
from tests.service.client import check_problem
from tests.service.conftest import Serve
from tests.service.tiny_bundle import GOOD, point, publish

VERSIONS = [f"2026010{day}T000000Z-made01" for day in range(1, 8)]


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A models folder with seven versions, of which the fifth is served."""
    models = tmp_path / "many"
    first = publish(models, version=VERSIONS[0])
    for version in VERSIONS[1:]:
        shutil.copytree(first, first.parent / version)
    point(models, "tiny", VERSIONS[4])
    return models


def left(models: Path) -> list[int]:
    """The days of the versions that are there; each of them is whole, as is the served one."""
    versions = list_versions(models, "tiny")
    assert current_version(models, "tiny") in versions
    for version in versions:
        read_bundle(models / "tiny" / version)
    return [int(version[7]) for version in versions]


@pytest.mark.parametrize(
    ("keep", "spared", "days"),
    [
        (1, [], [4, 5, 7]),  # 5 is served, rollback goes to 4
        (2, [], [4, 5, 6, 7]),
        (4, [], [4, 5, 6, 7]),
        (5, [], [3, 4, 5, 6, 7]),
        (1, [VERSIONS[0]], [1, 4, 5, 7]),
        (100, [], [1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_the_newest_stay_and_those_that_are_needed(many: Path, keep: int, spared: list[str], days: list[int]) -> None:
    planned = prune(many, "tiny", keep, spared, dry_run=True)
    assert left(many) == [1, 2, 3, 4, 5, 6, 7]
    told = prune(many, "tiny", keep, spared)
    assert told == planned
    assert left(many) == days
    assert list(told.kept) == list_versions(many, "tiny")
    assert {*told.removed, *told.kept} == {*VERSIONS}
    assert (told.bytes > 0) == bool(told.removed)
    assert [path.name for path in (many / "tiny").glob(".*")] == []


def test_rollback_goes_where_it_would_have_gone(many: Path) -> None:
    prune(many, "tiny", 1)
    assert promotion.rollback(many, "tiny") == VERSIONS[3]


@pytest.mark.parametrize(
    "damage", [lambda folder: (folder / "CURRENT").unlink(), lambda folder: shutil.rmtree(folder / VERSIONS[4])]
)
def test_without_a_served_version_nothing_is_removed(many: Path, damage: Callable[[Path], None]) -> None:
    damage(many / "tiny")
    before = list_versions(many, "tiny")
    with pytest.raises(BundleError):
        prune(many, "tiny", 1)
    assert list_versions(many, "tiny") == before


def test_what_is_no_version_is_left_alone(many: Path) -> None:
    (many / "tiny" / "notes").mkdir()
    (many / "tiny" / "notes" / "a.txt").write_text("mine")
    prune(many, "tiny", 1)
    assert (many / "tiny" / "notes" / "a.txt").read_text() == "mine"


class Killed(BaseException):
    """The end of the process, at a call that changes a file."""


def killing_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls = iter(range(1_000_000))
    for name in ("mkdir", "rename", "unlink", "rmdir"):
        real = getattr(os, name)

        def change(*args: Any, real: Any = real, **more: Any) -> Any:
            if next(calls) == call:
                raise Killed
            return real(*args, **more)

        monkeypatch.setattr(os, name, change)


def test_a_kill_at_any_moment_leaves_whole_versions_and_the_next_prune_finishes(many: Path, tmp_path: Path) -> None:
    for call in range(1_000):
        models = tmp_path / f"killed-{call}"
        shutil.copytree(many, models)
        with pytest.MonkeyPatch.context() as monkeypatch:
            killing_at(monkeypatch, call)
            try:
                prune(models, "tiny", 4)
                ended = True
            except Killed:
                ended = False
        assert {4, 5, 6, 7} <= {*left(models)}
        prune(models, "tiny", 4)
        assert left(models) == [4, 5, 6, 7]
        assert [path.name for path in (models / "tiny").glob(".*")] == []
        shutil.rmtree(models)
        if ended:
            break
    assert call > 15


def test_several_at_once_beside_promotions_leave_what_is_served(many: Path, tmp_path: Path) -> None:
    faults: list[Exception] = []

    def again(work: Callable[[], Any]) -> None:
        try:
            work()
        except BundleError as error:
            if "removed meanwhile" not in str(error) and "has no version" not in str(error) and "is missing" not in str(error):
                faults.append(error)
        except Exception as error:  # noqa: BLE001 - any other is a fault
            faults.append(error)

    for round_ in range(12):
        models = tmp_path / f"round-{round_}"
        shutil.copytree(many, models)
        chosen = random.Random(round_).sample(VERSIONS, 3)
        work = [lambda m=models, k=k: prune(m, "tiny", k) for k in (1, 1, 2)]
        work += [lambda m=models, v=v: promotion.promote(m, "tiny", v) for v in chosen]
        threads = [threading.Thread(target=again, args=(one,)) for one in random.Random(round_).sample(work, len(work))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert 7 in left(models)
        assert [path.name for path in (models / "tiny").glob(".*")] == []


def test_a_version_that_was_pruned_is_not_promoted(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = promotion.read_bundle

    def slow(*args: Any, **more: Any) -> Any:
        bundle = real(*args, **more)
        prune(many, "tiny", 1)
        return bundle

    monkeypatch.setattr(promotion, "read_bundle", slow)
    with pytest.raises(BundleError, match="removed meanwhile"):
        promotion.promote(many, "tiny", VERSIONS[0])
    assert current_version(many, "tiny") == VERSIONS[4]


def test_on_a_file_system_without_locks_promotion_works_and_pruning_does_not(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(promotion.NO_LOCKS[0], "no locks")

    monkeypatch.setattr(promotion.fcntl, "flock", none)
    promotion.promote(many, "tiny", VERSIONS[0])
    assert current_version(many, "tiny") == VERSIONS[0]
    with pytest.raises(OSError, match="no locks"):
        prune(many, "tiny", 1)
    assert len(left(many)) == 7


def test_current_is_on_the_disk_before_it_has_its_name_and_its_name_before_it_is_told(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(promotion.os, "fsync", synced)
    monkeypatch.setattr(promotion.Path, "replace", replaced)
    promotion.promote(many, "tiny", VERSIONS[0])
    assert done == ["file", "rename", "folder"]


def test_a_lock_that_fails_otherwise_is_told(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as where there are no locks: CURRENT stays what it was."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(promotion.fcntl, "flock", fail)
    with pytest.raises(BundleError, match="CURRENT cannot be written: Input/output error"):
        promotion.promote(many, "tiny", VERSIONS[0])
    assert current_version(many, "tiny") == VERSIONS[4]


def test_the_command_says_what_it_does(many: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_SHADOW", f"tiny:{VERSIONS[1]}")
    command = ["prune", "tiny", "--keep", "1", "--models-dir", str(many)]
    assert main([*command, "--pin", VERSIONS[2], "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == [f"would remove  {VERSIONS[0]}", f"would remove  {VERSIONS[5]}"]
    assert told[2:-1] == [
        f"kept  {VERSIONS[1]}  (asked for)",
        f"kept  {VERSIONS[2]}  (asked for)",
        f"kept  {VERSIONS[3]}  (rollback goes there)",
        f"kept  {VERSIONS[4]}  (served)",
        f"kept  {VERSIONS[6]}  (the newest)",
    ]
    assert told[-1].startswith("tiny: 2 versions would be removed, 5 kept, ")
    assert len(left(many)) == 7
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("tiny: 3 versions removed, 4 kept, ")
    assert left(many) == [2, 4, 5, 7]


def test_a_running_service_goes_on_with_what_it_has_loaded(serve: Serve, many: Path) -> None:
    client = serve(models_dir=many)
    path = f"/models/tiny/versions/{VERSIONS[0]}/score"
    before = client.score({"records": [GOOD]}, path)
    prune(many, "tiny", 1)
    assert client.score({"records": [GOOD]}, path) == before
    assert client.score({"records": [GOOD]})["version"] == VERSIONS[4]
    check_problem(client.post(f"/models/tiny/versions/{VERSIONS[1]}/score", json={"records": [GOOD]}), 404, "version_not_found")
