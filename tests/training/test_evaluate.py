"""What a model is worth on labelled records: the service's own scores, scikit-learn's figures."""

import csv
import dataclasses
import json

import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from service.bundle import current_version, read_bundle
from service.detector import Detector
from service.manifest import BundleError
from service.sources import TableError
from training.__main__ import main
from training.data import read_for_evaluation
from training.evaluate import evaluate
from training.metrics import false_alarm_band
from training.sample import sample

from .mixed import FEATURES


@pytest.fixture(scope="module")
def table(models, tmp_path_factory):
    """(folder, records): 300 made-up records, and 40 with an amount that no record has."""
    folder = tmp_path_factory.mktemp("data")
    sample(models, "shop", 340, 0, str(folder / "made.csv"))
    with (folder / "made.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    for place, record in enumerate(records):
        record["label"] = "ok"
        if place % 17 == 0:
            record.update(amount=str(20 + place), label=["fraud", "error"][place % 2])
    write(folder / "data.csv", records)
    write(folder / "normal.csv", [record for record in records if record["label"] == "ok"])
    write(folder / "odd.csv", [record for record in records if record["label"] != "ok"])
    return folder


def write(path, records):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(records)


def test_the_figures_are_those_of_the_services_scores(models, table):
    told = evaluate(models, "shop", str(table / "data.csv"), "label", "ok")
    detector = Detector(read_bundle(models / "shop" / current_version(models, "shop"), only=["scorer.onnx"]), "cpu")
    x, is_anomaly = read_for_evaluation(str(table / "data.csv"), FEATURES, "label", "ok")
    scores = detector.score(x)
    assert (told.model, told.version, told.normal, told.anomalies) == ("shop", detector.version, 320, 20)
    assert (told.alpha, told.threshold) == (detector.manifest.alpha, detector.manifest.threshold)
    assert told.auroc.value == pytest.approx(roc_auc_score(is_anomaly, scores.score), abs=1e-12)
    assert told.average_precision.value == pytest.approx(average_precision_score(is_anomaly, scores.score), abs=1e-12)
    assert told.false_alarm_rate.value == scores.is_anomaly[~is_anomaly].mean()
    assert told.true_alarm_rate.value == scores.is_anomaly[is_anomaly].mean()
    assert told.true_alarm_rate.value > 0.9  # the amounts are absurd
    for estimate in (told.auroc, told.average_precision, told.false_alarm_rate, told.true_alarm_rate):
        assert estimate.low <= estimate.value <= estimate.high
    assert told.false_alarm_band == false_alarm_band(len(detector.manifest.calibration.scores), 320, told.alpha)


def test_the_table_and_the_json_tell_the_same(models, table):
    told = evaluate(models, "shop", str(table / "data.csv"), "label", "ok")
    lines = {line[:18].strip(): line[18:] for line in told.as_table().splitlines()}
    assert lines["AUROC"].split() == [f"{told.auroc.value:.4f}", f"{told.auroc.low:.4f}", "to", f"{told.auroc.high:.4f}"]
    assert told.average_precision.low == told.average_precision.high  # by construction: no width is no certainty
    assert lines["average precision"].strip() == "1.0000   none: no anomaly scores below a normal record"
    assert f"{100 * told.true_alarm_rate.value:.2f} %" in lines["true-alarm rate"]
    low, high = told.false_alarm_band
    where = "below" if told.false_alarm_rate.value < low else "above" if told.false_alarm_rate.value > high else "inside"
    assert told.as_table().endswith(f"these are {where}.")
    assert "\n" not in told.as_json()
    content = json.loads(told.as_json())
    assert content["auroc"] == {"value": told.auroc.value, "low": told.auroc.low, "high": told.auroc.high}
    assert content["false_alarm_band"] == [low, high]
    assert content["normal"] == 320


def test_records_of_one_kind_give_the_figures_that_they_can(models, table):
    normal = evaluate(models, "shop", str(table / "normal.csv"), "label", "ok")
    assert (normal.auroc, normal.average_precision, normal.true_alarm_rate) == (None, None, None)
    assert normal.false_alarm_rate is not None
    assert json.loads(normal.as_json())["auroc"] is None
    assert normal.as_table().count("no records for it") == 3
    with pytest.raises(TableError, match=r"no row whose label is ok \(--normal\); there are 'fraud', 'error'; false alarms"):
        evaluate(models, "shop", str(table / "odd.csv"), "label", "ok")


def test_without_a_label_all_records_are_normal(models, table, capsys):
    """As a later table is, of which nobody has said what is what: the rate of false alarms is all that is asked for."""
    command = ["evaluate", str(table / "data.csv"), "--model", "shop", "--models-dir", str(models), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    labelled = evaluate(models, "shop", str(table / "data.csv"), "label", "ok")
    assert (told["normal"], told["anomalies"], told["auroc"]) == (labelled.normal + labelled.anomalies, 0, None)
    flagged = labelled.false_alarm_rate.value * labelled.normal + labelled.true_alarm_rate.value * labelled.anomalies
    assert told["false_alarm_rate"]["value"] == pytest.approx(flagged / told["normal"])
    assert main([*command, "--label", "label"]) == 2
    assert "--label and --normal go together" in capsys.readouterr().err


def test_all_batches_count(models, table, monkeypatch):
    whole = evaluate(models, "shop", str(table / "data.csv"), "label", "ok")
    monkeypatch.setattr("training.evaluate.BATCH", 7)
    assert evaluate(models, "shop", str(table / "data.csv"), "label", "ok") == whole


def test_a_version_can_be_named_and_what_is_not_there_is_told(models, table):
    version = current_version(models, "shop")
    data = str(table / "data.csv")
    assert evaluate(models, "shop", data, "label", "ok", version=version).version == version
    with pytest.raises(BundleError, match="is missing"):
        evaluate(models, "shop", data, "label", "ok", version="20200101T000000Z-abcdef")
    with pytest.raises(BundleError, match="version"):
        evaluate(models, "shop", data, "label", "ok", version="../other")
    with pytest.raises(BundleError, match="no model 'other'"):
        evaluate(models, "other", data, "label", "ok")
    with pytest.raises(TableError, match="class"):
        evaluate(models, "shop", data, "class", "ok")


def test_rates_are_told_above_below_or_inside_their_band(models, table):
    told = evaluate(models, "shop", str(table / "data.csv"), "label", "ok")
    for value, word in ((0.0, "below"), (0.5, "inside"), (1.0, "above")):
        rate = dataclasses.replace(told.false_alarm_rate, value=value)
        assert dataclasses.replace(told, false_alarm_rate=rate, false_alarm_band=(0.4, 0.6)).as_table().endswith(f"{word}.")


def test_a_file_that_has_trained_the_model_is_told(models, table):
    told = evaluate(models, "shop", str(table / "data.csv"), "label", "ok")
    assert "flatters" not in told.as_table()
    assert dataclasses.replace(told, trained=True).as_table().endswith("it has seen these records, which flatters it.")
