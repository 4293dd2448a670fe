"""Records that a model makes up: z from the prior, through decoder.onnx, in the features' own units and categories.

Of z ~ N(0, I) the decoder gives the parameters of p(x | z), for each net of the bundle; a record is drawn from those of one net,
chosen at random. What a model of normal records makes up shows what it takes for normal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from arro3.core import Array, DataType, RecordBatch
from numpy.typing import NDArray

from service.bundle import check_name, current_version, read_bundle
from service.manifest import BundleError, Feature, Manifest
from service.output import check_output, write_table
from service.session import load
from service.sources import TableError
from training.elbo import LOGIT_LIMIT
from training.preprocessing import LEVELS, PERIODS

BATCH = 1_024  # records at a time
YEAR = 2025  # a datetime has no year in the model
INT64_REACH = 2.0**62
GRAPH = "decoder.onnx"

Floats = NDArray[np.floating]


def sample(models_dir: Path, name: str, rows: int, seed: int, output: str, trusted: Sequence[Path] = ()) -> None:
    """Writes `rows` made-up records: CSV or Parquet by the ending of `output`, or '-' for CSV on standard output.

    One seed, one file. Raises BundleError, TableError for no rows or an output that
    cannot be, OSError; nothing half-made is left behind.
    """
    if rows < 1:
        raise TableError(f"rows: {rows} is none; ask for 1 at least")
    check_output(output)
    folder = models_dir / check_name(name) / current_version(models_dir, name)
    bundle = read_bundle(folder, only=[GRAPH], trusted=trusted)
    batches = draw(bundle.manifest, load(bundle.files[GRAPH], "cpu"), rows, np.random.default_rng(seed))
    first = next(batches)  # what may go wrong with a bundle does so here, before a file is begun
    write_table(chain([first], batches), first.schema, output)


def draw(manifest: Manifest, session: Any, rows: int, rng: np.random.Generator) -> Iterator[RecordBatch]:
    """Made-up records in batches, a column a feature in the manifest's order; session: decoder.onnx. Raises BundleError."""
    nets = manifest.training.get("settings", {}).get("nets")
    if not isinstance(nets, int) or nets < 1 or manifest.latent % nets:
        raise BundleError("the manifest does not tell of how many nets the decoder is made; fit the model again")
    bits = sum(feature.kind == "boolean" for feature in manifest.features) + sum(map(_may_lack, manifest.features))
    width = bits + sum(_levels(feature) for feature in manifest.features)
    names = [feature.name for feature in manifest.features]
    period = np.concatenate([PERIODS if feature.kind == "datetime" else [0.0] for feature in manifest.features])
    clock, half = period > 0, period[period > 0] / 2
    for start in range(0, rows, BATCH):
        n = min(BATCH, rows - start)
        z = rng.standard_normal((n, manifest.latent), dtype=np.float32)
        told = session.run(("expected", "deviation", "logits"), {"z": z})
        if [part.shape for part in told] != [(n, nets * manifest.width)] * 2 + [(n, nets * width)]:
            raise BundleError(f"{GRAPH} does not fit the manifest's features; fit the model again")
        net = rng.integers(nets, size=n)
        expected, deviation, logits = (part.reshape(n, nets, -1)[np.arange(n), net].astype(np.float64) for part in told)
        # A deviation is half of what lies between two places on a clock: the short way around, not the one past midnight.
        deviation[:, clock] -= half * np.rint(deviation[:, clock] / half)
        x = expected + deviation * rng.standard_normal(expected.shape)
        bounded = LOGIT_LIMIT * np.tanh(logits / LOGIT_LIMIT)
        yield RecordBatch.from_arrays(_columns(manifest.features, x, bounded, rng), names=names)


