"""Removing old versions of a model. A version goes by one rename, to a name that no reader looks at, and is deleted there: what a
killed process leaves is whole or hidden, and removed by the next one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from service.bundle import current_version, list_versions
from service.manifest import BundleError
from service.promotion import before, locked, sync_folder

PREFIX = ".pruned-"


@dataclass(frozen=True)
class Pruned:
    """Versions removed, and those kept with the reason why, each oldest first."""

    removed: tuple[str, ...]
    kept: dict[str, str]
    bytes: int  # of the removed


def prune(models_dir: Path, name: str, keep: int, spared: Collection[str] = (), *, dry_run: bool = False) -> Pruned:
    """Removes all versions but the `keep` newest, the served one, the one that rollback would take, and those spared.

    Raises BundleError where the served version is not known or a spared one is not there, OSError where one cannot be removed.
    With dry_run, it only says what it would do.
    """
    folder = models_dir / name
    with locked(folder):  # no version becomes the served one meanwhile
        versions = list_versions(models_dir, name)
        current = current_version(models_dir, name)
        missing = sorted({current, *spared} - {*versions})
        if missing:
            which = "the served version" if missing[0] == current else "version"
            raise BundleError(f"{which} {missing[0]} of model '{name}' is not in {models_dir}; nothing was removed")
        kept = _kept(versions, current, keep, spared)
        removed = tuple(version for version in versions if version not in kept)
        told = Pruned(removed, kept, sum(_size(folder / version) for version in removed))
        if dry_run:
            return told
        if removed:
            hidden = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
            for version in removed:
                (folder / version).rename(hidden / version)
            sync_folder(folder)
        leftovers = list(folder.glob(f"{PREFIX}*"))
    for leftover in leftovers:
        _delete(leftover)
    return told


def _kept(versions: list[str], current: str, keep: int, spared: Collection[str]) -> dict[str, str]:
    reasons = dict.fromkeys(versions[-keep:], f"one of the {keep} newest" if keep > 1 else "the newest")
    reasons |= dict.fromkeys(spared, "asked for")
    rollback = before(versions, current)
    if rollback is not None:
        reasons[rollback] = "rollback goes there"
    reasons[current] = "served"
    return {version: reasons[version] for version in versions if version in reasons}


def _delete(folder: Path) -> None:
    """Deletes a hidden folder, which another process may be deleting, too."""
    while folder.exists():
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))
