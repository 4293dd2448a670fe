"""The structs that JSON is read into, made of a model's features; and records that are kept as texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from service.manifest import Feature

# The default of a feature that is left out: JSON cannot hold it, so identity tells it from null. NumPy reads both as missing.
ABSENT = float("nan")


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


def decoders(features: Sequence[Feature], dropped: Sequence[str]) -> tuple[Any, Any, Any]:
    """bytes -> a struct of the whole request, the same with each record left as text, and a struct of a single record; all refuse
    all where a name cannot be a struct's, so that it goes the slow way."""
    names = {f"f{i}": name for i, name in enumerate([*(feature.name for feature in features), *dropped])}
    kinds = [*map(json_type, features), *[bool | int | float | str for _ in dropped]]
    types = list(zip(names, kinds, strict=True))
    options: dict[str, Any] = {"rename": names, "forbid_unknown_fields": True, "gc": False}
    try:
        record = msgspec.defstruct("Record", [(key, kind | None, ABSENT) for key, kind in types], **options)
        columns = msgspec.defstruct("Columns", [(key, list[kind | None], None) for key, kind in types], **options)  # type: ignore[valid-type]
        more = [
            ("columns", columns, None),
            ("alpha", float | msgspec.UnsetType | None, msgspec.UNSET),
            ("fdr", float | msgspec.UnsetType | None, msgspec.UNSET),
            ("explain", Literal["flagged", "all", "none"] | msgspec.UnsetType, msgspec.UNSET),
        ]
        request, scanned = (
            msgspec.defstruct("Request", [("records", list[kind], None), *more], forbid_unknown_fields=True)  # type: ignore[valid-type]
            for kind in (record, msgspec.Raw)
        )
    except ValueError:
        return _refuse, _refuse, _refuse
    request_decoder, scanner, record_decoder = (msgspec.json.Decoder(kind) for kind in (request, scanned, record))
    return request_decoder.decode, scanner.decode, record_decoder.decode


def _refuse(body: bytes) -> Any:  # noqa: ARG001 - stands in for a decoder
    raise msgspec.DecodeError


def json_type(feature: Feature) -> Any:
    """The type of a feature's value in JSON, null aside."""
    if feature.kind == "boolean":
        return bool
    if feature.kind == "datetime" or (feature.kind == "categorical" and not feature.integer):
        return str
    return int if feature.kind == "categorical" else int | float
