"""The folder of the bundles: which there are, which is served, and reading one so that what is used is what was verified."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service import signature
from service.manifest import CURRENT, FILES, MANIFEST, NAME, SIGNATURE, VERSION, BundleError, Manifest, parse_manifest

MAX_MANIFEST_BYTES = 64 << 20
MAX_SIGNATURE_BYTES = 256
MAX_CURRENT_BYTES = 256


@dataclass(frozen=True)
class Bundle:
    """A verified bundle in memory: what is used is exactly what was hashed."""

    version: str
    manifest: Manifest
    files: dict[str, bytes]
    signature: bytes | None = None  # the content of manifest.sig


def check_name(name: str, what: str = "model name") -> str:
    """The name itself, if it is safe as a folder's name; else BundleError."""
    if not NAME.fullmatch(name):
        raise BundleError(
            f"{what} {name[:100]!r}: use letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit"
        )
    return name


def current_version(models_dir: Path, name: str) -> str:
    """The version that models_dir/name/CURRENT names; BundleError if there is none, or if it is not a small file of text."""
    path = models_dir / check_name(name) / CURRENT
    anew = f"name a version anew with 'python -m service promote {name} VERSION'"
    try:
        content = _content(path, MAX_CURRENT_BYTES, _open_at_once, anew)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"no model '{name}' is published in {models_dir}: there is no {path}; publish one with "
            f"'python -m training fit DATA --model {name}'"
        ) from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; it must be a file that this user may read") from error
    if len(content) > MAX_CURRENT_BYTES:
        raise BundleError(f"{path} is longer than {MAX_CURRENT_BYTES} bytes and names no version; {anew}")
    return check_name(content.decode(errors="replace").strip(), f"the version in {path}")


def list_versions(models_dir: Path, name: str) -> list[str]:
    """The published versions of a model, oldest first (their names begin with the time)."""
    folder = models_dir / check_name(name)
    named = (path for path in folder.glob("*") if NAME.fullmatch(path.name))
    # pathlib's would raise where another's folder may not be searched
    return sorted(path.name for path in named if os.path.isfile(path / MANIFEST))  # noqa: PTH113


def list_models(models_dir: Path) -> list[str]:
    """The names of the models with a CURRENT in this folder. Raises OSError where it cannot be read."""
    with os.scandir(models_dir) as entries:
        named = [one for one in entries if NAME.fullmatch(one.name)]
    # as above
    return sorted(one.name for one in named if os.path.exists(f"{one.path}/{CURRENT}"))  # noqa: PTH110


def closed_folders(models_dir: Path) -> list[str]:
    """The names that a model may have of folders that this user may not look into."""
    with contextlib.suppress(OSError), os.scandir(models_dir) as entries:
        named = [one for one in entries if NAME.fullmatch(one.name) and one.is_dir()]
        return sorted(one.name for one in named if not _may_look_into(one.path))
    return []


def _may_look_into(folder: str) -> bool:
    """os.access would ask for the user who started the process, not for the one that it is now."""
    try:
        os.stat(f"{folder}/.")  # noqa: PTH116 - pathlib takes the dot away
    except PermissionError:
        return False
    return True


def read_bundle(folder: Path, only: Sequence[str] = FILES, trusted: Sequence[Path] = ()) -> Bundle:
    """Reads and verifies a bundle: each file once, its size and SHA-256 against the manifest, and where there are trusted keys
    (PEM files), the manifest against its signature. Raises BundleError.
    """
    content = _read(folder / MANIFEST, MAX_MANIFEST_BYTES)
    signed = _read(folder / SIGNATURE, MAX_SIGNATURE_BYTES) if os.path.lexists(folder / SIGNATURE) else None
    try:
        if trusted:
            signature.check(content, signed, trusted)
        named = VERSION.fullmatch(folder.name)
        if named and not hashlib.sha256(content).hexdigest().startswith(named[1]):
            raise BundleError(f"{MANIFEST} is not the one that the version is named after; copy or publish the bundle again")
        manifest = parse_manifest(content)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    return Bundle(folder.name, manifest, {name: read_file(folder, name, manifest) for name in only}, signed)


def read_file(folder: Path, name: str, manifest: Manifest) -> bytes:
    """One of a bundle's files, if it is what this manifest, which was verified, says of it. Raises BundleError."""
    expected = manifest.files[name]
    content = _read(folder / name, expected.bytes)
    if len(content) != expected.bytes or hashlib.sha256(content).hexdigest() != expected.sha256:
        raise BundleError(f"{folder / name}: not the bytes that the manifest names; copy or publish the bundle again")
    return content


def _read(path: Path, limit: int) -> bytes:
    """At most limit + 1 bytes of a regular file, no link or pipe: a longer one shows, and does no harm."""
    try:
        return _content(path, limit, _open_itself, "copy or publish the bundle again")
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy or publish the bundle again") from None
    except OSError as error:
        what = "is a link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise BundleError(f"{path} {what}; copy or publish the bundle again") from error


def _content(path: Path, limit: int, opener: Callable[[str, int], int], advice: str) -> bytes:
    """At most limit + 1 bytes of a regular file. Raises OSError, and BundleError for a pipe or device, which might never end."""
    with open(path, "rb", opener=opener) as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise BundleError(f"{path} is {'a pipe' if stat.S_ISFIFO(mode) else 'a device'} and no regular file; {advice}")
        return file.read(limit + 1)


def _open_at_once(path: str, flags: int) -> int:
    """Waits for nobody who might write to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _open_itself(path: str, flags: int) -> int:
    return _open_at_once(path, flags | os.O_NOFOLLOW)
