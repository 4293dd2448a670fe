"""Tables that are ordinary and yet unusual: without a number, of one number, full of ties, with a few cells that are far off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from service.bundle import current_version, read_bundle
from service.detector import Detector
from service.manifest import Feature
from training.__main__ import main
from training.metrics import false_alarm_band
from training.preprocessing import Preprocessing
from training.views import View

from .fits import TINY, toml

N = 3000
Rows = dict[str, list[object]]
SETTINGS = {**TINY, "score": "surprise", "memory": 2048}


def colours(random: np.random.Generator) -> Rows:
    return {"colour": random.choice(["red", "blue", "green"], N).tolist(), "size": random.choice(["s", "m", "l"], N).tolist()}


def switches(random: np.random.Generator) -> Rows:
    return {"vip": random.choice(["yes", "no"], N).tolist(), "new": random.choice(["yes", "no"], N, p=[0.2, 0.8]).tolist()}


def coupons(random: np.random.Generator) -> Rows:
    """A number that never changes and is mostly missing: what the nets fill in differs in last bits, and so do distances."""
    return {
        "region": [f"R{i}" for i in random.integers(0, 60, N)],
        "channel": random.choice(["web", "app", "shop"], N).tolist(),
        "vip": random.choice(["yes", "no"], N).tolist(),
        "coupon": [1 if v < 0.3 else "" for v in random.random(N)],
    }


def one_number(random: np.random.Generator) -> Rows:
    return {"a": random.lognormal(size=N).round(6).tolist()}


def order_lines(random: np.random.Generator) -> Rows:
    """Of 40 products: most rows are there many times, so that most records are at no distance from a remembered one."""
    price, weight, kind = random.lognormal(2, 1, 40).round(2), random.normal(1, 0.3, 40).round(3), random.integers(0, 4, 40)
    product = random.integers(0, 40, N)
    columns = {"price": price[product], "weight": weight[product], "kind": [f"k{i}" for i in kind[product]]}
    return {name: list(values) for name, values in columns.items()} | {"pieces": random.integers(1, 4, N).tolist()}


def two_machines(random: np.random.Generator) -> Rows:
    """A length is nearly the machine's, and what little it varies by is told by another number."""
    off = random.normal(size=N)
    length = 100 * random.integers(1, 3, N) + 0.01 * off
    return {"length": length.round(6).tolist(), "heat": (off + 0.05 * random.normal(size=N)).round(4).tolist()}


@pytest.mark.parametrize("made", [colours, switches, coupons, one_number, order_lines, two_machines])
def test_it_fits(tmp_path: Path, made: Callable[[np.random.Generator], Rows]) -> None:
    rows = made(np.random.default_rng(0))
    data = tmp_path / "t.csv"
    data.write_text("\n".join([",".join(rows), *(",".join(map(str, row)) for row in zip(*rows.values(), strict=True))]))
    settings = toml(tmp_path / "fit.toml", model="shop", models_dir=tmp_path / "models", **SETTINGS)
    assert main(["fit", str(data), "--config", str(settings)]) == 0
    version = current_version(tmp_path / "models", "shop")
    detector = Detector(read_bundle(tmp_path / "models" / "shop" / version), "cpu")
    x = np.array([golden.x for golden in detector.manifest.golden], np.float32)
    assert np.isfinite(detector.score(x).score).all()


@pytest.mark.parametrize("cell", [1e6, 1e9, -1e12])
@pytest.mark.parametrize("wide", [True, False])
def test_a_few_cells_far_off_do_not_blind_a_view(cell: float, wide: bool) -> None:
    """The other values of their column stay about as far apart as without them."""
    random = np.random.default_rng(1)
    x = random.normal(size=(N, 3)).astype(np.float32)
    far = x.copy()
    far[:3, 0] = cell
    clean, dirty = (spread(each, wide) for each in (x, far))
    assert dirty[0] > clean[0] / 3
    np.testing.assert_allclose(dirty[1:], clean[1:], rtol=1e-6)


def spread(x: np.ndarray, wide: bool) -> np.ndarray:
    """(C,) standard deviations of the usual values of records x (N, C) in a view."""
    preprocessing = Preprocessing([Feature(name=name, kind="numeric") for name in "abc"], x)
    slots = preprocessing(torch.from_numpy(x))
    seen = View(preprocessing, slots, wide)(slots, torch.zeros_like(slots.y))
    return seen[3:].numpy().std(0)


def test_another_value_where_all_have_the_same_counts_as_if_one_of_them_had_had_it():
    """Else a table of many such columns is full of them, and records that calibrate can have none."""
    x = np.full((100, 2), 7, np.float32)
    x[:, 0] = np.random.default_rng(0).normal(size=100)
    x[::5, 1] = np.nan
    features = [Feature(name="a", kind="numeric"), Feature(name="b", kind="numeric", missing_rate=0.2)]
    preprocessing = Preprocessing(features, x)
    odd = torch.tensor([[0.0, 7.0], [0.0, 7.1], [0.0, 1e6], [0.0, -1e6], [1e6, 7.0]])
    told = preprocessing(odd).y
    assert told[:4, 1].tolist() == pytest.approx([0, 9, 9, -9])  # the root of the 80 that have it, and one
    assert told[4, 0] > 100


def test_columns_of_one_value_do_not_flag_what_is_normal(tmp_path: Path) -> None:
    """One record in a thousand has another value in each of 100 columns: among so few records, most have none that has."""
    random, data = np.random.default_rng(3), tmp_path / "t.csv"

    def rows(n: int) -> np.ndarray:
        cells = (random.random((n, 101)) < 0.001).astype(float)
        cells[random.random(cells.shape) < 0.2] = np.nan
        cells[:, 0] = random.normal(size=n)
        return cells

    names = [f"c{i}" for i in range(101)]
    np.savetxt(data, rows(400), "%.6g", ",", header=",".join(names), comments="")
    settings = toml(tmp_path / "fit.toml", model="shop", models_dir=tmp_path / "models", score="surprise")
    assert main(["fit", str(data), "--config", str(settings)]) == 0
    bundle = read_bundle(tmp_path / "models" / "shop" / current_version(tmp_path / "models", "shop"))
    detector = Detector(bundle, "cpu")
    fresh = rows(2000)[:, [names.index(feature.name) for feature in bundle.manifest.features]].astype(np.float32)
    p_value = detector.score(fresh, explain="none").p_value
    for alpha in (0.01, 0.05):
        assert (p_value <= alpha).mean() <= false_alarm_band(400, len(fresh), alpha)[1]
