"""A table whose rows resemble those before them is split into runs of rows, so that its neighbours test no record."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bundle import read_bundle
from service.detector import Detector
from tests.training.test_copies import written
from training import train as story
from training.config import Config
from training.data import HELD, RUNS, UNUSED, read_dataset, split

N, LATER, PHI = 6_000, 4_000, 0.98
QUICK = Config(nets=2, steps_most=60, steps_least=10, evaluate_every=20, hidden=16, latent=8)


def series(seed: int):
    """(N + LATER, 6) columns that three autoregressions of first order drive."""
    random = np.random.default_rng(seed)
    factors = random.normal(size=(N + LATER, 3))
    for row in range(1, len(factors)):
        factors[row] = PHI * factors[row - 1] + np.sqrt(1 - PHI**2) * factors[row]
    return factors @ random.normal(size=(3, 6)) + 0.1 * random.normal(size=(len(factors), 6))


@given(st.integers(400, 5_000), st.integers(0, 5), st.sampled_from([0.1, 0.15, 0.2, 0.3, 0.5]), st.integers(1, 4))
def test_each_part_has_a_run_in_each_stretch_of_the_table(n, seed, share, folds):
    part = split(n, seed, share, folds, in_order=True)
    np.testing.assert_array_equal(part, split(n, seed, share, folds, in_order=True))
    run = np.where(part == UNUSED, HELD, part)
    begins = np.flatnonzero(np.diff(run, prepend=-9))
    assert len(begins) <= RUNS * (folds + 1)  # two runs of one part may meet where stretches do
    assert (part == HELD).sum() == round(n * share)
    assert abs((run == HELD).sum() - n * max(share, 0.2)) <= RUNS
    sizes = [int((run == fold).sum()) for fold in range(folds)]
    assert max(sizes) - min(sizes) <= RUNS
    order = [tuple(dict.fromkeys(stretch.tolist())) for stretch in np.array_split(run, RUNS)]
    assert all(set(each) == set(range(-1, folds)) for each in order)
    assert len(set(order)) > 1, "the runs come in an order of their own in each"


def test_what_calibrates_of_a_large_table_is_spread_over_the_runs_held_out():
    part = split(1_000_000, 0, 0.01, 4, in_order=True)
    held, out = np.flatnonzero(part == HELD), np.flatnonzero(part < 0)
    assert (len(held), len(out)) == (10_000, 200_000)
    assert set(np.diff(np.searchsorted(out, held)).tolist()) == {20}


def test_a_small_table_in_order_holds_records_out_too():
    assert [Config().share_held(n, in_order=True) for n in (499, 500, 999, 1_000)] == [0.0, 0.2, 0.2, 0.2]
    assert [Config().share_held(n) for n in (500, 999, 1_000)] == [0.0, 0.0, 0.2]
    assert Config(calibration_from=100).share_held(100, in_order=True) == 0.2
    assert (split(500, 0, 0.2, 4, in_order=True) == HELD).sum() == 100


@pytest.mark.parametrize(("n", "share", "folds"), [(1_000, 0.0, 4), (150, 0.2, 4), (300, 0.2, 100), (1_000, 0.2, 50)])
def test_without_rows_for_runs_the_split_is_the_usual_one(n, share, folds):
    np.testing.assert_array_equal(split(n, 3, share, folds, in_order=True), split(n, 3, share, folds))


def test_of_records_that_nothing_is_done_with_none_is_told_to_calibrate(tmp_path):
    columns = {f"c{place}": series(0)[:1_000, place].round(5) for place in range(6)}
    dataset = read_dataset(written(tmp_path / "t.csv", **columns))
    fitted = story.train(dataset, "t", tmp_path, dataclasses.replace(QUICK, calibration_share=0.05), lambda *_: None)
    data = fitted.manifest.training["data"]
    assert (data["normal_records"], data["training_records"], data["calibration_records"]) == (1_000, 800, 50)
    x = dataset.x[np.searchsorted(dataset.rows, fitted.judged.rows)]
    assert Detector(read_bundle(fitted.folder), "cpu").score(x, explain="none").score.tolist() == fitted.judged.score.tolist()


def test_the_next_records_of_a_series_are_flagged_less_often(tmp_path):
    x = series(0)
    dataset = read_dataset(written(tmp_path / "t.csv", **{f"c{place}": x[:N, place].round(5) for place in range(6)}))
    assert dataset.in_order
    flagged = []
    for in_order in (True, False):
        fitted = story.train(dataclasses.replace(dataset, in_order=in_order), "t", tmp_path, QUICK, lambda *_: None)
        data = fitted.manifest.training["data"]
        assert (data["training_records"], data["calibration_records"]) == (4_800, 1_200)
        p_value = Detector(read_bundle(fitted.folder), "cpu").score(x[N:].astype(np.float32), explain="none").p_value
        flagged.append((p_value <= 0.05).mean())
    assert flagged[0] < flagged[1] / 1.5


def test_rows_in_no_order_are_split_one_by_one(tmp_path):
    x = np.random.default_rng(0).permutation(series(0)[:N])
    assert not read_dataset(written(tmp_path / "t.csv", **{f"c{place}": x[:, place].round(5) for place in range(6)})).in_order
