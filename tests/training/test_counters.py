"""Columns that never fall from row to row are told of; numbers by which a table is sorted are not, where they are few."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.data import read_dataset

from .test_copies import written

N = 800
DRAW = np.random.default_rng(5)
LOAD = DRAW.gamma(2, 0.1, N)
PUMP = np.resize(["P1", "P2", "P3"], N)


def told(path: Path, **columns: object) -> list[str]:
    """What is said of columns that never fall."""
    return [warning for warning in read_dataset(written(path / "t.csv", **columns)).warnings if "never falls" in warning]


def by_pump(load: np.ndarray) -> np.ndarray:
    """(N,) the sums of each pump, which begin far apart."""
    total = np.zeros(N)
    for place, pump in enumerate(np.unique(PUMP)):
        total[pump == PUMP] = 3_000 * place + np.cumsum(load[pump == PUMP])
    return total


@pytest.mark.parametrize("column", [np.cumsum(LOAD).round(1), np.cumsum(LOAD > 0.2)], ids=["a meter", "a count"])
def test_a_counter(tmp_path: Path, column: np.ndarray) -> None:
    (warning,) = told(tmp_path, total=column, load=LOAD)
    assert warning.startswith("column total never falls from row to row, as counters and meters do")
    assert "write its changes instead, or pass --drop total" in warning


def test_one_with_gaps(tmp_path: Path) -> None:
    assert told(tmp_path, total=["" if gone else f"{v:.2f}" for gone, v in zip(LOAD < 0.1, np.cumsum(LOAD), strict=True)])


def test_counters_of_machines_that_take_turns(tmp_path: Path) -> None:
    (warning,) = told(tmp_path, pump=PUMP, total=by_pump(LOAD).round(2), load=LOAD)
    assert warning.startswith("column total never falls from row to row of the same pump, as counters")


@pytest.mark.parametrize(
    "column",
    [
        np.sort(DRAW.integers(1990, 2026, N)),
        np.sort(DRAW.integers(18, 100, N)),
        np.concatenate([np.cumsum(LOAD[:500]), np.cumsum(LOAD[500:])]),
        DRAW.permutation(np.cumsum(LOAD)),
        np.resize(np.arange(1, 41) / 7, N),
    ],
    ids=["years", "ages", "one that begins again", "in no order", "a cycle"],
)
def test_others(tmp_path: Path, column: np.ndarray) -> None:
    assert not told(tmp_path, a=column, pump=PUMP, load=LOAD)


def test_a_year_of_a_panel(tmp_path: Path) -> None:
    year = np.tile(np.arange(1920, 2020), 8)
    assert not told(tmp_path, firm=np.repeat(list("abcdefgh"), 100), year=year, load=LOAD)


def test_a_column_is_told_of_once(tmp_path: Path) -> None:
    seconds = 1_600_000_000 + np.cumsum(DRAW.integers(1, 99, N))
    dataset = read_dataset(written(tmp_path / "t.csv", id=np.arange(N), at=seconds, load=LOAD))
    assert [warning.split()[1].strip(":") for warning in dataset.warnings] == ["id", "at"]
