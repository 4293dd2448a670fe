"""Open Inference Protocol v2, POST /v2/models/NAME/infer: tensors in, score, p_value and is_anomaly out. The detector is that of
/score, and so are keys, limits, permits and errors.

A request has either one input of the shape [N, C], which is x as service.encoding has it, or an input of N values a feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.arrow import Floats
from service.batch import Batch
from service.detector import Scores
from service.encoding import FLOAT32_MAX, OVERFLOW, encode_checked, encode_numbers
from service.errors import MAX_ERRORS, FieldError, Problem, printable
from service.limits import check_records
from service.manifest import Feature, Manifest, column_slices
from service.tensors import DATATYPES, Output, from_bytes, from_json
from service.validation import parse, read_rate, records_problem, shown

MAX_DIGITS = 20  # of a length
OUTPUTS = ("score", "p_value", "is_anomaly")  # unless others are asked for
MORE_OUTPUTS = ("elbo", "reconstruction_error", "contributions")
# Sent by clients of servers that queue by priority or hold sequences, or that convert inputs: without effect here.
WITHOUT_EFFECT = ("priority", "timeout", "sequence_id", "sequence_start", "sequence_end", "content_type")
MEMBERS = {
    "the request": ("id", "parameters", "inputs", "outputs"),
    "its parameters": ("alpha", "fdr", "binary_data_output", *WITHOUT_EFFECT),
    "inputs": ("name", "shape", "datatype", "parameters", "data"),
    "inputs.parameters": ("binary_data_size", "content_type"),
    "outputs": ("name", "parameters"),
    "outputs.parameters": ("binary_data", "content_type"),
}
Limits = tuple[tuple[float, float, bool], ...]  # for each column: lowest, highest, and whether it is a whole number
DATETIME_LIMITS: Limits = ((0, 24, False), (0, 6, True), (1, 12, True))  # 23:59:59.999999 is 24 in float32
FLOAT32_LIMITS: Limits = ((-FLOAT32_MAX, FLOAT32_MAX, False),)
Found = list[tuple[int, FieldError]]


@dataclass(slots=True)
class Request:
    """A request that has been read: what to score, and what to tell of it."""

    batch: Batch
    id: str | None
    outputs: list[tuple[str, bool]]  # name, and whether in bytes

    def answer(self, scores: Scores) -> list[Output]:
        """The outputs that were asked for."""
        return [Output(name, getattr(scores, name), binary) for name, binary in self.outputs]


def read(manifest: Manifest, content: bytes, header_length: bytes | None, max_records: int) -> Request:
    """The request in these bytes; `header_length`: of the JSON, where bytes of tensors follow. Raises the Problem."""
    sane = header_length is not None and header_length.isdigit() and len(header_length) < MAX_DIGITS
    size = len(content) if header_length is None else int(header_length) if sane else -1
    if not 0 <= size <= len(content):
        raise Problem("invalid_body", "Inference-Header-Content-Length is no length of a part of the body.")
    request, errors = parse(content[:size]), list[FieldError]()
    if not isinstance(request, dict):
        raise Problem("invalid_request", "The body must be an object with 'inputs'.")
    _check_members(request, "the request", "", errors)
    parameters = _object(request, "parameters", "its parameters", "parameters", errors)
    alpha, fdr = read_rate(parameters, "alpha", errors), read_rate(parameters, "fdr", errors)
    if request.get("id") is not None and not _is_text(request["id"]):
        errors.append(FieldError("id", "must be a text, of whole characters"))
    outputs = _outputs(request, parameters, errors)
    inputs = _inputs(request, errors)
    if errors:
        raise Problem("invalid_request", f"{len(errors)} of the request's members do not fit.", errors)
    check_records(inputs[0]["shape"][0], max_records)
    x = _encode(manifest, inputs, memoryview(content)[size:])
    explain = any(name == "contributions" for name, _ in outputs)
    return Request(Batch(x, (), True, True, alpha, fdr, "all" if explain else "none"), request.get("id"), outputs)


def _outputs(request: dict[str, Any], parameters: dict[str, Any], errors: list[FieldError]) -> list[tuple[str, bool]]:
    binary = _flag(parameters, "binary_data_output", False, "parameters.binary_data_output", errors)
    wanted: dict[str, bool] = {}
    for place, output in enumerate(_objects(request, "outputs", errors)):
        name, loc = output.get("name"), f"outputs[{place}]"
        if not isinstance(name, str) or name not in OUTPUTS + MORE_OUTPUTS or name in wanted:
            errors.append(FieldError(f"{loc}.name", f"must be one of {', '.join(OUTPUTS + MORE_OUTPUTS)}, each once"))
            continue
        own = _object(output, "parameters", "outputs.parameters", f"{loc}.parameters", errors)
        wanted[name] = _flag(own, "binary_data", binary, f"{loc}.parameters.binary_data", errors)
    return list((wanted or dict.fromkeys(OUTPUTS, binary)).items())


def _inputs(request: dict[str, Any], errors: list[FieldError]) -> list[dict[str, Any]]:
    """The inputs, whose names, datatypes and shapes are sound where there are no errors; all of one N, one at least."""
    inputs = _objects(request, "inputs", errors)
    if not inputs:
        errors.append(FieldError("inputs", "must be a list of tensors, one at least"))
    names = set[str]()
    for place, tensor in enumerate(inputs):
        loc, name, shape = f"inputs[{place}]", tensor.get("name"), tensor.get("shape")
        if not isinstance(name, str) or name in names:
            errors.append(FieldError(f"{loc}.name", "must be a text that no other input has"))
        else:
            names.add(name)
        if tensor.get("datatype") not in DATATYPES:
            errors.append(FieldError(f"{loc}.datatype", f"must be one of {', '.join(DATATYPES)}"))
        if not isinstance(shape, list) or len(shape) not in (1, 2) or any(type(n) is not int or n < 1 for n in shape):
            errors.append(
                FieldError(f"{loc}.shape", "must be [N], [N, 1] or [N, C], N being the number of records, one at least")
            )
        own = tensor["parameters"] = _object(tensor, "parameters", "inputs.parameters", f"{loc}.parameters", errors)
        size = own.get("binary_data_size")
        if size is not None and (type(size) is not int or size < 0 or tensor.get("data") is not None):
            errors.append(FieldError(f"{loc}.parameters.binary_data_size", "must be a number of bytes, and data left out"))
    if not errors and len({tensor["shape"][0] for tensor in inputs}) > 1:
        errors.append(FieldError("inputs", "must all be of the same number of records"))
    return inputs


def _encode(manifest: Manifest, inputs: list[dict[str, Any]], raw: memoryview) -> NDArray[np.float32]:
    """x (N, C) of the inputs; `raw`: the bytes after the JSON, all of which must belong to an input."""
    sizes = [tensor["parameters"].get("binary_data_size") for tensor in inputs]
    ends = list(accumulate((size or 0 for size in sizes), initial=0))
    if ends[-1] != len(raw):
        raise Problem(
            "invalid_body", f"{len(raw)} bytes follow the JSON, and the binary_data_size of the inputs make {ends[-1]}."
        )
    features = {feature.name: feature for feature in manifest.features}
    own = features.keys() | {dropped.column for dropped in manifest.dropped}
    first, shape = inputs[0]["name"], inputs[0]["shape"]
    matrix = len(inputs) == 1 and len(shape) == 2 and (first not in own or shape[1] != 1)
    errors, values = list[FieldError](), dict[str, Floats | list[str | None]]()
    for tensor, size, (start, end) in zip(inputs, sizes, pairwise(ends), strict=True):
        name, datatype, loc = tensor["name"], tensor["datatype"], f"inputs.{shown(tensor['name'])}"
        if message := _misfit(manifest, tensor, features.get(name), known=name in own, matrix=matrix):
            errors.append(FieldError(loc, message))
            continue
        try:
            if size is None:
                values[name] = from_json(datatype, tensor["shape"], tensor.get("data"))
            else:
                values[name] = from_bytes(datatype, tensor["shape"], raw[start:end])
        except ValueError as error:
            errors.append(FieldError(loc, str(error)))
    if errors:
        raise records_problem(errors)
    if matrix:
        x, found = _check_matrix(manifest.features, np.asarray(values[first]).reshape(shape), f"inputs.{shown(first)}")
    else:
        x, found = _join(manifest.features, values, shape[0])
    if found:
        found.sort(key=lambda error: error[0])
        raise records_problem([error for _, error in found])
    return x


def _misfit(manifest: Manifest, tensor: dict[str, Any], feature: Feature | None, *, known: bool, matrix: bool) -> str | None:
    """Why an input is not one of this model's, or None."""
    datatype, shape = tensor["datatype"], tensor["shape"]
    if matrix:
        if datatype not in ("FP32", "FP64"):
            return "must be FP32 or FP64, as the one input of shape [N, C]"
        return (
            None if shape[1] == manifest.width else f"must be of shape [N, {manifest.width}]: GET /v2/models/NAME has the columns"
        )
    if not known:
        return "the model has no such feature"
    if prod(shape) != shape[0]:
        return "must be of shape [N] or [N, 1]"
    if feature is None:  # a column that training left out: not scored
        return None
    text = feature.kind == "datetime" or (feature.kind == "categorical" and not feature.integer)
    if text != (datatype == "BYTES") or (datatype == "BOOL" and feature.kind != "boolean"):
        return f"{datatype} does not fit the feature: GET /v2/models/NAME has its datatype"
    return None


