"""Drift of features: cells, the index, and that chance alone never reaches its limit."""

from __future__ import annotations

import numpy as np
import pytest

from service.drift import FALSE_WARNINGS, KINDS, LEVELS, LOOKS, MARGIN, Cells
from service.manifest import Feature
from tests.training.mixed import FEATURES, rows
from training.reference import with_reference

AMOUNT, AGE, SHOP, CITY, CODE, ONLINE, TIME = range(7)


@pytest.fixture(scope="module")
def cells() -> Cells:
    return Cells(with_reference(FEATURES, rows(5_000)))


def warned(cells: Cells, x: np.ndarray, weight: float = 1.0) -> set[tuple[str, int]]:
    measures = cells.measures(cells.count(x), weight)
    return {(kind, int(place)) for kind in KINDS for place in np.flatnonzero(measures[kind].warned)}


def test_the_reference_is_what_its_own_records_are_counted_as(cells: Cells) -> None:
    assert (cells.count(rows(5_000)) == cells.reference).all()
    assert (cells.count(rows(700, seed=2)).sum(1) == 700).all()
    assert all((np.nan_to_num(cells.measures(cells.reference, 1.0)[kind].psi) == 0).all() for kind in KINDS)


def test_the_index_is_the_textbook_one() -> None:
    """Two cells of 500 and 500, live 300 and 100, each half a record more."""
    x = np.repeat(np.float32([0, 1]), 500)[:, None]
    cells = Cells(with_reference((Feature(name="a", kind="boolean"),), x))
    live, half = np.array([300.5, 100.5]) / 401, 0.5
    measures = cells.measures(cells.count(np.repeat(np.float32([0, 1]), [300, 100])[:, None]), 1.0)
    assert measures["values"].psi[0] == pytest.approx(((live - half) * np.log(live / half)).sum())
    assert measures["values"].limit[0] > MARGIN
    assert np.isnan(measures["unknown_categories"].psi[0])


@pytest.mark.parametrize("features", [1, 3])
def test_the_limit_is_what_a_chi_square_variable_stays_below(features: int) -> None:
    def repeated(zeros: int, ones: int) -> np.ndarray:
        return np.repeat(np.repeat(np.float32([0, 1]), [zeros, ones])[:, None], features, 1)

    cells = Cells(with_reference([Feature(name=f"a{i}", kind="boolean") for i in range(features)], repeated(500, 500)))
    doubt = np.log(2 * features * LOOKS / FALSE_WARNINGS)  # of each feature two questions: values, and missing ones
    limit = MARGIN + (1 / 200 + 1 / 1000) * (1 + 2 * np.sqrt(doubt) + 2 * doubt)
    assert cells.measures(cells.count(repeated(300, 100)), 0.5)["values"].limit == pytest.approx(np.full(features, limit))


def test_what_is_asked_of_which_feature(cells: Cells) -> None:
    assert cells.asked["missing"].all()
    assert np.flatnonzero(cells.asked["unknown_categories"]).tolist() == [SHOP, CITY, CODE]
    assert not cells.asked["values"][TIME], "no clock is that of the training"


def test_rare_categories_share_a_cell_and_unknown_ones_have_their_own(cells: Cells) -> None:
    x = rows(1_000, seed=3)
    x[:, 3] = LEVELS + np.arange(1_000) % 20  # known, none of them among the most frequent
    counts = cells.count(x)[CITY]
    assert (counts[LEVELS], counts[LEVELS + 1], counts[-1]) == (1_000, 0, 0)
    x[:400, 3] = len(FEATURES[CITY].categories)
    counts = cells.count(x)[CITY]
    assert (counts[LEVELS], counts[LEVELS + 1]) == (600, 400)


def test_categories_that_were_unknown_in_training_are_no_drift() -> None:
    """As those beyond the most frequent ones are."""
    x = np.float32([0, 1, 2, 2])[np.arange(4000) % 4][:, None]  # a half is unknown
    cells = Cells(with_reference((Feature(name="a", kind="categorical", categories=("x", "y")),), x))
    assert (cells.count(x) == cells.reference).all()
    assert not cells.measures(cells.count(x), 1.0)["unknown_categories"].warned.any()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: np.add(x[:, 0], 3, out=x[:, 0]), ("values", AMOUNT)),
        (lambda x: np.multiply(x[:, 0], 2, out=x[:, 0]), ("values", AMOUNT)),
        (lambda x: np.multiply(x[:, 1], 1_000, out=x[:, 1]), ("values", AGE)),
        (lambda x: x[:400].__setitem__((slice(None), 0), np.nan), ("missing", AMOUNT)),
        (lambda x: x[:400].__setitem__((slice(None), slice(6, 9)), np.nan), ("missing", TIME)),
        (lambda x: x[:200].__setitem__((slice(None), 4), 3), ("unknown_categories", CODE)),
        (lambda x: x[:600].__setitem__((slice(None), 3), 0), ("values", CITY)),
        (lambda x: np.copyto(x[:800, 5], 1, where=~np.isnan(x[:800, 5])), ("values", ONLINE)),
    ],
    ids=["shift", "scale", "another unit", "missing", "missing datetimes", "unknown category", "frequent category", "boolean"],
)
def test_each_kind_of_drift_is_found_in_its_feature_and_nowhere_else(cells: Cells, change, found: tuple[str, int]) -> None:
    x = rows(1_000, seed=4)
    change(x)
    assert warned(cells, x) == {found}
    assert warned(cells, rows(1_000, seed=4)) == set()


def test_a_value_that_is_missing_no_more_is_drift_too() -> None:
    x = rows(5_000)
    x[: 5_000 // 2, 0] = np.nan
    assert ("missing", AMOUNT) in warned(Cells(with_reference(FEATURES, x)), rows(1_000, seed=5))


def test_nothing_is_said_of_values_where_all_are_missing(cells: Cells) -> None:
    x = rows(1_000, seed=7)
    x[:, 4] = np.nan
    assert warned(cells, x) == {("missing", CODE)}
    measures = cells.measures(cells.count(x), 1.0)
    assert np.isnan([measures["values"].psi[CODE], measures["unknown_categories"].psi[CODE]]).all()


@pytest.mark.parametrize("training", [50, 5_000])
@pytest.mark.parametrize("live", [200, 5_000])
def test_chance_alone_does_not_reach_the_limit(training: int, live: int) -> None:
    """Not even without the margin, which is beside what chance can do."""
    highest = 0.0
    for seed in range(40):
        cells = Cells(with_reference(FEATURES, rows(training, seed=seed)))
        for measures in cells.measures(cells.count(rows(live, seed=1_000 + seed)), 1.0).values():
            highest = max(highest, float(np.nanmax(measures.psi / (measures.limit - MARGIN))))
    assert 0 < highest < 1


def test_fewer_records_need_a_larger_change(cells: Cells) -> None:
    x = rows(5_000, seed=6)
    x[:, 0] += 1.0
    assert warned(cells, x) == {("values", AMOUNT)}
    assert warned(cells, x[:200]) == set()
    assert warned(cells, x, weight=0.04) == set()
