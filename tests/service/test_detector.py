"""The way of a single record through the detector equals that of many; and a graph that says something else is refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.bundle import Bundle, read_bundle
from service.detector import Detector
from service.manifest import BundleError, Golden
from tests.service.tiny_bundle import FEATURES


@pytest.fixture(scope="module")
def bundle(bundle_dir: Path) -> Bundle:
    return read_bundle(next(path for path in (bundle_dir / "tiny").iterdir() if path.is_dir()))


@pytest.fixture(scope="module")
def detector(bundle: Bundle) -> Detector:
    return Detector(bundle, "cpu")


def with_expected(bundle: Bundle, change: Callable[[int, tuple[float, ...]], tuple[float, ...] | None]) -> Bundle:
    """The bundle whose golden records, by their places, are said to have other expected values."""
    golden = [one.model_copy(update={"expected": change(i, one.expected or ())}) for i, one in enumerate(bundle.manifest.golden)]
    return dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"golden": tuple[Golden, ...](golden)}))


def test_a_graph_that_expects_something_else_is_refused(bundle: Bundle) -> None:
    for column in range(bundle.manifest.width):
        altered = with_expected(bundle, lambda _, row, c=column: (*row[:c], row[c] * 1.1, *row[c + 1 :]))
        with pytest.raises(BundleError, match=f"column {column} of what is expected"):
            Detector(altered, "cpu")


def test_the_likeliest_category_of_one_record_may_be_a_matter_of_last_bits(bundle: Bundle) -> None:
    Detector(with_expected(bundle, lambda i, row: tuple(value + (i == 1) for value in row)), "cpu")


def test_a_time_that_is_expected_somewhat_later_is_refused(bundle: Bundle) -> None:
    """By a fiftieth of an hour in two records: as a share of the largest hours there are, that were little."""
    hour = bundle.manifest.width - 3
    late = with_expected(bundle, lambda i, row: (*row[:hour], row[hour] + 0.02 * (i < 2), *row[hour + 1 :]))
    with pytest.raises(BundleError, match=f"column {hour} of what is expected"):
        Detector(late, "cpu")


def test_a_bundle_of_before_has_no_expected_values_to_compare(bundle: Bundle) -> None:
    Detector(with_expected(bundle, lambda *_: None), "cpu")
    for change in (lambda i, row: row if i else None, lambda i, row: row[i:]):
        with pytest.raises(BundleError, match="expected values, all or none"):
            Detector(with_expected(bundle, change), "cpu")


@given(
    st.integers(0, 198), st.integers(-3, 3), st.floats(-100, 1e6, width=32), st.sampled_from([None, 0.005, 0.01, 0.1, 0.5, 0.9])
)
@example(0, 0, 3e38, 0.5)
@settings(max_examples=200)
def test_a_single_record_is_judged_as_one_of_many(
    detector: Detector, place: int, steps: int, amount: float, alpha: float | None
) -> None:
    """Scores at, just below and just above those of the calibration, where the two ways could part."""
    x = np.zeros((2, sum(feature.width for feature in FEATURES)), np.float32)
    target = detector._calibration[place]
    for _ in range(abs(steps)):
        target = np.nextafter(target, np.float32(np.inf * steps))
    x[0, 0], x[1, 0] = target, amount  # the tiny bundle's score is the sum of the values
    many = detector.score(x, alpha)
    for row in range(2):
        one = detector.score(x[row : row + 1], alpha)
        for field in ("score", "p_value", "is_anomaly", "severity", "elbo", "reconstruction_error"):
            alone, among = getattr(one, field), getattr(many, field)
            assert alone.dtype == among.dtype
            np.testing.assert_array_equal(alone, among[row : row + 1])
        flagged = bool(many.is_anomaly[row])
        assert one.explained.tolist() == [0] * flagged
        assert (one.explained.dtype, one.contributions.shape) == (many.explained.dtype, (flagged, len(FEATURES)))
        assert one.expected.shape == (flagged, x.shape[1])
        if flagged:
            at = many.explained.tolist().index(row)
            np.testing.assert_array_equal(one.contributions[0], many.contributions[at])
        assert (one.alpha, one.threshold) == (many.alpha, many.threshold)
