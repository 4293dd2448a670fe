"""Detection quality on labelled tables, in one process: for trying an idea in minutes rather than an hour.

The protocol is the usual one for detectors trained on normal records (Livernoche et al., ICLR 2024): shuffle with the seed,
keep at most 10,000 rows, train on half of the normal rows, test on the other half and on every anomaly. Each table is a .npz
file with X (n, d) and y (n,), 1 for an anomaly. A folder may hold baselines.csv (dataset, seed, method, auroc, ap) of other
detectors on the same splits.

    python benchmarks/detection.py --data FOLDER --seeds 3
    python benchmarks/detection.py --data FOLDER --half choose --set net_weight=1.0      then once with --half confirm

Tables are dealt into two halves by their place, so that a setting is chosen on one and confirmed on the other: without that, the
figures of what was tried most look best. Prints a line a table, the means of the score and of each term, the share of runs whose
false-alarm rate lies in the beta-binomial 95 % band, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from service.calibration import p_values, smallest_alpha
from training.calibrate import build
from training.config import Config
from training.data import read_dataset, read_for_evaluation, split
from training.fit import fit_nets
from training.metrics import auroc, average_precision, false_alarm_band
from training.preprocessing import Preprocessing

MOST_ROWS = 10_000
ALPHAS = (0.01, 0.05, 0.1)
WIN = 0.3  # points of AUROC
CHUNK = 1_000  # records

Result = dict[str, Any]


def main() -> None:
    """Runs the tables that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz tables")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--half", choices=("all", "choose", "confirm"), default="all")
    parser.add_argument("--only", nargs="*", help="names of tables, without .npz")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="settings of training/config.py to change")
    parser.add_argument("--blank", type=float, default=0.0, help="share of the cells of both parts to blank at random")
    parser.add_argument(
        "--contaminate", type=float, default=0.0, help="share of the training rows to be anomalies (of the test part)"
    )
    parser.add_argument("--knn", action="store_true", help="run mean-imputed kNN on the very same rows beside it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = change(Config(), args.set)
    tables = sorted(args.data.glob("*.npz"), key=lambda path: int(path.stem.split("_")[0]))
    tables = tables[{"all": 0, "choose": 0, "confirm": 1}[args.half] :: 1 if args.half == "all" else 2]
    tables = [table for table in tables if not args.only or table.stem in args.only]
    baselines = read_baselines(args.data / "baselines.csv")
    results = []
    for table in tables:
        for seed in range(args.seeds):
            results.append(run(table, replace(config, seed=seed), args))
            print(line(results[-1], baselines), flush=True)
    print(json.dumps(summary(results, baselines)))


def run(table: Path, config: Config, args: argparse.Namespace) -> Result:
    """One table and seed: reads, fits, scores."""
    train, test, is_anomaly = deal(table, config.seed)
    draw = np.random.default_rng(config.seed)
    if args.contaminate:
        train, test, is_anomaly = contaminate(train, test, is_anomaly, args.contaminate, draw)
    for part in (train, test) if args.blank else ():
        part[draw.random(part.shape) < args.blank] = np.nan
    with tempfile.TemporaryDirectory() as folder:
        write_csv(Path(folder) / "train.csv", train, np.zeros(len(train)))
        write_csv(Path(folder) / "test.csv", test, is_anomaly)
        dataset = read_dataset(Path(folder) / "train.csv", drop=["y"])
        x, _ = read_for_evaluation(Path(folder) / "test.csv", dataset.features, "y", "0")
    began = time.perf_counter()
    part = split(len(dataset.x), config.seed, config.share_held(len(dataset.x)), config.nets)
    seen, held = dataset.x[part >= 0], dataset.x[part < 0]
    preprocessing = Preprocessing(dataset.features, seen)
    nets, _ = fit_nets(preprocessing, seen, part[part >= 0], config, "cpu", lambda *_: None)
    scorer, honest = build(preprocessing, nets, seen, part[part >= 0], held, config)
    seconds = time.perf_counter() - began
    values: dict[str, NDArray[np.float32]] = {}
    with torch.no_grad():
        for rows in torch.from_numpy(x).split(CHUNK):
            slots = preprocessing(rows)
            evidence, out = scorer.ensemble(slots)
            told = {"score": scorer(rows).score}
            if config.score == "surprise":
                terms = scorer.terms(slots, evidence, out)
                told |= {f"term {k}": term.value for k, term in enumerate(terms)}
            for name, value in told.items():
                values[name] = np.append(values.get(name, np.empty(0, np.float32)), value[:, 0].numpy())
        scores = (
            honest.score
            if honest
            else np.concatenate([scorer(r).score[:, 0].numpy() for r in torch.from_numpy(held).split(CHUNK)])
        )
    result: Result = {"table": table.stem, "seed": config.seed, "rows": len(train), "fit_s": seconds}
    if args.knn:
        values["knn"] = knn(train, test)
    for name, value in values.items():
        result[name] = 100 * auroc(is_anomaly, value), 100 * average_precision(is_anomaly, value)
    p = p_values(np.sort(scores), values["score"][~is_anomaly])
    for alpha in ALPHAS:
        if alpha >= smallest_alpha(len(scores)):
            low, high = false_alarm_band(len(scores), len(p), alpha)
            result[f"fpr {alpha}"] = float((p <= alpha).mean()), bool(low <= (p <= alpha).mean() <= high)
    return result


def deal(table: Path, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Training rows (n, d), test rows (m, d), and which of the test rows are anomalies (m,)."""
    with np.load(table) as data:
        rows, label = np.asarray(data["X"], np.float64), np.asarray(data["y"]).astype(bool)
    keep = np.random.default_rng(seed).permutation(len(rows))[:MOST_ROWS]
    rows, label = rows[keep], label[keep]
    normal = np.flatnonzero(~label)
    test = np.concatenate([normal[len(normal) // 2 :], np.flatnonzero(label)])
    return rows[normal[: len(normal) // 2]], rows[test], label[test]


def contaminate(train: NDArray[np.float64], test: NDArray[np.float64], is_anomaly: NDArray[np.bool_], share: float,
                draw: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:  # fmt: skip
    """Moves anomalies from the test rows into the training rows, until they are this share of them; at most half of them."""
    odd = draw.permutation(np.flatnonzero(is_anomaly))
    odd = odd[: min(round(share / (1 - share) * len(train)), len(odd) // 2)]
    stays = np.setdiff1d(np.arange(len(test)), odd)
    return draw.permutation(np.concatenate([train, test[odd]])), test[stays], is_anomaly[stays]


def knn(train: NDArray[np.float64], test: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mean distance to the 5 nearest training rows, standardised, missing cells at their mean."""
    from sklearn.neighbors import NearestNeighbors  # noqa: PLC0415  # only the benchmark needs it

    centre, scale = np.nanmean(train, 0), np.nanstd(train, 0)
    train, test = (np.nan_to_num((part - centre) / np.where(scale > 0, scale, 1)) for part in (train, test))
    distance: NDArray[np.float32] = NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0].mean(1)
    return distance


def write_csv(path: Path, rows: NDArray[np.float64], label: NDArray[Any]) -> None:
    """The rows as a table with columns x0, x1, ... and y; a missing cell is empty."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{i}" for i in range(rows.shape[1])), "y"])
        for row, y in zip(rows, label, strict=True):
            writer.writerow([*("" if np.isnan(value) else f"{value:.9g}" for value in row), int(y)])


def change(config: Config, settings: list[str]) -> Config:
    """The config with SETTING=VALUE applied."""
    kinds = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in kinds:
            sys.exit(f"no setting {name!r}; there are {', '.join(kinds)}")
        config = replace(config, **{name: kinds[name](value)})
    return config


Baselines = dict[tuple[str, int], dict[str, tuple[float, float]]]


def read_baselines(path: Path) -> Baselines:
    """What other detectors reach, by table and seed, then by method."""
    found: Baselines = defaultdict(dict)
    if path.exists():
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                found[row["dataset"], int(row["seed"])][row["method"]] = float(row["auroc"]), float(row["ap"])
    return found


def line(result: Result, baselines: Baselines) -> str:
    """A table's figures."""
    figures = "  ".join(f"{name} {value[0]:5.1f}/{value[1]:5.1f}" for name, value in result.items() if is_figure(name, value))
    beside = "  ".join(f"{name} {value[0]:.1f}" for name, value in baselines[result["table"], result["seed"]].items())
    return f"{result['table']:18} {result['seed']} n {result['rows']:5} fit {result['fit_s']:4.1f} s  {figures}  | {beside}"


def is_figure(name: str, value: Any) -> bool:
    """Whether an entry of a result is a pair of AUROC and average precision."""
    return isinstance(value, tuple) and not name.startswith("fpr")


def summary(results: list[Result], baselines: Baselines) -> Result:
    """Means over the tables, differences to the baselines, wins and losses, false alarms; printed on the way."""
    out: Result = {"runs": len(results), "fit_s": float(np.mean([result["fit_s"] for result in results]))}
    for name in [name for name, value in results[0].items() if is_figure(name, value)]:
        out[name] = np.round(np.mean([pair for _, pair in by_table(results, name)], axis=0), 2).tolist()
        print(f"{name:10} {out[name][0]:6.2f} / {out[name][1]:6.2f}")
    for method in sorted({method for row in baselines.values() for method in row}):
        there = [result for result in results if method in baselines[result["table"], result["seed"]]]
        if not there:
            continue
        gaps = [{**result, "gap": tuple(np.subtract(result["score"], baselines[result["table"], result["seed"]][method]))}
                for result in there]  # fmt: skip
        gap = dict(by_table(gaps, "gap"))
        mean, first = np.mean(list(gap.values()), axis=0), {table: pair[0] for table, pair in gap.items()}
        worst = min(first, key=lambda table: first[table])
        wins, losses = (sum(sign * g > WIN for g in map(float, first.values())) for sign in (1, -1))
        out[f"against {method}"] = [*np.round(mean, 2).tolist(), wins, losses]
        print(
            f"against {method:12} {mean[0]:+.2f} / {mean[1]:+.2f}  wins {wins} losses {losses}  worst {worst} {first[worst]:+.1f}"
        )
    for alpha in ALPHAS:
        rates = [result[f"fpr {alpha}"] for result in results if f"fpr {alpha}" in result]
        if rates:
            out[f"fpr {alpha}"] = [float(np.mean([rate for rate, _ in rates])), float(np.mean([inside for _, inside in rates]))]
            rate, inside = out[f"fpr {alpha}"]
            print(f"false alarms at {alpha}: {100 * rate:.2f} %, in the band {100 * inside:.1f} % of {len(rates)} runs")
    return out


def by_table(results: list[Result], name: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """Each table's mean pair over its seeds."""
    for table in dict.fromkeys(result["table"] for result in results):
        pairs = [result[name] for result in results if result["table"] == table]
        yield table, tuple(np.mean(pairs, axis=0))


if __name__ == "__main__":
    main()
