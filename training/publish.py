"""Publishing a bundle so that a crash at any moment leaves the old version or the new one, never half of one.

Write beside, fsync every file, then the manifest, then the folder; rename; fsync the parent; swap CURRENT by rename.
What a killed process leaves beside has a name that no reader looks at, and is removed by a later one.
Whatever the umask, others can read what is published, since the service is another user: the folder of the models says who may.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from service.bundle import Bundle, check_name, list_versions, read_bundle
from service.manifest import MANIFEST, SIGNATURE, BundleError, File, Manifest
from service.promotion import set_current, sync_folder
from training.options import OptionError

STALE_SECONDS = 3_600  # publishing takes a second: what is older was left behind by a killed process
TRIES = 60
TIME = "%Y%m%dT%H%M%SZ"
FOLDER_MODE, FILE_MODE = 0o755, 0o644
DIGITS = 6  # of the manifest's hash, in the version's name


def describe(files: Mapping[str, bytes]) -> dict[str, File]:
    """The manifest's entry of each file."""
    return {name: File(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)) for name, content in sorted(files.items())}


def stage(manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """The bundle in memory, under the name that it will have: what is proven is what is published."""
    digest = hashlib.sha256(manifest.dump()).hexdigest()[:DIGITS]
    return Bundle(f"{datetime.now(UTC):{TIME}}-{digest}", manifest, dict(files))


def publish(bundle: Bundle, models_dir: Path, promote: bool = True) -> Path:
    """Writes the bundle into models_dir/NAME/VERSION, makes it current, and returns its folder. Raises OSError.

    Where a version of the very same content is there and whole, that one is made current: publishing twice is publishing once.
    promote: if not, CURRENT stays as it is.
    """
    folder = models_dir / check_name(bundle.manifest.name)
    make_folder(folder)
    sync_folder(models_dir)
    remove_older((*folder.glob(".publishing-*"), *folder.glob(".CURRENT-*")), STALE_SECONDS)
    target = _same(folder, bundle) or _write(folder, bundle)
    if promote:
        set_current(folder, target.name)
    return target


def check_folder(folder: Path) -> None:
    """Raises OptionError where a model's folder, which may not be there yet, could not be made or written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir():
        raise OptionError(f"{there} is no folder, so that {folder} cannot be one; name another --models-dir")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OptionError(f"{there} may not be written to by this user; name another --models-dir, or run this as another user")


def make_folder(folder: Path) -> None:
    """Makes the folder of a model, where there is none, for others to read. Raises OSError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # one that is there keeps the mode that it was given
        folder.mkdir()
        folder.chmod(FOLDER_MODE)


def _same(folder: Path, bundle: Bundle) -> Path | None:
    """The folder of a whole version with the same content."""
    ending = bundle.version.rpartition("-")[2]
    for version in reversed(list_versions(folder.parent, folder.name)):
        if version.endswith("-" + ending):
            try:
                there = read_bundle(folder / version)
                if there.manifest == bundle.manifest and bundle.signature in (None, there.signature):
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
        if bundle.signature is not None:
            _write_file(temporary / SIGNATURE, bundle.signature)
        temporary.chmod(FOLDER_MODE)
        sync_folder(temporary)
        target = _rename(temporary, folder, bundle)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(folder)
    return target


def _rename(temporary: Path, folder: Path, bundle: Bundle) -> Path:
    """Gives a whole version its name; a second later in time for each that is taken, as by another fit of the same at once."""
    began = datetime.strptime(bundle.version.rpartition("-")[0], TIME).replace(tzinfo=UTC)
    for seconds in range(TRIES):
        target = folder / f"{began + timedelta(seconds=seconds):{TIME}}-{bundle.version.rpartition('-')[2]}"
        try:
            temporary.rename(target)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or seconds == TRIES - 1:
                raise
        else:
            return target
    raise AssertionError


def remove_older(paths: Iterable[Path], seconds: float) -> None:
    """Removes what a killed process left behind so long ago that none can be using it. Raises OSError."""
    before = time.time() - seconds
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if path.stat().st_mtime < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write_file(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), FILE_MODE)
        os.fsync(file.fileno())
