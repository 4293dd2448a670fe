"""The JSON schemas of requests for scores, written straight from the features: a table may have thousands."""

from __future__ import annotations

from typing import Any

from service.manifest import Feature, Manifest
from service.schemas import REFERENCE

Schemas = dict[str, Any]
ANY_MODEL = "Any"  # what the schemas of requests that any model may get are called by
RATE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
EXPLAIN: dict[str, Any] = {"type": "string", "enum": ["flagged", "all", "none"]}
OPTIONS: Schemas = {
    "alpha": {"anyOf": [RATE, {"type": "null"}]},
    "fdr": {"anyOf": [RATE, {"type": "null"}]},
    "explain": {**EXPLAIN, "description": "which records' contributions are told; flagged, unless said"},
}
MISSING = "a value that is null or left out is missing"
EXAMPLES = 5  # of the most frequent categories
_TYPES = {"numeric": "number", "boolean": "boolean", "datetime": "string"}
_ORDERS = {None: "", True: ", the day first in dates with slashes", False: ", the month first in dates with slashes"}


def request_schemas(manifest: Manifest | None, *, values: bool) -> Schemas:
    """By name, the bodies with records (first) and with columns for this model, or for any, and what they are made of.

    values: whether to tell the range of numbers and the most frequent categories of the training table.
    """
    if manifest is None:
        record: Any = {"type": "object", "additionalProperties": True}
        columns: Any = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}
        return {
            f"Score{ANY_MODEL}Records": _body(f"Records; {MISSING}.", "records", _records(record)),
            f"Score{ANY_MODEL}Columns": _body(f"Columns of one length; {MISSING}.", "columns", columns),
        }
    values_of = {feature.name: _value(feature) for feature in manifest.features}
    words_of = {feature.name: _words(feature, values=values) for feature in manifest.features}
    unscored = {dropped.column: {"description": f"not scored: {dropped.reason}"} for dropped in manifest.dropped}
    return {
        "ScoreRecords": _body(f"Records; {MISSING}.", "records", _records(_reference("Record"))),
        "ScoreColumns": _body(f"Columns of one length; {MISSING}.", "columns", _reference("Columns")),
        "Record": _object("Record", {name: {**value, **words_of[name]} for name, value in values_of.items()} | unscored),
        "Columns": _object(
            "Columns",
            {name: {"type": "array", "items": value} for name, value in values_of.items()}
            | {name: {"type": "array", "items": {}} for name in unscored},
        ),
    }


def _body(text: str, name: str, schema: Any) -> Schemas:
    return {
        "type": "object",
        "description": text,
        "properties": {name: schema, **OPTIONS},
        "required": [name],
        "additionalProperties": False,
    }


def _records(record: Schemas) -> Schemas:
    return {"type": "array", "items": record, "minItems": 1}


def _object(title: str, properties: Schemas) -> Schemas:
    return {"type": "object", "title": title, "properties": properties, "additionalProperties": False}


def _reference(name: str) -> Schemas:
    return {"$ref": REFERENCE.format(model=name)}


def _value(feature: Feature) -> Schemas:
    kind = ("integer" if feature.integer else "string") if feature.kind == "categorical" else _TYPES[feature.kind]
    return {"anyOf": [{"type": kind}, {"type": "null"}]}


def _words(feature: Feature, *, values: bool) -> Schemas:
    if feature.categories:
        return {"description": "categorical", **({"examples": list(feature.categories[:EXAMPLES])} if values else {})}
    known = values and feature.low is not None and feature.high is not None
    seen = f", seen from {feature.low:g} to {feature.high:g}" if known else ""
    return {"description": feature.kind + seen + _ORDERS[feature.day_first]}