def _join(features: Sequence[Feature], values: Mapping[str, Any], n: int) -> tuple[NDArray[np.float32], Found]:
    """x (n, C) of inputs by name; a feature without one is missing."""
    parts, found = [], list[tuple[int, FieldError]]()
    for feature in features:
        own = values.get(feature.name)
        if own is None:
            parts.append(np.full((n, feature.width), np.nan, np.float32))
            continue
        part, wrong = encode_checked(feature, own) if isinstance(own, list) else encode_numbers(feature, own)
        parts.append(part)
        found += [(row, FieldError(f"inputs.{feature.name}[{row}]", message)) for row, message in wrong[:MAX_ERRORS]]
    return np.concatenate(parts, axis=1), found


def _check_matrix(features: Sequence[Feature], numbers: Floats, loc: str) -> tuple[NDArray[np.float32], Found]:
    """x (N, C) of numbers (N, C) that are meant to be one: each column must hold what an encoder could have put there."""
    found = list[tuple[int, FieldError]]()
    with np.errstate(over="ignore"):
        x = numbers.astype(np.float32)
    for feature, at in zip(features, column_slices(features), strict=True):
        columns = x[:, at]
        limits, message = _limits(feature)
        missing = np.isnan(columns)
        fine = missing.all(axis=1) | ~missing.any(axis=1)
        for column, (low, high, whole) in zip(columns.T, limits, strict=True):
            fits = (column >= low) & (column <= high)
            fine &= np.isnan(column) | (fits & (column == np.floor(column)) if whole else fits)
        wrong = np.flatnonzero(~fine)[:MAX_ERRORS].tolist()
        found += [(row, FieldError(f"{loc}[{row}].{feature.name}", message)) for row in wrong]
    return x, found


