"""The contract between training and service: what a bundle's manifest.json says, and reading it safely.

Training writes these models, the service reads them; nothing else passes between the two but the ONNX files.
Format: models/README.md, field by field. A change of meaning raises SCHEMA_VERSION.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # optional; one line: the key's id, a space, the signature of the bytes of manifest.json in base64
CURRENT = "CURRENT"
GRAPHS = ("encoder.onnx", "decoder.onnx", "scorer.onnx")
REPORT = "report.html"
FILES = (*GRAPHS, REPORT)
MAX_MANIFEST_BYTES = 64 << 20
MAX_SIGNATURE_BYTES = 256
MAX_FILE_BYTES = 1 << 30
# No name reaches the file system unless it looks like this: no separator, no leading dot, no surprise.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# What a fit calls a version: its time, and the first digits of the SHA-256 of the manifest.
VERSION = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{6})")

Kind = Literal["numeric", "categorical", "boolean", "datetime"]
ScoreKind = Literal["surprise", "elbo", "reconstruction"]
KL = "_kl"  # the name of the latent term among the contributions of an elbo score
DATETIME_PARTS = ("hour", "weekday", "month")


class BundleError(Exception):
    """A bundle cannot be used; the text says which, what was found and what to do."""

    stage = "files"  # how far it came: what is read and verified; trial, in a process of its own; proof, of its golden records


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Reference(_Model):
    """What the normal records of the training table had in a feature, counted: what live ones are compared with."""

    records: int = Field(gt=0)
    missing: int = Field(ge=0)
    unknown: Annotated[int, Field(ge=0)] = 0  # values beyond the categories, of which a feature has so many at most
    bounds: tuple[float, ...] = ()  # numeric only, ascending: of all cells but the last, which has what is above
    counts: tuple[Annotated[int, Field(ge=0)], ...] = ()  # numeric: by cell; boolean: false, true; categorical: by category

    @model_validator(mode="after")
    def _consistent(self) -> Reference:
        if any(a >= b for a, b in zip(self.bounds, self.bounds[1:], strict=False)):
            raise ValueError("the bounds of a reference must rise")
        if self.counts and self.missing + self.unknown + sum(self.counts) != self.records:
            raise ValueError("the counts of a reference must sum to its records")
        return self


class Feature(_Model):
    """One column of the user's table. `width` columns of x (N, C) carry it into the graph."""

    name: str
    kind: Kind
    integer: bool = False  # numeric or categorical: the values are whole numbers
    categories: tuple[str, ...] | tuple[int, ...] = ()  # a category's code is its place; an unknown one's is their number
    low: float | None = None  # the range that training saw, numeric only
    high: float | None = None
    missing_rate: float = Field(0.0, ge=0, le=1)  # share of the training records without a value
    reference: Reference | None = None  # None in bundles that were made before there was one

    @model_validator(mode="after")
    def _reference_fits(self) -> Feature:
        if self.reference is not None:
            cells = {
                "numeric": len(self.reference.bounds) + 1,
                "categorical": len(self.categories),
                "boolean": 2,
                "datetime": 0,
            }[self.kind]
            if len(self.reference.counts) != cells:
                raise ValueError(f"{cells} counts are needed in the reference of a feature of this kind")
        return self

    @property
    def width(self) -> int:
        """Columns of x: an hour, a weekday and a month for a datetime, else one."""
        return len(DATETIME_PARTS) if self.kind == "datetime" else 1


class Calibration(_Model):
    """Honest scores (n,) of normal records, ascending: of records held out, as the scorer gives them; of a small table's
    training records, each judged without itself.
    """

    scores: tuple[float, ...]
    held_out: bool | None = None  # which of the two; None in bundles that were made before this was told

    @model_validator(mode="after")
    def _ascending(self) -> Calibration:
        if not self.scores:
            raise ValueError("no calibration scores")
        if any(a > b for a, b in zip(self.scores, self.scores[1:], strict=False)):
            raise ValueError("calibration scores are not ascending")
        return self


