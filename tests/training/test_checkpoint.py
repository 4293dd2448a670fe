"""Finished nets are kept until the bundle is published; what comes of them has the same bytes."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle import list_versions, read_bundle
from service.manifest import CURRENT
from service.signature import check
from tests.service.test_signature import make_keys
from training import train as story
from training.__main__ import main
from training.checkpoint import PREFIX, Checkpoints, key_of
from training.config import Config
from training.data import Dataset
from training.errors import FitError
from training.fit import Curve
from training.publish import remove_older

from .conftest import TINY
from .fits import fit, table
from .mixed import FEATURES, rows

CURVE = Curve([1], [2.0], [2.0], 1)
SMALL = dataclasses.replace(TINY, nets=3, score="reconstruction", steps_most=20, evaluate_every=10)


@pytest.fixture
def dataset():
    return Dataset(FEATURES, rows(60), np.empty((0, 9), np.float32), np.arange(60) + 1, (), (), (("shop.csv", "0" * 64),))


def kept(models):
    return sorted(path.name for path in (models / "shop").glob(f"{PREFIX}*"))


def test_an_interrupted_fit_goes_on_to_the_same_bytes(dataset, tmp_path, monkeypatch):
    whole = story.train(dataset, "shop", tmp_path / "whole", SMALL, lambda *_: None)
    told = []

    def interrupt(net, done, records):
        told.append(net)
        if net == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        story.train(dataset, "shop", tmp_path / "cut", SMALL, interrupt)
    assert len(kept(tmp_path / "cut")) == 2
    first = tmp_path / "cut" / "shop" / kept(tmp_path / "cut")[0]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)  # a damaged one is made again
    trained = []
    resumed = story.train(dataset, "shop", tmp_path / "cut", SMALL, lambda net, done, records: trained.append((net, records)))
    assert (1, 0) in trained  # the second net was there
    assert (0, 0) not in trained
    assert read_bundle(resumed.folder).files == read_bundle(whole.folder).files
    assert resumed.manifest == whole.manifest
    assert kept(tmp_path / "cut") == []


def test_what_nets_are_made_from_is_in_the_key(dataset):
    fold = np.zeros(60, np.int8)
    key = key_of(FEATURES, dataset.x, fold, SMALL, "cpu")
    other = dataset.x.copy()
    other[0, 0] += 1
    assert key == key_of(FEATURES, dataset.x.copy(), fold, SMALL, "cpu")
    keys = {
        key,
        key_of(FEATURES[:-1], dataset.x, fold, SMALL, "cpu"),
        key_of(FEATURES, other, fold, SMALL, "cpu"),
        key_of(FEATURES, dataset.x, fold + 1, SMALL, "cpu"),
        key_of(FEATURES, dataset.x, fold, dataclasses.replace(SMALL, seed=1), "cpu"),
        key_of(FEATURES, dataset.x, fold, SMALL, "cuda"),
    }
    assert len(keys) == 6


def test_nets_of_other_code_are_not_taken(dataset, monkeypatch):
    given = FEATURES, dataset.x, np.zeros(60, np.int8), SMALL, "cpu"
    before, read = key_of(*given), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + (b"#" if path.name == "vae.py" else b""))
    assert key_of(*given) != before


def test_a_loss_that_is_not_finite_stops_and_publishes_nothing(dataset, tmp_path):
    broken = dataclasses.replace(SMALL, learning_rate=1e38)
    with pytest.raises(FitError, match="the loss is not finite at step"):
        story.train(dataset, "shop", tmp_path, broken, lambda *_: None)
    assert not (tmp_path / "shop").exists()


def test_that_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert fit(tmp_path, table(tmp_path / "t.csv"), learning_rate=1e38) == 1
    assert "training fit: the loss is not finite" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "models" / "shop").exists()


def test_the_end_of_one_fit_leaves_another_of_the_same_what_it_is_writing(tmp_path, monkeypatch):
    writing, replace = Checkpoints(tmp_path / "shop", "key"), Path.replace

    def after_the_other_has_ended(path, target):
        with Checkpoints(tmp_path / "shop", "key"):
            pass
        return replace(path, target)

    with writing:
        monkeypatch.setattr(Path, "replace", after_the_other_has_ended)
        writing.save(0, {"weight": torch.ones(2)}, CURVE)
        assert kept(tmp_path) == [f"{PREFIX}key-0.npz"]
    assert not (tmp_path / "shop").exists()


def test_old_checkpoints_are_removed_and_nothing_else(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    for name, age in ((f"{PREFIX}old-0.npz", 8 * 86_400), (f"{PREFIX}new-0.npz", 60)):
        (folder / name).touch()
        now = (folder / name).stat().st_mtime
        os.utime(folder / name, (now - age, now - age))
    (folder / CURRENT).touch()
    os.utime(folder / CURRENT, (0, 0))
    with Checkpoints(folder, "key"):
        assert sorted(path.name for path in folder.iterdir()) == sorted([f"{PREFIX}new-0.npz", CURRENT])


def keep_a_net_and_raise(models, error):
    with Checkpoints(models / "shop", "key") as checkpoints:
        checkpoints.save(0, {"w": torch.ones(2)}, CURVE)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError, MemoryError, ValueError])
def test_nets_stay_where_a_second_try_may_end_otherwise(tmp_path, error):
    with pytest.raises(error):
        keep_a_net_and_raise(tmp_path, error)
    assert len(kept(tmp_path)) == (error is not ValueError)


def test_a_net_that_cannot_be_kept_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        keep_a_net_and_raise(tmp_path, KeyboardInterrupt)
    assert kept(tmp_path) == []


def test_a_fit_signs_what_it_publishes(tmp_path, monkeypatch, capsys):
    private, public = make_keys(tmp_path / "keys")
    monkeypatch.setattr(Config, "steps_for", lambda *given: 20)
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i % 7}.5,{i % 5}\n" for i in range(60)))
    fit = ["fit", str(tmp_path / "t.csv"), "--model", "shop", "--models-dir", str(tmp_path), "--score", "reconstruction"]
    assert main([*fit, "--sign-key", str(tmp_path / "none.pem")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(fit) == 0
    assert main([*fit, "--sign-key", str(private)]) == 0  # the same content, now signed, is a version of its own
    versions = list_versions(tmp_path, "shop")
    assert len(versions) == 2
    signed = read_bundle(tmp_path / "shop" / versions[-1], trusted=[public])
    check(signed.manifest.dump(), signed.signature, [public])


def test_another_user_can_read_the_folder_of_a_model_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        with Checkpoints(tmp_path / "shop", "key"):
            assert (tmp_path / "shop").stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(before)


def test_a_fit_that_fails_leaves_room_for_one_that_has_kept_nothing_yet(tmp_path):
    with Checkpoints(tmp_path / "shop", "second") as second:
        with pytest.raises(FitError), Checkpoints(tmp_path / "shop", "first"):
            raise FitError("no finite loss")
        second.save(0, {"weight": torch.ones(2)}, CURVE)
        kept_net = second.load(0)
    assert kept_net is not None
    assert kept_net[1] == CURVE


def test_leftovers_that_another_process_removes_meanwhile_are_nobodys_trouble(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    remove_older([tmp_path / "gone", old, new], 60)
    assert list(tmp_path.iterdir()) == [new]


def test_an_interrupted_fit_that_has_kept_nothing_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), Checkpoints(tmp_path / "shop", "first"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