def _limits(feature: Feature) -> tuple[Limits, str]:
    """What each column of a feature may be, and what to say of another value."""
    if feature.kind == "datetime":
        return DATETIME_LIMITS, "not an hour, a weekday from 0 and a month from 1, or NaN thrice"
    if feature.kind == "categorical":
        return ((0, len(feature.categories), True),), "not the place of a category, or their number for an unknown one"
    if feature.kind == "boolean":
        return ((0, 1, True),), "not 0 or 1"
    return FLOAT32_LIMITS, OVERFLOW


def _objects(request: dict[str, Any], name: str, errors: list[FieldError]) -> list[dict[str, Any]]:
    """A member that is a list of objects; empty without one."""
    value = request.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        errors.append(FieldError(name, "must be a list of objects"))
        return []
    for place, item in enumerate(value):
        _check_members(item, name, f"{name}[{place}].", errors)
    return value


def _object(owner: dict[str, Any], name: str, kind: str, loc: str, errors: list[FieldError]) -> dict[str, Any]:
    """A member that is an object; empty without one."""
    value = owner.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        errors.append(FieldError(loc, "must be an object"))
        return {}
    _check_members(value, kind, f"{loc}.", errors)
    return value


def _is_text(value: Any) -> bool:
    """Whether a value is a text that UTF-8 can hold: JSON can escape half a character."""
    return isinstance(value, str) and printable(value) == value


def _check_members(given: dict[str, Any], kind: str, loc: str, errors: list[FieldError]) -> None:
    words = f"not a member here: {', '.join(MEMBERS[kind])} are"
    errors += [FieldError(loc + shown(name), words) for name in given if name not in MEMBERS[kind]]


def _flag(owner: dict[str, Any], name: str, default: bool, loc: str, errors: list[FieldError]) -> bool:
    value = owner.get(name, default)
    if not isinstance(value, bool):
        errors.append(FieldError(loc, "must be true or false"))
        return default
    return value
