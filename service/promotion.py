"""Which version of a model is served: writing CURRENT, so that a reader sees the old name or the new one and nothing between."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from service.bundle import check_name, current_version, list_versions, read_bundle
from service.manifest import CURRENT, MANIFEST, BundleError

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.EINVAL)  # what file systems without them answer


def promote(models_dir: Path, name: str, version: str, trusted: Sequence[Path] = ()) -> None:
    """Makes CURRENT name this version, if it verifies: written beside, synced, renamed. Raises BundleError."""
    if check_name(version, "version") not in list_versions(models_dir, name):
        raise BundleError(f"model '{name}' has no version '{version}' in {models_dir}; 'inspect {name}' lists them")
    read_bundle(models_dir / name / version, trusted=trusted)
    try:
        set_current(models_dir / name, version)
    except FileNotFoundError:
        raise BundleError(f"version '{version}' of model '{name}' was removed meanwhile; nothing was changed") from None
    except OSError as error:
        remedy = "run this as a user who may write there"
        raise BundleError(f"{models_dir / name / CURRENT} cannot be written: {error.strerror}; {remedy}") from error


def set_current(folder: Path, version: str) -> None:
    """Makes a version of the model in this folder the one that is served, by one rename. Raises OSError.

    No version is pruned meanwhile. Where the file system has no locks, none is pruned at all.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        if not (folder / version / MANIFEST).is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder / version))
        _write_current(folder, version)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else has this folder's lock meanwhile, in whatever process. Raises OSError, as where there are no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_current(folder: Path, version: str) -> None:
    descriptor, beside = tempfile.mkstemp(dir=folder, prefix=".CURRENT-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(version + "\n")
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(beside).replace(folder / CURRENT)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Makes what was renamed in a folder last. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rollback(models_dir: Path, name: str, trusted: Sequence[Path] = ()) -> str:
    """Promotes the version before the served one, and returns it. Raises BundleError where there is none."""
    current = current_version(models_dir, name)
    version = before(list_versions(models_dir, name), current)
    if version is None:
        raise BundleError(f"model '{name}' has no version before {current}; 'inspect {name}' lists them")
    promote(models_dir, name, version, trusted)
    return version


def before(versions: Sequence[str], current: str) -> str | None:
    """The version that rollback takes: of these, oldest first, the last before the served one."""
    return max((version for version in versions if version < current), default=None)