def _columns(features: Sequence[Feature], x: Floats, logits: Floats, rng: np.random.Generator) -> list[Array]:
    """Each feature's cells, from numbers x (n, C) and logits (n, B + S): booleans, who lacks a value, levels."""
    booleans = iter(np.arange(sum(feature.kind == "boolean" for feature in features)))
    lacks = iter(np.arange(sum(feature.kind == "boolean" for feature in features), logits.shape[1]))
    levels_from = sum(feature.kind == "boolean" for feature in features) + sum(map(_may_lack, features))
    at, arrays = 0, []
    for feature in features:
        lacking = _happens(logits[:, next(lacks)], rng) if _may_lack(feature) else np.zeros(len(x), bool)
        if feature.kind == "boolean":
            arrays.append(_array(_happens(logits[:, next(booleans)], rng), lacking, DataType.bool()))
        elif feature.kind == "categorical":
            code = _level(logits[:, levels_from : levels_from + _levels(feature)], len(feature.categories), rng)
            levels_from += _levels(feature)
            kind = DataType.int64() if feature.integer else DataType.string()
            arrays.append(_array(np.array(feature.categories, object)[code], lacking, kind))
        elif feature.kind == "datetime":
            arrays.append(_array(_texts(x[:, at : at + feature.width], rng), lacking, DataType.string()))
        else:
            arrays.append(_numbers(feature, x[:, at], lacking))
        at += feature.width
    return arrays


def _numbers(feature: Feature, values: Floats, lacking: NDArray[np.bool_]) -> Array:
    low, high = (limit if limit is not None else end for limit, end in ((feature.low, -np.inf), (feature.high, np.inf)))
    values = values.clip(low, high)
    if not feature.integer:
        return _array(values.astype(np.float32), lacking, DataType.float32())
    whole = np.rint(values)
    if low > -INT64_REACH and high < INT64_REACH:  # by the feature's range, so that all batches are of one type
        return _array(whole.astype(np.int64), lacking, DataType.int64())
    return _array(whole, lacking, DataType.float64())


def _level(logits: Floats, known: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """(n,) codes below `known`, drawn from logits (n, S). The slots of rarer levels stand for these alike; never for none."""
    alone = known if known < LEVELS else LEVELS - 2  # levels with a slot of their own; another one has it in some models
    chance = np.exp(logits if known > alone else logits[:, :alone])
    until = np.cumsum(chance, axis=1)
    level = (until < rng.random((len(logits), 1)) * until[:, -1:]).sum(axis=1)
    return np.where(level < alone, level, rng.integers(alone, max(known, alone + 1), size=len(level)))


def _texts(parts: Floats, rng: np.random.Generator) -> NDArray[np.object_]:
    """(n,) ISO 8601 texts of a day in YEAR, any of those that have the weekday and month of parts (n, 3), and its hour."""
    seconds = np.rint(parts[:, 0] * 3600).astype(np.int64) % 86_400
    weekday, month = np.rint(parts[:, 1]).astype(int) % 7, (np.rint(parts[:, 2]).astype(int) - 1) % 12 + 1
    which = rng.random(len(parts))
    texts = []
    for second, day_of_week, m, chance in zip(seconds.tolist(), weekday.tolist(), month.tolist(), which.tolist(), strict=True):
        first = 1 + (day_of_week - date(YEAR, m, 1).weekday()) % 7
        days = range(first, 1 + _days(m), 7)
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        texts.append(f"{YEAR}-{m:02}-{days[int(chance * len(days))]:02}T{clock}")
    return np.array(texts, object)


def _days(month: int) -> int:
    following = date(YEAR + month // 12, month % 12 + 1, 1)
    return (following - date(YEAR, month, 1)).days


def _array(values: NDArray[Any], lacking: NDArray[np.bool_], kind: DataType) -> Array:
    cells = values.tolist()
    return Array([None if lacks else cell for cell, lacks in zip(cells, lacking.tolist(), strict=True)], kind)


def _happens(logit: Floats, rng: np.random.Generator) -> NDArray[np.bool_]:
    return rng.random(len(logit)) < 1 / (1 + np.exp(-logit))


def _may_lack(feature: Feature) -> bool:
    return 0 < feature.missing_rate < 1


def _levels(feature: Feature) -> int:
    return min(len(feature.categories) + 1, LEVELS) if feature.kind == "categorical" else 0
