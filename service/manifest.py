"""The contract between training and service: what a bundle is made of, and what its manifest.json says.

Training writes these models, the service reads them; nothing else passes between the two but the ONNX files.
Format: models/README.md, field by field. A change of meaning raises SCHEMA_VERSION.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import accumulate, pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"  # optional; one line: the key's id, a space, the signature of the bytes of manifest.json in base64
CURRENT = "CURRENT"
GRAPHS = ("encoder.onnx", "decoder.onnx", "scorer.onnx")
REPORT = "report.html"
FILES = (*GRAPHS, REPORT)
MAX_FILE_BYTES = 1 << 30
# No name reaches the file system unless it looks like this: no separator, no leading dot, no surprise.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# What a fit calls a version: its time, and the first digits of the SHA-256 of the manifest.
VERSION = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{6})")

Kind = Literal["numeric", "categorical", "boolean", "datetime"]
ScoreKind = Literal["surprise", "elbo", "reconstruction"]
KL = "_kl"  # the name of the latent term among the contributions of an elbo score
Scalar = bool | int | float | str
DATETIME_PARTS = ("hour", "weekday", "month")


class BundleError(Exception):
    """A bundle cannot be used; the text says which, what was found and what to do."""

    stage = "files"  # how far it came: what is read and verified; trial, in a process of its own; proof, of its golden records


class ProviderError(BundleError):
    """The execution provider that was asked for cannot be used, whatever the bundle."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    untold: ClassVar[
        tuple[str, ...]
    ] = ()  # members that are left out where they are None: older readers refuse what they do not know

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_told(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        members: dict[str, Any] = dump(self)
        return {name: value for name, value in members.items() if value is not None or name not in self.untold}


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

    untold = ("day_first",)
    name: str
    kind: Kind
    integer: bool = False  # numeric or categorical: the values are whole numbers
    categories: tuple[str, ...] | tuple[int, ...] = ()  # a category's code is its place; an unknown one's is their number
    low: float | None = None  # the range that training saw, numeric only
    high: float | None = None
    missing_rate: float = Field(0.0, ge=0, le=1)  # share of the training records without a value
    reference: Reference | None = None  # None in bundles that were made before there was one
    day_first: bool | None = None  # datetime only: in dates with slashes; None where training saw none, each for itself then

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


def column_slices(features: Iterable[Feature]) -> list[slice]:
    """Which columns of x (N, C) carry each feature."""
    ends = list(accumulate((feature.width for feature in features), initial=0))
    return [slice(start, end) for start, end in pairwise(ends)]


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

    untold = ("value",)
    column: str
    reason: str
    value: Scalar | None = None  # the one that a constant column had; not in bundles made before it was kept, nor of datetimes


Level = tuple[float, float]  # of a feature: from what to what its column of x is where a record has it


class Bounds(_Model):
    """Between what all training records have a number; None where that end is no rule."""

    feature: str
    low: float | None = None
    high: float | None = None


class Pair(_Model):
    """Two numbers of which the one is never above the other."""

    lesser: str
    greater: str


class Relation(_Model):
    """A weighted sum of numbers that is the same in all training records, but for rounding."""

    coefficients: dict[str, float]  # by feature
    value: float
    within: float = Field(ge=0)


class Factor(_Model):
    """A power of a number, or of what it adds to a whole (sign 1) or leaves of it (-1), such as 100 for a percentage."""

    feature: str
    power: int
    base: float = 0.0
    sign: Literal[1, -1] = 1


class Product(_Model):
    """A product of powers that is the same in all training records, but for rounding; of positive factors alone."""

    factors: tuple[Factor, ...]
    value: float = Field(gt=0)
    within: float = Field(ge=0)  # of its logarithm


class Apart(_Model):
    """A level, and those of another feature that no training record has with it."""

    feature: str
    level: Level
    other: str
    never: tuple[Level, ...]


class Rules(_Model):
    """What every training record keeps, and is odd to break."""

    bounds: tuple[Bounds, ...] = ()
    whole: tuple[str, ...] = ()  # numbers that are whole
    pairs: tuple[Pair, ...] = ()
    relations: tuple[Relation, ...] = ()
    products: tuple[Product, ...] = ()
    apart: tuple[Apart, ...] = ()


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

    untold = ("rules",)
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
    rules: Rules | None = None  # None where there are none, and in bundles that were made before they were told
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
        if self.rules is not None and (strange := related(self.rules) - set(names)):
            raise ValueError(f"rules of features that there are not: {', '.join(sorted(strange))}")
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


def related(rules: Rules) -> set[str]:
    """The features that rules are about."""
    pairs = {name for pair in rules.pairs for name in (pair.lesser, pair.greater)}
    levels = {name for rule in rules.apart for name in (rule.feature, rule.other)}
    sums = {name for rule in rules.relations for name in rule.coefficients}
    products = {name for rule in rules.products for name in (factor.feature for factor in rule.factors)}
    return {rule.feature for rule in rules.bounds} | set(rules.whole) | pairs | sums | products | levels


def parse_manifest(content: bytes) -> Manifest:
    """The manifest of these bytes; BundleError names the first field that is wrong."""
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BundleError(f"{MANIFEST} is not of schema version {SCHEMA_VERSION}: {where}: {first['msg']}") from None
