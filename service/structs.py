"""The structs that JSON is read into, made of a model's features; and records that are kept as texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from service.encoding import FLOAT32_MAX
from service.manifest import Feature

# The default of a feature that is left out: JSON cannot hold it, so identity tells it from null. NumPy reads both as missing.
ABSENT = float("nan")
INT64_MAX = 2**63 - 1  # msgspec knows no larger bounds
NEVER = Annotated[int, msgspec.Meta(gt=0, lt=0)]


class Unread(Sequence[Any]):
    """Records as the texts that they came in, each read anew, to its first `width` values, whenever it is asked for: once to be
    scored, once more if it is explained. All of them read would take several times the memory of the body."""

    def __init__(self, texts: Sequence[msgspec.Raw], decode: Callable[[msgspec.Raw], Any], width: int | None = None) -> None:
        self.texts, self.decode, self._width = texts, decode, width

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [msgspec.structs.astuple(self.decode(text))[: self._width] for text in self.texts[place]]
        return msgspec.structs.astuple(self.decode(self.texts[place]))[: self._width]


class Decoders(NamedTuple):
    """From bytes to structs. What does not fit is a ValueError."""

    request: Callable[[bytes], Any]  # the whole request
    usual: Callable[[bytes], Any]  # the same where all values of its records are there and within what training saw
    scan: Callable[[bytes], Any]  # the same with each record left as text
    record: Callable[[bytes | msgspec.Raw], Any]  # a single record


def decoders(features: Sequence[Feature], dropped: Sequence[str]) -> Decoders:
    """Those of a model. All refuse all where a name or a category cannot be a struct's, so that it goes the slow way."""
    names = {f"f{i}": name for i, name in enumerate([*(feature.name for feature in features), *dropped])}
    left_out = [(key, bool | int | float | str | None, ABSENT) for key in list(names)[len(features) :]]
    types: list[Any] = list(zip(names, map(json_type, features), strict=False))
    options: dict[str, Any] = {"rename": names, "forbid_unknown_fields": True, "gc": False}
    try:
        record = msgspec.defstruct("Record", [*((key, kind | None, ABSENT) for key, kind in types), *left_out], **options)
        usual = msgspec.defstruct("Usual", [*zip(names, map(usual_type, features), strict=False), *left_out], **options)
        lists = [(key, list[kind | None], None) for key, kind, *_ in [*types, *left_out]]  # type: ignore[valid-type]
        columns = msgspec.defstruct("Columns", lists, **options)
        more = [
            ("columns", columns, None),
            ("alpha", float | msgspec.UnsetType | None, msgspec.UNSET),
            ("fdr", float | msgspec.UnsetType | None, msgspec.UNSET),
            ("explain", Literal["flagged", "all", "none"] | msgspec.UnsetType, msgspec.UNSET),
        ]
        requests = [
            msgspec.defstruct("Request", [("records", list[kind], None), *more], forbid_unknown_fields=True)  # type: ignore[valid-type]
            for kind in (record, usual, msgspec.Raw)
        ]
        return Decoders(*(msgspec.json.Decoder(kind).decode for kind in (*requests, record)))
    except (ValueError, NotImplementedError):  # the latter: a category beyond 64 bits
        return Decoders(_refuse, _refuse, _refuse, _refuse)


def _refuse(body: bytes) -> Any:  # noqa: ARG001 - stands in for a decoder
    raise msgspec.DecodeError


def json_type(feature: Feature) -> Any:
    """The type of a feature's value in JSON, null aside."""
    if feature.kind == "boolean":
        return bool
    if feature.kind == "datetime" or (feature.kind == "categorical" and not feature.integer):
        return str
    return int if feature.kind == "categorical" else int | float


def usual_type(feature: Feature) -> Any:
    """The type of a feature's value in JSON where it is there and needs no warning."""
    if feature.kind == "categorical":
        return Literal[feature.categories] if feature.categories else NEVER
    if feature.kind != "numeric":
        return json_type(feature)
    low, high = (-FLOAT32_MAX if feature.low is None else feature.low), (FLOAT32_MAX if feature.high is None else feature.high)
    low, high = max(low, -FLOAT32_MAX), min(high, FLOAT32_MAX)
    number = Annotated[float, msgspec.Meta(ge=low, le=high)]
    if low > INT64_MAX or high < -INT64_MAX:
        return number
    return Annotated[int, msgspec.Meta(ge=max(math.ceil(low), -INT64_MAX), le=min(math.floor(high), INT64_MAX))] | number
