"""Golden records: among them are some of which each category and each part of a day is expected."""

from __future__ import annotations

import numpy as np

from service.manifest import Feature
from training.parity import GOLDEN, with_others_expected

FEATURES = [
    Feature(name="kind", kind="categorical", categories=("a", "b", "c"), missing_rate=0.0),
    Feature(name="amount", kind="numeric", missing_rate=0.0),
    Feature(name="time", kind="datetime", missing_rate=0.0),
]
FIRST = np.array([0, 1])


def expected_of(codes, hours):
    """(n, 5) of so many records: the category, an amount of its own, hour, weekday and month."""
    n = len(codes)
    return np.column_stack([codes, np.arange(n), hours, np.full(n, 3.5), np.full(n, 6.5)]).astype(np.float32)


def test_each_category_and_octant_of_a_day_is_expected_of_two_records():
    codes, hours = np.zeros(100), np.full(100, 12.5)
    codes[[50, 60, 70]], codes[[51, 61, 71]] = 1, 3  # b, and one that is none of them
    hours[[80, 81, 82]] = 23.9
    chosen = with_others_expected(FIRST, expected_of(codes, hours), FEATURES)
    assert list(chosen[:2]) == [0, 1]
    assert sorted(chosen[2:]) == [50, 51, 60, 61, 80, 81]


def test_a_record_of_which_two_rare_things_are_expected_comes_before_two_of_one_each():
    codes, hours = np.zeros(50), np.full(50, 12.5)
    codes[[10, 20, 30]], hours[[20, 30, 40]] = 1, 2.5
    assert list(with_others_expected(FIRST, expected_of(codes, hours), FEATURES)) == [0, 1, 20, 30]


def test_what_one_record_alone_is_expected_of_has_that_one():
    codes = np.zeros(20)
    codes[7] = 2
    assert list(with_others_expected(FIRST, expected_of(codes, np.full(20, 1.0)), FEATURES)) == [0, 1, 7]


def test_so_many_categories_do_not_make_a_manifest_grow_without_end():
    chosen = with_others_expected(np.arange(13), expected_of(np.arange(500), np.full(500, 1.0)), FEATURES)
    assert len(chosen) == len(set(chosen)) == 2 * GOLDEN - 3


def test_numbers_alone_need_no_more_records():
    chosen = with_others_expected(FIRST, np.arange(30, dtype=np.float32)[:, None], FEATURES[1:2])
    assert list(chosen) == [0, 1]
