"""The served model and a new one, side by side on the same records; what is published and served is as without it."""

import dataclasses
import re

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from service.bundle import current_version, list_versions, read_bundle
from service.detector import Detector
from service.manifest import Feature
from training.compare import compare
from training.config import Config
from training.data import read_dataset, read_for_evaluation
from training.metrics import false_alarm_band
from training.train import train

from .fits import LABELLED, TINY, fit, table


@dataclasses.dataclass(frozen=True)
class Two:
    """An old model and a new one, each from its own table."""

    old: object
    data: object
    published: object
    comparison: object


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    dataset = read_dataset(table(folder / "old.csv"), **LABELLED)
    return Detector(read_bundle(train(dataset, "shop", folder, Config(**TINY), lambda *_: None).folder), "cpu")


@pytest.fixture(scope="module", params=["held out", "judged without themselves"])
def two(request, old, tmp_path_factory):
    folder = tmp_path_factory.mktemp("new")
    config = Config(**TINY | ({} if request.param == "held out" else {"calibration_from": 10_000}))
    data = table(folder / "new.csv", seed=2)
    published = train(read_dataset(data, **LABELLED), "shop", folder, config, lambda *_: None)
    return Two(old, data, published, compare(old, published.manifest, published.folder.name, published.judged, data))


def test_both_are_told_on_the_records_that_the_new_one_was_not_trained_on(two):
    told, judged = two.comparison, two.published.judged
    x, is_anomaly = read_for_evaluation(two.data, two.old.manifest.features, **LABELLED)
    assert (told.normal, told.anomalies) == (len(judged.rows), is_anomaly.sum()) == (len(judged.score), 40)
    assert two.published.manifest.training["data"]["calibration_records"] == told.normal
    assert not is_anomaly[judged.rows - 1].any()
    places = np.concatenate([judged.rows - 1, np.flatnonzero(is_anomaly)])
    kinds = is_anomaly[places]
    old = two.old.score(x[places], explain="none")
    new = np.concatenate([judged.score, judged.anomalies_score])
    assert np.array_equal(np.sort(judged.score), np.float32(two.published.manifest.calibration.scores))
    for place, score in enumerate((old.score, new)):
        assert told.auroc[place].value == pytest.approx(roc_auc_score(kinds, score), abs=1e-12)
        assert told.average_precision[place].value == pytest.approx(average_precision_score(kinds, score), abs=1e-12)
        flags = score >= told.thresholds[place]
        assert told.normal_flagged[place].value == flags[~kinds].mean()
        assert told.anomalies_flagged[place].value == flags[kinds].mean()
    assert told.normal_flagged[0].value == old.is_anomaly[~kinds].mean()
    assert told.auroc_difference.value == pytest.approx(told.auroc[1].value - told.auroc[0].value)
    assert told.rank_correlation.value == pytest.approx(spearmanr(old.score, new)[0])
    both, served, alone = told.flagged_by
    assert (both + served, both + alone) == (old.is_anomaly.sum(), (new >= told.thresholds[1]).sum())
    assert told.agreement.value == 1 - (served + alone) / len(new)


def test_the_new_models_scores_are_those_that_the_service_would_give(two):
    """Of records held out; those that trained are judged without themselves, which the service cannot."""
    judged, manifest = two.published.judged, two.published.manifest
    x, is_anomaly = read_for_evaluation(two.data, manifest.features, **LABELLED)
    new = Detector(read_bundle(two.published.folder), "cpu")
    assert np.array_equal(new.score(x[is_anomaly], explain="none").score, judged.anomalies_score)
    if manifest.training["data"]["training_records"] < manifest.training["data"]["normal_records"]:
        assert np.array_equal(new.score(x[judged.rows - 1], explain="none").score, judged.score)


