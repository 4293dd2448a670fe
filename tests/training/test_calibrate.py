"""Training records, each judged without itself: what calibrates a small table, and what the report lists of every one."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from service.bundle import read_bundle
from service.detector import Detector
from training import train as story
from training.calibrate import build, expected, pool_of, remember, without_themselves
from training.data import read_dataset, read_for_evaluation, split
from training.memory import Memory
from training.metrics import false_alarm_band
from training.scorer import Scorer
from training.table.levels import without_their_own

from .conftest import TINY
from .mixed import rows

PLANTED = 77  # the row of the outlier


def plant(path, n):
    """A table of n rows with an outlier that stands out by how its values go together, and labelled anomalies in between."""
    random = np.random.default_rng(5)
    a = random.normal(size=n)
    x = np.column_stack([a, a + 0.05 * random.normal(size=n), random.normal(size=n)])
    x[PLANTED - 1, :2] = 1.5, -1.5
    odd = (np.arange(n) % 10 == 3) & (np.arange(n) != PLANTED - 1)
    x[odd] += 50
    lines = [f"{','.join(map(str, row))},{'bad' if bad else 'ok'}" for row, bad in zip(x.round(6), odd, strict=True)]
    path.write_text("\n".join(["a,b,c,label", *lines]) + "\n")
    return path


def listed(folder):
    """(row, flagged, what follows) of each record that the report lists."""
    part = (folder / "report.html").read_text().split('id="unusual"')[1].split("</section>")[0]
    return part, [(int(row.replace(",", "")), flagged) for row, flagged in re.findall(r'"row">([\d,]+)<.*?(yes|no)</td>', part)]


@pytest.mark.parametrize(
    ("n", "changes"),
    [(300, {}), (3_000, {}), (3_000, {"score": "elbo"}), (300, {"score": "reconstruction"})],
    ids=["small", "large", "large elbo", "small reconstruction"],
)
def test_an_outlier_in_the_training_table_is_listed_first_with_its_row(tmp_path, n, changes):
    config = dataclasses.replace(TINY, steps_most=100, **changes)
    table = plant(tmp_path / "t.csv", n)
    bundles = [
        story.train(read_dataset(table, label="label", normal="ok"), "m", tmp_path / place, config, lambda *_: None).folder
        for place in ("one", "two")
    ]
    part, found = listed(bundles[0])
    assert found[0] == (PLANTED, "yes")
    assert len(found) == 20
    assert not [row for row, _ in found if row % 10 == 4]  # those are labelled
    assert f"All {n - n // 10:,} records" in part
    for file in bundles[0].iterdir():
        assert file.read_bytes() == (bundles[1] / file.name).read_bytes(), file.name


def test_of_a_very_large_table_no_more_are_looked_at_than_memories_are_chosen_from(tmp_path):
    config = dataclasses.replace(TINY, score="reconstruction", pool=500, steps_most=20)
    dataset = read_dataset(plant(tmp_path / "t.csv", 3_000), label="label", normal="ok")
    part, _ = listed(story.train(dataset, "m", tmp_path / "models", config, lambda *_: None).folder)
    assert f"{500 + round(0.2 * len(dataset.x)):,} of the {len(dataset.x):,} records" in part


def test_a_record_is_judged_by_nets_and_memories_that_lack_it(fitted):
    """The same, term by term, with the other net's evidence, its fold's regressions and a memory that lacks the record."""
    preprocessing, nets, x, fold = fitted
    config = dataclasses.replace(TINY, pool=300)
    scorer, _ = build(preprocessing, nets, x, fold, rows(120, seed=3), config)
    pool = pool_of(len(x), scorer.preprocessing.slots, config, np.random.default_rng(config.seed))
    told = without_themselves(scorer, scorer.distances, x, fold, pool)
    (memory, centres), presence = scorer.distances, scorer.presence
    remembered = set(memory.kept.tolist())
    chosen = [place for place, row in enumerate(pool) if row in remembered][:10]
    chosen += [place for place, row in enumerate(pool) if row not in remembered][:5]
    assert len(chosen) == 15
    whole = [getattr(memory, name).clone() for name in ("records", "trust", "weight", "products", "squares")]
    middle = centres.centres.clone(), centres.products.clone(), centres.squares.clone()
    with torch.no_grad():
        for place in chosen:
            row = int(pool[place])
            others = memory.kept != row
            memory.records, memory.trust = (part[others] for part in whole[:2])
            memory.weight, memory.products, memory.squares = (part[..., others] for part in whole[2:])
            centres.centres, centres.products, centres.squares = (part.clone() for part in middle)
            k = int(centres.assigned[place])
            record = without_their_own(preprocessing, x, np.array([row]))
            count, value = int(centres.counts[k]), centres.view(*expected(scorer, record))[0]
            centres.centres[k] = (count * middle[0][k] - value) / (count - 1)  # the mean of the others
            centres.products[:, k] = -2 * centres.centres[k]
            centres.squares[k] = (centres.centres[k] ** 2).sum() + centres.scatter[k]
            slots = preprocessing(torch.from_numpy(record))
            own = nets[fold[row]](slots)[0]
            presence.weight, presence.bias = presence.weights[fold[row]], presence.biases[fold[row]]
            score, contributions = scorer.join(scorer.terms(slots, own, scorer.ensemble(slots)[1]))
            assert told.score[place] == pytest.approx(score.item(), rel=1e-3)
            np.testing.assert_allclose(told.contributions[place], contributions[0].numpy(), rtol=1e-2, atol=1e-3)


def test_judged_without_themselves_training_records_are_like_fresh_ones(fitted):
    """Their scores have the distribution of new ones'; judged with themselves, they would be far lower."""
    preprocessing, nets, x, fold = fitted
    scorer, told = build(preprocessing, nets, x, fold, x[:0], TINY)
    honest = told.score
    with torch.no_grad():
        naive = scorer(torch.from_numpy(x)).score[:, 0].numpy()
        fresh = scorer(torch.from_numpy(rows(2_000, seed=9))).score[:, 0].numpy()
    for level in (0.5, 0.9):
        bound = np.quantile(fresh, level)
        error = 4 * np.sqrt(level * (1 - level) / len(x))  # the nets and memories of one table are one draw, too
        assert abs((honest <= bound).mean() - level) < error
    assert np.median(naive) < np.median(honest)


