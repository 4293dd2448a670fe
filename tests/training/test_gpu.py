"""Fits on a machine with an NVIDIA GPU."""

import pytest

from service.bundle import read_bundle
from tests.service import gpu
from training.config import Config
from training.train import GPU_SLOTS, choose_device

from .fits import fit, table

pytestmark = [pytest.mark.gpu, gpu.needed]


def test_a_fit_on_it_is_proven_and_the_same_for_the_same_seed(tmp_path, capsys):
    data = table(tmp_path / "t.csv")
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert fit(tmp_path / name, data, "--device", "cuda") == 0
        paths.append(capsys.readouterr().out.splitlines()[-1])
    one, two = (read_bundle(tmp_path / path) for path in paths)
    assert one.manifest.training["settings"]["device"] == "cuda"
    assert one.files == two.files


def test_by_default_it_trains_wide_tables_alone():
    assert choose_device(Config(), GPU_SLOTS) == "cuda"
    assert choose_device(Config(), GPU_SLOTS - 1) == choose_device(Config(device="cpu"), GPU_SLOTS) == "cpu"
