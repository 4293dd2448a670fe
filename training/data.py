"""The training table: its columns understood as features, its rows as x, and the one split of them.

Read twice, a batch at a time: first to learn what each column is (training.table.kinds), then through service.tables, so that a
record is encoded in training exactly as it is when it is scored. Only x is held in memory.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from arro3 import compute
from arro3.core import Array, DataType, RecordBatch
from numpy.typing import NDArray

from service import arrow
from service.manifest import KL, Dropped, Feature, Kind
from service.sources import Source, TableError, open_sources
from service.tables import encode_batch
from training.config import Config
from training.table import order, strays
from training.table.column import WHOLE_MAX, Column, Mode, check_types
from training.table.kinds import RereadError, UnusableError, feature_of
from training.table.table_warnings import warnings_of_table

LABELS_TOLD = 5  # values of the label column in an error
HELD, UNUSED = -1, -2  # what a record is that belongs to no fold
RUNS, RUN_LEAST, RUN_SHARE = 10, 4, 0.2  # runs of each part of a table in order; records of one, and the share held out, at least
LEAST = 2  # normal rows; so few make no good model, but one makes none


@dataclass(frozen=True)
class Dataset:
    """N normal records and M labelled anomalies, in the order of the files."""

    features: tuple[Feature, ...]
    x: NDArray[np.float32]  # (N, C)
    anomalies_x: NDArray[np.float32]  # (M, C)
    rows: NDArray[np.intp]  # (N,) where the normal ones are among all rows below the headers, the first being 1
    dropped: tuple[Dropped, ...]
    warnings: tuple[str, ...]  # without values, for the manifest
    sources: tuple[tuple[str, str], ...]  # (file name, SHA-256)
    asked: Mapping[str, Any] = field(default_factory=dict)  # how it was to be read, for the manifest
    in_order: bool = False  # the rows resemble those before them, as in a time series
    strays: Mapping[str, str] = field(default_factory=dict)  # column -> values that kept it from being numbers, for the terminal


def read_dataset(
    data: str | Path,
    label: str | None = None,
    normal: str | None = None,
    drop: Sequence[str] = (),
    kinds: Mapping[str, Kind] | None = None,
) -> Dataset:
    """Reads DATA: a CSV (also .gz) or Parquet file, a folder or a glob of them.

    label, normal: rows whose label is another value are kept aside as anomalies. drop: columns to leave out. kinds: what columns
    are, whatever they look like. Raises TableError, with the file, row and column, where the table cannot be used.
    """
    sources = open_sources(data)
    asked = dict(kinds or {})
    _check_columns(sources[0], label, drop, asked)
    rows = _Rows(sources, label, normal)
    names = [name for name in sources[0].names if name not in {label, *drop}]
    check_types(sources, names)
    columns, features, dropped = _understand(rows, names, asked)
    strays.check_left_out(sources[0].path, [found for place in dropped if (found := columns[place.column].strays)])
    dropped += [Dropped(column=name, reason="left out by --drop") for name in sources[0].names if name in set(drop)]
    if not features:
        reason = dropped[0].reason if dropped else "there is none but the label"
        raise TableError(f"{sources[0].path}: no column holds anything to learn from ({reason}); check the data")
    x, anomalies, places = _encode(rows, features)
    alike = order.warning(x, features)
    warnings = warnings_of_table(columns, features, x, alike)
    odd = {name: found.shown() for name in names if (found := columns[name].strays)}
    sums = tuple((source.path.name, _sha256(source.path)) for source in sources)
    told = {"label": label, "normal": normal, "drop": list(drop), "kinds": asked}
    return Dataset(tuple(features), x, anomalies, places, tuple(dropped), warnings, sums, told, alike is not None, odd)


def read_for_evaluation(
    data: str | Path, features: Sequence[Feature], label: str | None, normal: str | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """x (N, C) of every row, encoded as when it is scored, and is_anomaly (N,): there is a label and it is not `normal`.

    Raises TableError, also where no row is normal.
    """
    sources = open_sources(data)
    _check_columns(sources[0], label, (), {})
    lacking = [feature.name for feature in features if feature.name not in sources[0].names]
    if lacking:
        raise TableError(f"{sources[0].path}: no column {lacking[0]}, which the model needs; add it, empty where unknown")
    parts, odd = [], []
    rows = _Rows(sources, label, normal)
    for source, batch, first, is_normal in rows:
        parts.append(encode_batch(source, batch, features, first))
        odd.append(~is_normal)
    if not parts:
        raise TableError(f"{sources[0].path}: no rows below the header; there is nothing to evaluate")
    rows.check_label("false alarms are counted on normal records")
    return np.concatenate(parts), np.concatenate(odd)


def check_fit(dataset: Dataset, config: Config) -> None:
    """Raises TableError where a table that could be read cannot be fitted with these settings."""
    check_size(len(dataset.x), config.share_held(len(dataset.x), in_order=dataset.in_order), config.nets)
    if config.score == "elbo" and KL in {feature.name for feature in dataset.features}:
        raise TableError(f"column {KL}: with --score elbo this is the name of the latent term; rename the column, or --drop it")


def check_size(n: int, calibration_share: float, folds: int) -> None:
    """Raises TableError where a fold of a split would have fewer than two of n normal records."""
    if n - round(n * calibration_share) < 2 * folds:
        needed = next(m for m in count(n + 1) if m - round(m * calibration_share) >= 2 * folds)
        raise TableError(f"{n} normal rows are too few: {needed} are needed at least, two of them for each of {folds} nets")


def split(n: int, seed: int, calibration_share: float, folds: int, *, in_order: bool = False) -> NDArray[np.int8]:
    """(n,) the part of each record: its fold, 0 to folds - 1, or HELD for calibration, which no net ever sees.

    The calibration records are calibration_share of all, rounded; the folds' sizes differ by one at most. The same for the same
    arguments. in_order: records resemble those before them, so that one held out alone would have its like among those that
    train: parts are of runs of records, where there are enough. The runs held out are RUN_SHARE of all, if not more, however few
    of their records calibrate, and the others are UNUSED; the folds' sizes differ by RUNS at most.
    Raises TableError where a fold would have fewer than two records.
    """
    check_size(n, calibration_share, folds)
    held = round(n * calibration_share)
    draw = np.random.default_rng(seed)
    out = max(calibration_share, RUN_SHARE)
    if in_order and min(held, int(n * (1 - out)) // folds) >= RUN_LEAST * RUNS:
        return _in_runs(n, out, held, folds, draw)
    part = np.empty(n, np.int8)
    order = draw.permutation(n)
    part[order[:held]] = HELD
    part[order[held:]] = np.arange(n - held) % folds
    return part


def _in_runs(n: int, share: float, held: int, folds: int, draw: np.random.Generator) -> NDArray[np.int8]:
    """As `split`, each part with a run in each of RUNS equal stretches of the table; of the share held out, `held` calibrate."""
    runs = []
    for stretch in np.array_split(np.arange(n), RUNS):
        out = math.ceil(len(stretch) * share)
        sizes = np.array([out, *map(len, np.array_split(stretch[out:], folds))])
        parts = draw.permutation(folds + 1)
        runs.append(np.repeat(parts + HELD, sizes[parts]))
    part = np.concatenate(runs).astype(np.int8)
    out_of_all = np.flatnonzero(part == HELD)
    part[out_of_all] = UNUSED
    part[out_of_all[np.arange(held) * len(out_of_all) // held]] = HELD
    return part


class _Rows:
    """The batches of a table, each row known to be normal or not."""

    def __init__(self, sources: Sequence[Source], label: str | None, normal: str | None) -> None:
        self.sources, self._label, self._normal = sources, label, normal
        self.normals = self.others = 0  # rows, known after one iteration
        self._labels: dict[str, None] = {}  # some that were seen, in the order of the table

    def __iter__(self) -> Iterator[tuple[Source, RecordBatch, int, NDArray[np.bool_]]]:
        self.normals = self.others = 0
        for source in self.sources:
            first = 1
            for batch in source.batches():
                is_normal = self._is_normal(source, batch, first)
                self.normals += int(is_normal.sum())
                self.others += int((~is_normal).sum())
                yield source, batch, first, is_normal
                first += batch.num_rows
        if not self.normals + self.others:
            raise TableError(f"{self.sources[0].path}: no rows below the header; a table of records is needed")

    def check(self) -> None:
        """Raises TableError where there are not normal rows enough; to be asked after an iteration."""
        self.check_label("normal records are what a model learns from")
        if self.normals < LEAST:
            what = "one row of normal records" if self.others else "one row"
            raise TableError(f"{self.sources[0].path}: {what} only; a model needs many more")

    def check_label(self, why: str) -> None:
        """Raises TableError, which says why normal rows are needed, where there is none; to be asked after an iteration."""
        if not self.normals:
            found = ", ".join(map(strays.quoted, self._labels)) + (", ..." if len(self._labels) == LABELS_TOLD else "")
            what = f"no row whose {self._label} is {self._normal} (--normal); there are {found}"
            raise TableError(f"{self.sources[0].path}: {what}; {why}")

    def _is_normal(self, source: Source, batch: RecordBatch, first: int) -> NDArray[np.bool_]:
        if self._label is None or self._normal is None:
            return np.ones(batch.num_rows, bool)
        labels = arrow.plain(batch.column(self._label))
        if not arrow.is_text(labels.type):
            try:
                labels = compute.cast(labels, DataType.string())
            except Exception:  # noqa: BLE001 - arro3 raises bare ones
                raise TableError(f"{source.path}: column {self._label} cannot be the label: it holds no single values") from None
        wanted = _canonical(self._normal)

        def is_wanted(text: str) -> float | None:
            same = _canonical(text) == wanted
            if text.strip() in arrow.MISSING and not same:
                return None
            if len(self._labels) < LABELS_TOLD:
                self._labels[text.strip()] = None
            return float(same)

        same, missing = arrow.by_distinct(labels, is_wanted)
        missing += np.flatnonzero(np.isnan(same)).tolist()
        if missing:
            raise TableError(f"{source.place(first + min(missing), self._label)}: no label; fill it in or remove the row")
        return np.asarray(same == 1)


def _check_columns(source: Source, label: str | None, drop: Sequence[str], asked: Mapping[str, Kind]) -> None:
    named = [("--label", label or source.names[0]), *(("--drop", name) for name in drop)]
    for option, name in [*named, *((f"--{kind}", name) for name, kind in asked.items())]:
        if name not in source.names:
            raise TableError(f"{source.path}: {option} {name}: no such column; the columns are {', '.join(source.names[:20])}")
        if name in asked and name in {label, *drop}:
            raise TableError(f"{source.path}: column {name} cannot be a feature and be left out; give one option for it")


def _understand(
    rows: _Rows, names: Sequence[str], asked: Mapping[str, Kind]
) -> tuple[dict[str, Column], list[Feature], list[Dropped]]:
    """The features that the columns make, and the columns that make none, both in the table's order."""
    columns: dict[str, Column] = {}
    features: dict[str, Feature] = {}
    unusable: dict[str, Dropped] = {}
    modes: dict[str, Mode | None] = dict.fromkeys(names)
    while modes:
        tried = {name: column.mode for name, column in columns.items()}
        columns |= {name: Column(name, asked.get(name), mode, tried.get(name)) for name, mode in modes.items()}
        for source, batch, first, is_normal in rows:
            numbers = first + np.flatnonzero(is_normal)
            kept = None if is_normal.all() else Array.from_numpy(is_normal)
            for name in modes:
                array = batch.column(name)
                columns[name].see(array if kept is None else compute.filter(array, kept), source, numbers)
        rows.check()
        again: dict[str, Mode | None] = {}
        for name in modes:
            try:
                features[name] = feature_of(columns[name])
            except RereadError as error:
                again[name] = error.mode
            except UnusableError as error:
                unusable[name] = Dropped(column=name, reason=str(error), value=error.value)
        modes = again
    dropped = [unusable[name] for name in names if name in unusable]
    return columns, [features[name] for name in names if name in features], dropped