def test_a_table_that_calibrates_itself_judges_records_in_a_view_that_their_fold_had_no_part_in(fitted):
    """Shuffled within one fold, each column by itself, values go together otherwise, and no column by itself is another."""
    preprocessing, nets, x, fold = fitted
    shuffled, own = x.copy(), np.flatnonzero(fold == 1)
    for column in range(x.shape[1]):
        shuffled[own, column] = x[np.random.default_rng(column).permutation(own), column]
    matrices = []
    for table in (x, shuffled):
        scorer = Scorer(preprocessing, nets, "surprise", (1.0, 1.0, 1.0)).eval()
        with torch.no_grad():
            by_fold, _ = remember(scorer, table, TINY, torch.from_numpy(fold))
        matrices.append([memory.view.matrix for memory in (scorer.distances[0], *by_fold.memories)])
    same = [torch.allclose(*pair, rtol=1e-3, atol=1e-3) for pair in zip(*matrices, strict=True)]
    assert same == [False, *(k == 1 for k in range(TINY.nets))]


def test_by_folds_each_record_is_judged_as_it_is_alone_by_its_own_folds_memory_without_it(fitted):
    preprocessing, nets, x, fold = fitted
    scorer = Scorer(preprocessing, nets, "surprise", (1.0, 1.0, 1.0)).eval()
    picked = torch.from_numpy(np.random.default_rng(0).permutation(len(x))[:20])
    with torch.no_grad():
        by_fold, _ = remember(scorer, x, TINY, torch.from_numpy(fold))
        slots, out = expected(scorer, x)
        counts = torch.ones_like(slots.y)
        told = by_fold.honest(slots.take(picked), out[picked], counts[picked], picked)
        for place, row in enumerate(picked.tolist()):
            one = torch.tensor([row])
            memory = by_fold.memories[fold[row]]
            alone = memory.honest(slots.take(one), out[one], counts[one], one)
            torch.testing.assert_close(told.value[place], alone.value[0])
            torch.testing.assert_close(told.parts[place], alone.parts[0])
            assert alone.value > memory(slots.take(one), out[one], counts[one]).value  # which finds the record itself


