"""Made-up records: each from one net's likelihood, in the features' own units, the same for one seed."""

import csv
import io
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from arro3.io import read_parquet

from service import datetimes
from service.manifest import BundleError, Feature
from service.sources import TableError
from training import sample as module
from training.elbo import bounded
from training.sample import draw, sample

from .made import make_manifest
from .mixed import FEATURES

FEATURES_OF_A_KIND = (
    Feature(name="amount", kind="numeric", low=-50, high=50, missing_rate=0.5),
    Feature(name="age", kind="numeric", integer=True, low=0, high=99),
    Feature(name="shop", kind="categorical", categories=("food", "fuel", "toys")),
    Feature(name="online", kind="boolean"),
    Feature(name="time", kind="datetime", missing_rate=0.1),
    Feature(name="city", kind="categorical", integer=True, categories=tuple(range(100, 190))),
)
NETS = 2
SURE = 1e3  # a logit: certain, as far as a bounded one can be


class Decoder:
    """Two nets whose likelihoods are fixed: all that the first makes is unlike all that the second does."""

    def __init__(self, deviation=0.0):
        first = [-10.0, 20.4, 0, 0, 13.5, 2, 2, 0]
        second = [1_000.0, 30.6, 0, 0, 23.999999, 6, 12, 0]
        # online; amount and time missing; three shops and the unknown one; 62 cities and all rarer
        no, yes = -SURE, SURE
        shops = [[no, yes, no, no], [no, no, yes, yes]]
        cities = [[no] * 64, [no] * 64]
        cities[0][5], cities[1][63] = yes, yes
        self.expected = np.array([first + second], np.float32)
        self.deviation = np.full_like(self.expected, deviation)
        self.logits = np.array([[no, no, no, *shops[0], *cities[0], yes, yes, yes, *shops[1], *cities[1]]], np.float32)

    def run(self, names, inputs):
        n = len(inputs["z"])
        return [np.repeat(part, n, 0) for part in (self.expected, self.deviation, self.logits)]


def manifest_of(features, nets=NETS, latent=8):
    return make_manifest(features, latent=latent, training={"settings": {"nets": nets}})


def drawn(decoder, rows=400, seed=0):
    manifest = manifest_of(FEATURES_OF_A_KIND)
    batches = list(draw(manifest, decoder, rows, np.random.default_rng(seed)))
    names = [feature.name for feature in FEATURES_OF_A_KIND]
    return {name: [cell for batch in batches for cell in batch.column(name).to_pylist()] for name in names}


def test_a_record_is_drawn_from_one_net_alone():
    table = drawn(Decoder())
    first = np.array([age == 20 for age in table["age"]])
    assert 100 < first.sum() < 300
    of = {
        kind: {name: {c for c, f in zip(cells, first, strict=True) if f == kind} for name, cells in table.items()}
        for kind in (True, False)
    }
    assert of[True]["amount"] == {-10.0}
    assert of[True]["online"] == {False}
    assert of[True]["shop"] == {"fuel"}
    assert of[True]["city"] == {105}
    assert of[False]["age"] == {31}  # 30.6, rounded
    assert of[False]["amount"] == of[False]["time"] == {None}
    assert of[False]["online"] == {True}


def test_the_unknown_slot_is_never_drawn_and_rare_levels_alike():
    table = drawn(Decoder(), rows=4_000)
    assert set(table["shop"]) == {"fuel", "toys"}
    rare = [city for city in table["city"] if city != 105]
    seen, times = np.unique(rare, return_counts=True)
    assert seen.tolist() == list(range(162, 190))
    assert times.min() > len(rare) / len(seen) / 2


def test_numbers_are_spread_by_the_deviation_and_stay_within_what_training_saw():
    table = drawn(Decoder(deviation=4.0), rows=4_000)
    amounts = np.array([amount for amount in table["amount"] if amount is not None])
    assert amounts.mean() == pytest.approx(-10, abs=0.5)
    assert amounts.std() == pytest.approx(4, rel=0.1)
    ages = np.array(table["age"])
    assert len(np.unique(ages)) > 20
    low, high = Decoder(), Decoder()
    low.expected[:], high.expected[:] = -1e9, 1e9
    assert {0} == set(drawn(low)["age"])
    assert {99} == set(drawn(high)["age"])
    assert {-50.0, None} == set(drawn(low)["amount"])


