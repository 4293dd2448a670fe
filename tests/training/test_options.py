"""Options of a fit: the command line before the file before the defaults; what no fit can use is refused with its place."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest

from service.bundle import current_version, read_bundle
from training.__main__ import main
from training.config import Config
from training.options import LEAST, MOST, SHARES, OptionError, Options, read

from .fits import TINY, fit, table, toml

GIVEN = {"data": "t.csv", "model": "shop"}
WHERE_IT_GOES = {"data", "model", "models_dir", "sign_key", "compare", "promote", "track"}  # not of what it is made of


def other(name):
    """A value of this setting that is not the default."""
    special = {"score": "elbo", "device": "cpu", "label": "kind", "normal": "0", "model": "other", "data": "o.csv", "mask": 0.25}
    if name in special:
        return special[name]
    default = getattr(Options, name, getattr(Config, name, None))
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 1
    return default / 2 if isinstance(default, float) else [f"{name} b", f"{name} a"] if default == () else "x"


def test_without_a_file_there_are_the_defaults():
    options, config = read(GIVEN)
    assert config == Config()
    assert options == Options("t.csv", "shop")


def test_a_file_sets_every_setting_by_its_name(tmp_path):
    every = {field.name: other(field.name) for kind in (Options, Config) for field in dataclasses.fields(kind)}
    options, config = read({}, toml(tmp_path / "fit.toml", **every))
    got = dataclasses.asdict(options) | config.dump()
    assert got.keys() == every.keys()
    for name, value in every.items():
        wanted = tuple(value) if isinstance(value, list) else Path(value) if name in ("models_dir", "sign_key") else value
        assert got[name] == wanted, name
        assert got[name] != getattr(Options, name, getattr(Config, name, None)), name


def test_the_command_line_comes_first(tmp_path):
    path = toml(tmp_path / "fit.toml", model="shop", data="t.csv", seed=3, target_fpr=0.05, drop=["a"], promote=False)
    options, config = read({"seed": 4, "target_fpr": None, "drop": ["b"], "promote": True, "data": "u.csv", "run": print}, path)
    assert (config.seed, config.target_fpr) == (4, 0.05)
    assert (options.drop, options.promote, options.data) == (("b",), True, "u.csv")


def test_whole_numbers_will_do_for_numbers_and_stay_what_the_setting_is(tmp_path):
    config = read(GIVEN, toml(tmp_path / "fit.toml", sigma=1))[1]
    assert config == Config(sigma=1.0)
    assert isinstance(config.sigma, float)


WRONG = {
    "nonsense = 1": "nonsense: no such setting",
    "target-fpr = 0.1": "target-fpr: no such setting; is target_fpr meant?",
    "[training]\nseed = 1": "training: no such setting",
    "seed = 1.0": "seed: a whole number is needed",
    "seed = true": "seed: a whole number is needed",
    'seed = "1"': "seed: a whole number is needed",
    "seed = -1": "seed: 0 or more is needed",
    "seed = 9007199254740993": "seed: 9007199254740992 or less is needed",
    "nets = 1": "nets: 2 or more is needed",
    "nets = 200": "nets: 128 or less is needed",
    "batch = 0": "batch: 1 or more is needed",
    "sigma = 0": "sigma: more than 0 is needed",
    "sigma = nan": "sigma: a finite number is needed",
    "sigma = inf": "sigma: a finite number is needed",
    "noise = -0.1": "noise: 0 or more is needed",
    "mask = 1.5": "mask: 1 or less is needed",
    "target_fpr = 1": "target_fpr: a share between 0 and 1 is needed, such as 0.01",
    "target_fpr = 2026-01-01": "target_fpr: a number is needed",
    "score = 'best'": "score: one of surprise, elbo, reconstruction is needed",
    "device = 3": "device: one of auto, cpu, cuda is needed",
    "normal = 0": "normal: a text in quotes is needed",
    "drop = 'a'": "drop: a list of texts is needed",
    "drop = [1]": "drop: a list of texts is needed",
    "track = 1": "track: true or false is needed",
    "models_dir = 1": "models_dir: a text in quotes is needed",
    "label = 'a'": "--label and --normal go together",
    "numeric = ['a']\nboolean = ['b', 'a']": "column a is given two kinds",
    "seed = 1\nseed = 2": "not TOML: ",
    "seed = ": "not TOML: ",
    "drop = ['\xe9']": "not UTF-8",
}


@pytest.mark.parametrize("text", WRONG, ids=[text.replace("\n", " ") for text in WRONG])
def test_what_is_wrong_is_refused_with_file_and_key(tmp_path, text):
    path = tmp_path / "fit.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(OptionError) as told:
        read(GIVEN, path)
    assert str(told.value).removeprefix(f"{path}: ").startswith(WRONG[text])
    assert str(path) in str(told.value) or text.startswith(("label", "numeric"))  # which two lines may have brought about
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_and_a_table_or_model_that_nobody_names(tmp_path):
    with pytest.raises(OptionError, match=r"none.toml: cannot be read: No such file"):
        read(GIVEN, tmp_path / "none.toml")
    with pytest.raises(OptionError, match="DATA is missing"):
        read({"model": "shop"})
    with pytest.raises(OptionError, match="--model is missing"):
        read({"data": "t.csv"})
    with pytest.raises(OptionError, match="--seed: 0 or more"):
        read({**GIVEN, "seed": -1})


def test_the_models_folder_is_the_services_unless_it_is_said(tmp_path, monkeypatch):
    assert read(GIVEN)[0].models_dir == Path("models")
    monkeypatch.setenv("ANOMALY_MODELS_DIR", str(tmp_path))
    assert read(GIVEN)[0].models_dir == tmp_path
    path = toml(tmp_path / "fit.toml", models_dir="elsewhere")
    assert read(GIVEN, path)[0].models_dir == Path("elsewhere")
    assert read({**GIVEN, "models_dir": Path("here")}, path)[0].models_dir == Path("here")


def test_limits_are_of_settings_that_there_are_and_hold_for_the_defaults():
    hints = get_type_hints(Config)
    assert {*LEAST, *MOST, *SHARES} <= set(hints)
    for name in hints:
        value = getattr(Config, name)
        if isinstance(value, int | float):
            assert LEAST.get(name, 1e-9) <= value <= MOST.get(name, math.inf), name


def test_every_setting_is_echoed_into_the_manifest(tmp_path, capsys):
    """Whatever shapes the model. Where it goes is not in it: the same bytes in another folder."""
    data = table(tmp_path / "t.csv", columns=("amount", "country", "transactions_24h", "device", "label"))
    changed = {"seed": 5, "target_fpr": 0.05, "score": "elbo", "noise": 0.2}
    told = {"drop": ["device"], "categorical": ["transactions_24h"], "numeric": ["amount"]}
    assert fit(tmp_path, data, "--device", "cpu", **changed, **told) == 0, capsys.readouterr().err
    path = tmp_path / "models" / "shop" / current_version(tmp_path / "models", "shop")
    manifest = read_bundle(path).manifest
    assert manifest.training["settings"] == Config().dump() | TINY | changed | {"device": "cpu"}
    kinds = {"numeric", "categorical", "boolean", "datetime"}
    assert {field.name for field in dataclasses.fields(Options)} == WHERE_IT_GOES | kinds | {"label", "normal", "drop"}
    seen = manifest.training["data"]
    assert (seen["label"], seen["normal"], seen["drop"]) == ("label", "normal", ["device"])
    assert seen["kinds"] == {"amount": "numeric", "transactions_24h": "categorical"}
    assert [source["name"] for source in seen["sources"]] == ["t.csv"]
    assert str(tmp_path) not in json.dumps(manifest.training)


@pytest.mark.parametrize("package", ["torch", "onnx", "rich"])
def test_without_the_extra_a_fit_says_how_to_install_it(tmp_path, package):
    data = table(tmp_path / "t.csv", 300)
    absent = f"import sys; sys.modules['{package}'] = None; from training.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", absent, "fit", str(data), "--model", "shop", "--models-dir", str(tmp_path / "models")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    told = f"training fit: needs the package {package}: pip install 'tabular-anomaly-service[train]'"
    assert (ended.returncode, ended.stderr.splitlines()[-1], "Traceback" in ended.stderr) == (2, told, False)
    assert not list(tmp_path.rglob("manifest.json"))


def test_a_place_that_cannot_be_written_to_is_told_before_anything_is_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    models = tmp_path / "file" / "models"
    assert main(["fit", str(tmp_path / "none.csv"), "--model", "shop", "--models-dir", str(models)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"training fit: {tmp_path / 'file'} is no folder")
    assert told.count("\n") == 1
