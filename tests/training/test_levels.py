"""A level of a category that a calibrating record alone has is as new to its model as a live record's would be."""

import dataclasses

import numpy as np
import pytest

from service.bundle import read_bundle
from service.detector import Detector
from service.manifest import Feature
from training import train as story
from training.data import read_dataset, read_for_evaluation, split
from training.metrics import false_alarm_band
from training.preprocessing import Preprocessing
from training.table.levels import of_training, recode, without_their_own

from .conftest import TINY

NUMBER = Feature(name="n", kind="numeric", low=0, high=9, missing_rate=0)
TEXT = Feature(name="t", kind="categorical", categories=("a", "b", "c", "d"), missing_rate=0.2)
CODE = Feature(name="k", kind="categorical", integer=True, categories=(7, 5), missing_rate=0)
NAN = np.nan
X = np.array([[0, 2, 1], [1, 0, 0], [2, NAN, 0], [3, 2, 0], [4, 1, 1], [5, 4, 2]], np.float32)  # 4 and 2: unknown


def test_categories_are_those_of_records_that_train_and_others_unknown():
    trains = np.array([True, True, True, True, False, False])
    after = of_training((NUMBER, TEXT, CODE), X, trains)
    assert [feature.categories for feature in after] == [(), ("a", "c"), (7, 5)]
    told = recode(X, (NUMBER, TEXT, CODE), after)
    np.testing.assert_array_equal(told[:, 1], [1, 0, NAN, 1, 2, 2])
    np.testing.assert_array_equal(told[:, [0, 2]], X[:, [0, 2]])
    assert X[0, 1] == 2  # what was given stays


def test_a_level_that_a_record_alone_has_is_unknown_where_it_is_judged():
    x = X[:5]
    preprocessing = Preprocessing((NUMBER, TEXT, CODE), x)
    told = without_their_own(preprocessing, x, np.array([4, 1, 2, 0]))
    np.testing.assert_array_equal(told, [[4, 4, 1], [1, 4, 0], [2, NAN, 0], [0, 2, 1]])


def table(path, n, seed):
    """Rows of twelve columns with many rare levels."""
    draw = np.random.default_rng(seed)
    share = 1 / np.arange(1, 61) ** 1.3
    columns = [draw.choice(60, n, p=share / share.sum()) for _ in range(12)]
    lines = [",".join(f"m{level}" for level in row) for row in zip(*columns, strict=True)]
    path.write_text("\n".join([",".join(f"c{k}" for k in range(12)), *lines]) + "\n")
    return path


@pytest.mark.parametrize("n", [600, 1_500])
def test_records_that_calibrate_look_as_new_ones_do(tmp_path, n):
    """Many fresh records have a level that the model does not know; they are flagged as often as was asked for."""
    dataset = read_dataset(table(tmp_path / "t.csv", n, seed=1))
    told = story.train(dataset, "m", tmp_path / "models", dataclasses.replace(TINY, target_fpr=0.05), lambda *_: None)
    bundle = read_bundle(told.folder)
    held = split(n, TINY.seed, TINY.share_held(n), TINY.nets) < 0
    known = [len(feature.categories) for feature in bundle.manifest.features]
    assert (sum(known) < sum(len(feature.categories) for feature in dataset.features)) == held.any()
    fresh = read_for_evaluation(table(tmp_path / "fresh.csv", 2_000, seed=2), bundle.manifest.features, None, None)[0]
    scores = Detector(bundle, "cpu").score(fresh, explain="none")
    low, high = false_alarm_band(len(bundle.manifest.calibration.scores), len(fresh), 0.05)
    assert low <= scores.is_anomaly.mean() <= high
