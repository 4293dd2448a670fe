"""The whole fit, through the command, on a real table: what is published, said and refused."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest

from service.bundle import list_versions, read_bundle
from training import example
from training.__main__ import main
from training.metrics import false_alarm_band

from .fits import fit, table, toml


def run(*words, **more):
    return subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True, check=False, **more)


def test_the_last_line_is_the_bundles_path_and_it_verifies(payments):
    assert payments.told.splitlines()[-1] == str(payments.bundle)
    bundle = read_bundle(payments.bundle)
    assert bundle.manifest.score_kind == "surprise"
    assert {feature.name: feature.kind for feature in bundle.manifest.features}["time"] == "datetime"
    assert bundle.manifest.metrics["auroc"] > 0.85
    assert payments.models in payments.bundle.parents


def test_another_seed_gives_another_bundle(tmp_path):
    data = table(tmp_path / "t.csv")
    assert fit(tmp_path, data) == fit(tmp_path, data, "--seed", "1") == 0
    assert len(list_versions(tmp_path / "models", "shop")) == 2


def test_false_alarms_among_fresh_normal_records_are_as_asked(payments, tmp_path):
    """20,000 records of the generator: the realised rates at 1 % and 5 % lie in the beta-binomial 95 % band."""
    from service.detector import Detector
    from training.data import read_for_evaluation

    fresh = tmp_path / "fresh.csv"
    example.write_csv(example.generate(20_000, seed=101, anomaly_share=0), fresh)
    bundle = read_bundle(payments.bundle)
    detector = Detector(bundle, "cpu")
    x, is_anomaly = read_for_evaluation(fresh, bundle.manifest.features, "label", "normal")
    assert not is_anomaly.any()
    n = len(bundle.manifest.calibration.scores)
    p = detector.score(x, explain="none").p_value
    for alpha in (0.01, 0.05):
        low, high = false_alarm_band(n, len(x), alpha)
        assert low <= (p <= alpha).mean() <= high, alpha


def test_scoring_the_file_evaluating_and_the_detector_agree(payments, tmp_path, capsys, monkeypatch):
    from service.detector import Detector
    from training.data import read_for_evaluation
    from training.metrics import auroc

    fresh, out = tmp_path / "fresh.csv", tmp_path / "scores.csv"
    example.write_csv(example.generate(1_500, seed=5, anomaly_share=0.1), fresh)
    bundle = read_bundle(payments.bundle)
    x, is_anomaly = read_for_evaluation(fresh, bundle.manifest.features, "label", "normal")
    told = Detector(bundle, "cpu").score(x, explain="none")
    monkeypatch.setenv("ANOMALY_PROVIDER", "cpu")
    done = run("service", "score", fresh, "--model", "payments", "--models-dir", payments.models, "--output", out)
    assert done.returncode == 0, done.stderr
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert rows[0] == ["score", "p_value", "is_anomaly"]
    assert np.array_equal(np.array([row[0] for row in rows[1:]], np.float32), told.score)
    assert [row[2] == "true" for row in rows[1:]] == told.is_anomaly.tolist()
    assert main(["evaluate", str(fresh), "--models-dir", str(payments.models), *payments.options, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["auroc"]["value"] == pytest.approx(auroc(is_anomaly, told.score), abs=1e-12)
    assert not figures["trained"]
    assert main(["evaluate", str(payments.table), "--models-dir", str(payments.models), *payments.options]) == 0
    assert capsys.readouterr().out.endswith("it has seen these records, which flatters it.\n")


@pytest.mark.parametrize("kind", ["elbo", "reconstruction"])
def test_other_scores_are_published_and_hold_their_contract(tmp_path, capsys, kind):
    from service.detector import Detector

    assert fit(tmp_path, table(tmp_path / "t.csv"), "--score", kind) == 0
    bundle = read_bundle(type(tmp_path)(capsys.readouterr().out.splitlines()[-1]))
    assert bundle.manifest.score_kind == kind
    x = np.array([golden.x for golden in bundle.manifest.golden], np.float32)
    told = Detector(bundle, "cpu").score(x, explain="all")
    np.testing.assert_allclose(told.contributions.sum(1, dtype=np.float64), told.score, rtol=1e-5, atol=1e-4)
    assert np.array_equal(told.score, -told.elbo if kind == "elbo" else told.reconstruction_error)


def test_a_small_table_gets_the_smallest_alpha_that_it_supports_and_a_warning(tmp_path, capsys):
    random = np.random.default_rng(0)
    small = tmp_path / "small.csv"
    np.savetxt(small, random.normal(size=(80, 3)), delimiter=",", header="a,b,c", comments="")
    assert main(["fit", str(small), "--model", "small", "--models-dir", str(tmp_path / "models")]) == 0
    told = capsys.readouterr()
    manifest = read_bundle(type(tmp_path)(told.out.splitlines()[-1])).manifest
    n = len(manifest.calibration.scores)
    assert manifest.alpha == 1 / (n + 1) > 0.01
    assert f"{n} calibration records support no false-alarm rate below" in told.err


def test_what_each_column_was_taken_for_is_told_before_the_training_and_values_stay_on_the_terminal(tmp_path, capsys):
    data = tmp_path / "t.csv"
    prices = ["12%" if i % 20 == 0 else str(i % 90) for i in range(400)]
    rows = [f"{i % 9}.5,{'xy'[i % 2]},{price},1,{'ok' if i % 9 else 'odd'}" for i, price in enumerate(prices)]
    data.write_text("\n".join(["n,c,price,same,label", *rows]) + "\n")
    assert fit(tmp_path, data, "--label", "label", "--normal", "ok") == 0
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert lines[:3] == ["numeric: n", "categorical: c, price", "left out: column 'same': constant"]
    assert lines[3].startswith("warning: column price: 95.2 % of its values are plain numbers and 17 are not")
    assert lines[4] == "what did not fit in column price: '12%'"
    folder = type(tmp_path)(told.out.splitlines()[-1])
    (warning,) = (warning for warning in read_bundle(folder).manifest.warnings if "price" in warning)
    assert "12%" not in warning
    assert told.err.count(warning) == 1


def test_ctrl_c_ends_a_fit_in_one_line(tmp_path):
    data, models = table(tmp_path / "t.csv", rows=5_000), tmp_path / "models"
    config = toml(tmp_path / "fit.toml", data=data, model="shop", models_dir=models, nets=64)
    command = [sys.executable, "-m", "training", "fit", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not process.stderr.readline().startswith(("fit net", "training")):  # in the midst of it, long before its end
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("training fit: interrupted; nothing was published by halves")
    assert not list(models.glob("shop/2*"))


def test_evaluate_and_sample_look_where_the_service_does(payments, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ANOMALY_MODELS_DIR", str(payments.models))
    example.write_csv(example.generate(200, seed=5, anomaly_share=0.1), tmp_path / "fresh.csv")
    assert main(["evaluate", str(tmp_path / "fresh.csv"), *payments.options, "--json"]) == 0
    assert main(["sample", "--model", "payments", "--rows", "3", "--output", str(tmp_path / "made.csv")]) == 0
    assert json.loads(capsys.readouterr().out)["normal"] == 180


BAD = {
    "ragged": ("a,b\n1,2\n3\n", ["line 3"]),
    "duplicate header": ("a,a\n1,2\n3,4\n", ["column 2", "called a"]),
    "no rows": ("a,b\n", []),
    "one row": ("a,b\n1,2\n", []),
    "empty": ("", []),
    "infinite": ("a,b\n1,2\n3,inf\n5,6\n", ["row 2", "b"]),
}


def refusal(capfd, *words):
    """The line on standard error with which the command ends, and which is all that it says."""
    try:
        code = main([*map(str, words)])
    except SystemExit as ended:
        code = ended.code
    told = capfd.readouterr()
    assert (code, told.out) == (2, "")
    assert len(told.err.splitlines()) == 1, told.err
    return told.err


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_ends_with_code_2_and_one_line_that_says_where(tmp_path, capfd, case):
    content, said = BAD[case]
    (tmp_path / "bad.csv").write_text(content)
    told = refusal(capfd, "fit", tmp_path / "bad.csv", "--model", "m", "--models-dir", tmp_path / "models")
    assert all(word in told for word in ("bad.csv", *said)), told
    assert not list((tmp_path / "models").glob("**/*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--label", "kind", "--normal", "0"], "kind"),
        (["--label", "a"], "--normal"),
        (["--drop", "z"], "z"),
        (["--target-fpr", "2"], "0 and 1"),
        (["--model", "../evil"], "name"),
        (["--num", "b"], "unrecognized arguments: --num b"),
    ],
)
def test_a_wrong_argument_ends_with_code_2_and_one_line(tmp_path, capfd, words, said):
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n3,4\n" * 30)
    assert said in refusal(capfd, "fit", tmp_path / "t.csv", "--model", "m", "--models-dir", tmp_path / "models", *words)


@pytest.mark.parametrize("words", [[], ["--target-fpr", "2"]], ids=["table", "argument"])
def test_the_process_of_the_command_ends_so_too(tmp_path, words):
    (tmp_path / "bad.csv").write_text(BAD["ragged"][0])
    done = run("training", "fit", tmp_path / "bad.csv", "--model", "m", "--models-dir", tmp_path / "models", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