def _encode(rows: _Rows, features: Sequence[Feature]) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    """x of the normal rows, x of the others, and where in the table the normal ones are."""
    width = sum(feature.width for feature in features)
    x, others = np.empty((rows.normals, width), np.float32), np.empty((rows.others, width), np.float32)
    places = np.empty(rows.normals, np.intp)
    normals_done = others_done = 0
    for source, batch, first, is_normal in rows:
        part = encode_batch(source, batch, features, first)
        found = int(is_normal.sum())
        places[normals_done : normals_done + found] = 1 + normals_done + others_done + np.flatnonzero(is_normal)
        x[normals_done : normals_done + found] = part[is_normal]
        others[others_done : others_done + len(part) - found] = part[~is_normal]
        normals_done, others_done = normals_done + found, others_done + len(part) - found
    return x, others, places


def _canonical(value: str) -> str:
    """One text for one label: 1, 1.0 and ' 1' are the same, as a number and as a text, and True and true."""
    text = value.strip()
    if text.lower() in ("true", "false"):  # Parquet's booleans and those that CSV files have
        return text.lower()
    try:
        number = float(text)
    except ValueError:
        return text
    # float("1_0") is a number in Python alone, and beyond 2^53 different whole numbers are one
    return text if "_" in text or abs(number) >= WHOLE_MAX else repr(number)


def digests(data: str | Path) -> set[str]:
    """The SHA-256 of each file of DATA, as in the manifest of a model that was fitted on it."""
    return {_sha256(source.path) for source in open_sources(data)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