class File(_Model):
    """What a file of the bundle must be, byte for byte."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)]


class Dropped(_Model):
    """A column of the training table that no feature was made of, and why."""

    column: str
    reason: str


class Golden(_Model):
    """A record, as a row of x (null is missing), with the answers that any healthy copy of this bundle gives."""

    x: tuple[float | None, ...]
    score: float
    elbo: float
    reconstruction_error: float
    contributions: tuple[float, ...]
    expected: tuple[float, ...] | None = None  # as a row of x; not in bundles made before it was told


class Manifest(_Model):
    """All that a reader of the bundle must know beside the graphs."""

    schema_version: Literal[1]
    name: str
    features: tuple[Feature, ...]
    dropped: tuple[Dropped, ...] = ()
    warnings: tuple[str, ...] = ()
    score_kind: ScoreKind
    alpha: float = Field(gt=0, lt=1)
    threshold: float
    calibration: Calibration
    latent: int = Field(gt=0)  # width of z (N, L), over all nets
    training: dict[str, Any]  # every setting of the fit, and what it saw of the data
    metrics: dict[str, float | None]
    libraries: dict[str, str]
    golden: tuple[Golden, ...]
    files: dict[str, File]

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [feature.name for feature in self.features]
        if not names or len(set(names)) != len(names):
            raise ValueError("features must have distinct names, one at least")
        if not NAME.fullmatch(self.name):
            raise ValueError("a model's name is letters, digits, '.', '_' and '-', 100 at most")
        if set(self.files) != set(FILES):
            raise ValueError(f"files must be exactly {', '.join(FILES)}")
        if not self.golden or any(len(golden.x) != self.width for golden in self.golden):
            raise ValueError(f"golden records of {self.width} values are needed, one at least")
        return self

    @property
    def width(self) -> int:
        """C, the columns of the graph's input x (N, C)."""
        return sum(feature.width for feature in self.features)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the columns of the graph's contributions (N, T)."""
        names = tuple(feature.name for feature in self.features)
        return (*names, KL) if self.score_kind == "elbo" else names

    def dump(self) -> bytes:
        """The bytes of manifest.json: the same for the same content."""
        return self.model_dump_json(indent=1).encode() + b"\n"


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
        raise BundleError(f"{what}: use letters, digits, '.', '_' and '-', at most 100, beginning with a letter or digit")
    return name


def current_version(models_dir: Path, name: str) -> str:
    """The version that models_dir/name/CURRENT names; BundleError if there is none."""
    path = models_dir / check_name(name) / CURRENT
    try:
        version = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"no model '{name}' is published in {models_dir}: {path} cannot be read; publish one with "
            f"'python -m training fit DATA --model {name}'"
        ) from error
    return check_name(version, f"the version in {path}")


def list_versions(models_dir: Path, name: str) -> list[str]:
    """The published versions of a model, oldest first (their names begin with the time)."""
    folder = models_dir / check_name(name)
    return sorted(path.name for path in folder.glob("*") if NAME.fullmatch(path.name) and (path / MANIFEST).is_file())


def list_models(models_dir: Path) -> list[str]:
    """The names of the models with a CURRENT in this folder."""
    return sorted(path.parent.name for path in models_dir.glob(f"*/{CURRENT}") if NAME.fullmatch(path.parent.name))


def read_bundle(folder: Path, only: Sequence[str] = FILES, trusted: Sequence[Path] = ()) -> Bundle:
    """Reads and verifies a bundle: each file once, its size and SHA-256 against the manifest, and where there are trusted keys
    (PEM files), the manifest against its signature. Raises BundleError.
    """
    content = _read(folder / MANIFEST, MAX_MANIFEST_BYTES)
    signed = _read(folder / SIGNATURE, MAX_SIGNATURE_BYTES) if os.path.lexists(folder / SIGNATURE) else None
    try:
        if trusted:
            from service.signature import check  # noqa: PLC0415 - it needs what is defined here

            check(content, signed, trusted)
        named = VERSION.fullmatch(folder.name)
        if named and not hashlib.sha256(content).hexdigest().startswith(named[1]):
            raise BundleError(f"{MANIFEST} is not the one that the version is named after; copy or publish the bundle again")
        manifest = parse_manifest(content)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    files = {}
    for name in only:
        expected = manifest.files[name]
        content = _read(folder / name, expected.bytes)
        if len(content) != expected.bytes or hashlib.sha256(content).hexdigest() != expected.sha256:
            raise BundleError(f"{folder / name}: not the bytes that the manifest names; copy or publish the bundle again")
        files[name] = content
    return Bundle(folder.name, manifest, files, signed)


def parse_manifest(content: bytes) -> Manifest:
    """The manifest of these bytes; BundleError names the first field that is wrong."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BundleError(f"{MANIFEST} is not of schema version {SCHEMA_VERSION}: {where}: {first['msg']}") from None


def _read(path: Path, limit: int) -> bytes:
    """At most limit + 1 bytes of a regular file, no link or pipe: a longer one shows, and does no harm."""
    try:
        with open(path, "rb", opener=_open_itself) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BundleError(f"{path} is no regular file; copy or publish the bundle again")
            return file.read(limit + 1)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; copy or publish the bundle again") from None
    except OSError as error:
        what = "is a link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise BundleError(f"{path} {what}; copy or publish the bundle again") from error


def _open_itself(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
