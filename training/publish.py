"""Publishing a bundle so that a crash at any moment leaves the old version or the new one, never half of one.

Write beside, fsync every file, then the manifest, then the folder; rename; fsync the parent; swap CURRENT by rename.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from service.manifest import MANIFEST, Bundle, BundleError, File, Manifest, check_name, list_versions, read_bundle
from service.promotion import set_current, sync_folder

DIGITS = 6  # of the manifest's hash, in the version's name


def describe(files: Mapping[str, bytes]) -> dict[str, File]:
    """The manifest's entry of each file."""
    return {name: File(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)) for name, content in sorted(files.items())}


def stage(manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """The bundle in memory, under the name that it will have: what is proven is what is published."""
    digest = hashlib.sha256(manifest.dump()).hexdigest()[:DIGITS]
    return Bundle(f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest}", manifest, dict(files))


def publish(bundle: Bundle, models_dir: Path) -> Path:
    """Writes the bundle into models_dir/NAME/VERSION, makes it current, and returns its folder. Raises OSError.

    Where a version of the very same content is there and whole, that one is made current: publishing twice is publishing once.
    """
    folder = models_dir / check_name(bundle.manifest.name)
    folder.mkdir(parents=True, exist_ok=True)
    target = _same(folder, bundle) or _write(folder, bundle)
    set_current(folder, target.name)
    return target


def _same(folder: Path, bundle: Bundle) -> Path | None:
    """The folder of a whole version with the same content."""
    ending = bundle.version.rpartition("-")[2]
    for version in reversed(list_versions(folder.parent, folder.name)):
        if version.endswith("-" + ending):
            try:
                if read_bundle(folder / version).manifest == bundle.manifest:
                    return folder / version
            except BundleError:
                continue  # a damaged one is published anew
    return None


def _write(folder: Path, bundle: Bundle) -> Path:
    temporary = Path(tempfile.mkdtemp(prefix=".publishing-", dir=folder))
    try:
        for name, content in bundle.files.items():
            _write_file(temporary / name, content)
        _write_file(temporary / MANIFEST, bundle.manifest.dump())
        temporary.chmod(0o755)
        sync_folder(temporary)
        temporary.rename(folder / bundle.version)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder)
    return folder / bundle.version


def _write_file(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