def test_a_cell_that_contradicts_the_others_is_found_after_training_on_few_rows(tmp_path):
    """Forty columns that vary together; each cell by itself is ordinary."""
    random = np.random.default_rng(0)
    ways = random.normal(size=(3, 40))

    def table(name, n, odd):
        values = random.normal(size=(n, 3)) @ ways + 0.1 * random.normal(size=(n, 40))
        if odd:
            values[np.arange(n), random.integers(40, size=n)] *= -1
        lines = [",".join(map(str, row)) for row in values.round(4)]
        (tmp_path / name).write_text("\n".join([",".join(f"c{k}" for k in range(40)), *lines]) + "\n")
        return tmp_path / name

    dataset = read_dataset(table("t.csv", 300, odd=False))
    config = dataclasses.replace(TINY, target_fpr=0.05)
    detector = Detector(read_bundle(story.train(dataset, "m", tmp_path / "models", config, lambda *_: None).folder), "cpu")
    flagged = [
        detector.score(read_for_evaluation(table(name, 1_000, odd), dataset.features, None, None)[0], explain="none").is_anomaly
        for name, odd in (("normal.csv", False), ("odd.csv", True))
    ]
    low, high = false_alarm_band(300, 1_000, 0.05)
    assert low <= flagged[0].mean() <= high
    assert flagged[1].mean() > 0.4  # one in eight where nothing is whitened


def test_memories_know_where_their_records_are(fitted):
    preprocessing, nets, x, fold = fitted
    scorer, _ = build(preprocessing, nets, x, fold, rows(120, seed=3), dataclasses.replace(TINY, pool=300))
    slots = preprocessing(torch.from_numpy(x))
    with torch.no_grad():
        memory, _ = scorer.distances
        assert isinstance(memory, Memory)
        seen = memory.view(slots, scorer.ensemble(slots)[1])
        torch.testing.assert_close(seen[memory.kept], memory.records)


@pytest.mark.parametrize("held", [True, False], ids=["held out", "beyond the pool"])
def test_a_column_whose_only_value_is_not_in_a_part_of_the_table_does_no_harm(held, tmp_path):
    """Scales are told by training records, and views by those of the pool: in either, such a column has no value at all."""
    n, config = 1_200, dataclasses.replace(TINY, pool=60)
    fold = split(n, config.seed, config.share_held(n), config.nets)
    seen = np.flatnonzero(fold >= 0)
    pool = pool_of(len(seen), 3, config, np.random.default_rng(config.seed))
    row = np.flatnonzero(fold < 0)[0] if held else seen[np.setdiff1d(np.arange(len(seen)), pool)[0]]
    random = np.random.default_rng(0)
    lines = [f"{random.normal():.5f},{random.normal():.5f},{'5.5' if i == row else ''}" for i in range(n)]
    (tmp_path / "rare.csv").write_text("\n".join(["a,b,rare", *lines]) + "\n")
    published = story.train(read_dataset(tmp_path / "rare.csv"), "rare", tmp_path, config, lambda *_: None)
    assert [feature.name for feature in published.manifest.features] == ["a", "b", "rare"]