def test_a_datetime_has_the_hour_weekday_and_month_of_the_model():
    decoder = Decoder()
    decoder.logits[:] = -SURE  # nothing is missing
    texts = drawn(decoder)["time"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text) for text in texts)
    parts = datetimes.columns(datetimes.parse(texts))
    assert {tuple(row) for row in parts.round(3).tolist()} == {(13.5, 2.0, 2.0), (0.0, 6.0, 12.0)}
    assert len(set(texts)) > 4  # any day that fits


def test_a_time_about_midnight_or_monday_stays_there_whatever_way_round_its_deviation_was_taken():
    decoder = Decoder()
    decoder.logits[:] = -SURE
    decoder.expected[0, [4, 5, 12, 13]] = 0.05, 0.01, 23.95, 6.99
    decoder.deviation[0, [4, 5, 12, 13]] = -11.8, 3.45, 11.8, -3.45  # half of 0.1 less 23.7 hours, of 0.05 plus 6.85 days
    hour, weekday, _ = datetimes.columns(datetimes.parse(drawn(decoder, rows=1_000)["time"])).T
    away = np.minimum(hour, 24 - hour)
    assert 0.05 < away.mean() < 0.5
    assert set(weekday) == {0}


def test_every_weekday_of_every_month_is_found():
    hour, weekday, month = np.meshgrid([0.0, 11.999], np.arange(7), np.arange(1, 13), indexing="ij")
    parts = np.stack([hour.ravel(), weekday.ravel(), month.ravel()], axis=1)
    random = np.random.default_rng(0)
    for _ in range(5):
        texts = module._texts(parts, random)
        np.testing.assert_allclose(datetimes.columns(datetimes.parse(texts.tolist())), parts, atol=1e-3)


def test_chances_are_those_of_the_logits():
    decoder = Decoder()
    decoder.logits[:] = np.log(0.2 / 0.8)
    table = drawn(decoder, rows=8_000)
    assert np.mean(table["online"]) == pytest.approx(0.2, abs=0.02)
    assert np.mean([amount is None for amount in table["amount"]]) == pytest.approx(0.2, abs=0.02)
    assert np.unique(table["shop"], return_counts=True)[1] == pytest.approx([8_000 / 3] * 3, rel=0.1)


@pytest.mark.parametrize("nets", [None, 0, 3, "2"])
def test_a_manifest_that_does_not_tell_the_nets_is_refused(nets):
    with pytest.raises(BundleError, match="how many nets"):
        next(draw(manifest_of(FEATURES_OF_A_KIND, nets), Decoder(), 5, np.random.default_rng(0)))