def test_the_table_says_the_figures_and_what_they_are_worth(two):
    told = two.comparison
    text = told.as_table()
    assert f"{told.auroc[0].value:.4f} ({told.auroc[0].low:.4f} to {told.auroc[0].high:.4f})" in text
    assert re.search(rf"^version +{told.versions[0]} +{told.versions[1]}$", text, re.MULTILINE)
    low, high = false_alarm_band(len(two.old.manifest.calibration.scores), told.normal, told.alphas[0])
    word = (
        "inside" if low <= told.normal_flagged[0].value <= high else "above" if told.normal_flagged[0].value > high else "below"
    )
    assert f"{100 * low:.2f} to {100 * high:.2f} % of normal records" in text
    assert f"these are {word}" in text
    assert "flatters" not in text
    assert "Features" not in text
    assert told.held_out == two.published.manifest.calibration.held_out
    assert ("normal records that the new model was not trained on" in text) == told.held_out
    assert ("each judged by the new one without itself" in text) != told.held_out


def test_a_table_that_has_other_rows_by_now_gives_no_figures(two, tmp_path):
    """The new model is published by then: what is lacking is the comparison alone."""
    other = table(tmp_path / "other.csv", rows=300, seed=2)
    told = compare(two.old, two.published.manifest, "new", two.published.judged, other)
    assert f"No figures on the same records: {other}: it has other rows than when the fit began" in told.as_table()
    assert told.why_not


@pytest.mark.parametrize("normal", [True, False])
def test_one_row_more_of_either_kind_is_another_table(two, tmp_path, normal):
    lines = two.data.read_text().splitlines()
    more = next(line for line in lines[1:] if (line.rpartition(",")[2] == LABELLED["normal"]) == normal)
    (tmp_path / "other.csv").write_text("\n".join([*lines, more]) + "\n")
    told = compare(two.old, two.published.manifest, "new", two.published.judged, tmp_path / "other.csv")
    assert "other rows than when the fit began" in told.why_not


def test_models_of_other_features_are_told_plainly(two, tmp_path):
    def told(features, data=two.data):
        other = two.published.manifest.model_copy(update={"features": features})
        return compare(two.old, other, "new", two.published.judged, data)

    amount, country, count = two.published.manifest.features
    added = Feature(name="device", kind="categorical", categories=("chip",))
    categorical = Feature(name=count.name, kind="categorical", integer=True, categories=(1, 2))
    more = told((amount, country, categorical, added))
    assert "Features of the new model alone: device." in more.notes
    assert f"Features of another kind: {count.name} (numeric, now categorical)." in more.notes
    assert more.auroc == two.comparison.auroc  # the served one does without the new column
    table(tmp_path / "lacking.csv", seed=2, columns=("amount", "transactions_24h", "label"))
    less = told((amount, count), tmp_path / "lacking.csv")
    assert "no column country" in less.why_not
    assert f"No figures on the same records: {less.why_not}" in less.as_table()
    assert "Features of the served model alone: country." in less.as_table()
    assert less.auroc is None
    assert "AUROC" not in less.as_table()


def test_what_is_served_changes_only_where_it_is_meant_to(tmp_path, capsys):
    data, models = table(tmp_path / "t.csv"), tmp_path / "models"
    assert fit(tmp_path, data, "--compare", promote=False) == 0
    told = capsys.readouterr()
    assert "nothing to compare with: no version of shop is served yet" in told.err
    assert not (models / "shop" / "CURRENT").exists()
    first = list_versions(models, "shop")[0]
    assert told.out.splitlines() == [str(models / "shop" / first)]
    assert f"not served yet: python -m service promote shop {first} --models-dir {models}" in told.err

    assert fit(tmp_path, data, "--promote", promote=False) == 0  # the same content
    assert current_version(models, "shop") == first
    assert "not served yet" not in capsys.readouterr().err

    assert fit(tmp_path, data, "--compare", "--no-promote", seed=1) == 0
    told = capsys.readouterr().out
    second = told.splitlines()[-1].rpartition("/")[2]
    assert re.search(rf"^version +{first} +{second}$", told, re.MULTILINE)
    assert "fitted on a file of the same content" in told
    assert current_version(models, "shop") == first
    assert set(list_versions(models, "shop")) == {first, second}

    (models / "shop" / first / "scorer.onnx").write_bytes(b"damaged")
    assert fit(tmp_path, data, "--compare", seed=2) == 2  # before the fit
    assert "not the bytes that the manifest names" in capsys.readouterr().err
    assert len(list_versions(models, "shop")) == 2