def test_a_decoder_of_other_features_is_refused():
    with pytest.raises(BundleError, match="does not fit the manifest"):
        next(draw(manifest_of(FEATURES_OF_A_KIND[1:]), Decoder(), 5, np.random.default_rng(0)))


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_fitted_model_writes_records_in_its_own_units(models, tmp_path):
    sample(models, "shop", 2_500, 3, str(tmp_path / "out.csv"))
    records = read(tmp_path / "out.csv")
    assert len(records) == 2_500
    assert list(records[0]) == [feature.name for feature in FEATURES]
    lacking = {name: np.mean([record[name] == "" for record in records]) for name in records[0]}
    assert lacking["amount"] == lacking["city"] == lacking["code"] == lacking["time"] == 0
    assert 0 < lacking["shop"] < 0.6
    for feature in FEATURES:
        cells = {record[feature.name] for record in records} - {""}
        if feature.kind == "categorical":
            assert cells <= {str(category) for category in feature.categories}
        elif feature.kind == "boolean":
            assert cells == {"true", "false"}
        elif feature.kind == "datetime":
            assert not np.isnat(datetimes.parse(sorted(cells))).any()
        else:
            assert all(feature.low <= float(cell) <= feature.high for cell in cells)
            assert not feature.integer or all(cell.isdecimal() for cell in cells)
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_the_shares_are_those_of_the_fitted_nets(fitted, models, tmp_path):
    """The nets themselves are asked, slot by slot, so that the graph's order of slots is not taken on trust."""
    preprocessing, nets, *_ = fitted
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((4_000, nets[0].latent), dtype=np.float32))
    with torch.no_grad():
        outs = [preprocessing.split(net.decoder(z)) for net in nets]
        bits = torch.sigmoid(bounded(torch.stack([bit for _, bit, _ in outs]))).mean((0, 1)).numpy()
        shops = torch.softmax(bounded(torch.stack([level[:, :3] for _, _, level in outs])), 2).mean((0, 1)).numpy()
        amount = float(torch.stack([preprocessing.restore(net.decoder(z))[:, 0] for net in nets]).mean())
    sample(models, "shop", 8_000, 3, str(tmp_path / "out.csv"))
    records = read(tmp_path / "out.csv")
    there = [record["online"] for record in records if record["online"]]
    shares = [np.mean([cell == "true" for cell in there])]
    shares += [np.mean([record[name] == "" for record in records]) for name in ("age", "shop", "online")]
    np.testing.assert_allclose(shares, bits, atol=0.025)
    bought = [record["shop"] for record in records if record["shop"]]
    assert [bought.count(shop) / len(bought) for shop in ("food", "fuel", "toys")] == pytest.approx(shops / shops.sum(), abs=0.03)
    assert np.mean([float(record["amount"]) for record in records]) == pytest.approx(amount, abs=0.15)


def test_one_seed_is_one_file_and_both_formats_hold_the_same(models, tmp_path, capsysbinary):
    for name, seed in (("a.csv", 1), ("b.csv", 1), ("c.csv", 2), ("a.parquet", 1)):
        sample(models, "shop", 1_100, seed, str(tmp_path / name))
    a = (tmp_path / "a.csv").read_bytes()
    assert a == (tmp_path / "b.csv").read_bytes()
    assert a != (tmp_path / "c.csv").read_bytes()
    table = read_parquet(tmp_path / "a.parquet").read_all()
    shops = [cell or "" for cell in table["shop"].to_pylist()]
    assert shops == [record["shop"] for record in read(tmp_path / "a.csv")]
    sample(models, "shop", 1_100, 1, "-")
    assert capsysbinary.readouterr().out == a
    assert len(list(csv.reader(io.StringIO(a.decode())))) == 1_101


@pytest.mark.parametrize(
    ("rows", "output", "told"),
    [(0, "out.csv", "rows: 0"), (3, "out.json", "must end with"), (3, "none/out.csv", "no folder")],
)
def test_what_cannot_be_written_is_said_before_anything_is(models, tmp_path, rows, output, told):
    with pytest.raises(TableError, match=told):
        sample(models, "shop", rows, 0, str(tmp_path / output))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_named(models, tmp_path):
    with pytest.raises(BundleError, match="no model 'other'"):
        sample(models, "other", 3, 0, str(tmp_path / "out.csv"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_said_in_one_line(models):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "training", "sample", "--model", "shop", "--models-dir", str(models), "--rows", "5000"]
        done = subprocess.run([*command, "--output", "-"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("training sample: ")


def test_a_failure_half_way_leaves_the_old_file_as_it_was(models, tmp_path, monkeypatch):
    class Failing:
        def __init__(self, session):
            self.session, self.left = session, 1

        def run(self, names, inputs):
            self.left -= 1
            if self.left < 0:
                raise MemoryError("no memory is left")
            return self.session.run(names, inputs)

    real = module.load
    monkeypatch.setattr(module, "load", lambda graph, provider: Failing(real(graph, provider)))
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(Exception, match="no memory is left"):
        sample(models, "shop", 5_000, 0, str(tmp_path / "out.csv"))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.csv", "old")]


def test_sigterm_leaves_no_file_half_written(models, tmp_path):
    """As Kubernetes ends a job."""
    out = tmp_path / "out.csv"
    command = [sys.executable, "-m", "training", "sample", "--model", "shop", "--models-dir", str(models), "--rows", "100000000"]
    with subprocess.Popen([*command, "--output", str(out)], stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp_path.iterdir()):
            assert time.monotonic() < end
            time.sleep(0.01)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
