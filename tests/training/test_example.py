import subprocess
import sys

import numpy as np
import pytest

from training.data import read_dataset
from training.example import KINDS, LABEL, NORMAL, generate, main, records, write_csv


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a.csv", "b.csv"):
        write_csv(generate(500, 3), tmp_path / name)
    write_csv(generate(500, 4), tmp_path / "c.csv")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes() != (tmp_path / "c.csv").read_bytes()


def test_one_in_a_hundred_is_fraud_of_five_kinds():
    label = generate(5_000, 0)[LABEL]
    kinds, counts = np.unique(label.astype(str), return_counts=True)
    assert dict(zip(kinds, counts, strict=True)) == {NORMAL: 4_950, **dict.fromkeys(KINDS, 10)}
    assert set(generate(100, 0, anomaly_share=0)[LABEL]) == {NORMAL}


def test_training_reads_it_as_it_is_meant(tmp_path):
    write_csv(generate(3_000, 0), tmp_path / "payments.csv")
    dataset = read_dataset(tmp_path / "payments.csv", label=LABEL, normal=NORMAL)
    kinds = {feature.name: feature.kind for feature in dataset.features}
    assert kinds == {
        "time": "datetime",
        "amount": "numeric",
        "merchant_category": "categorical",
        "country": "categorical",
        "card_country": "categorical",
        "device": "categorical",
        "card_present": "boolean",
        "account_age_days": "numeric",
        "distance_from_home_km": "numeric",
        "transactions_24h": "numeric",
        "minutes_since_last": "numeric",
        "credit_limit": "numeric",
    }
    assert len(dataset.x) == 2_970
    assert len(dataset.anomalies_x) == 30
    assert dataset.warnings == dataset.dropped == ()
    assert any(feature.missing_rate > 0.2 for feature in dataset.features)


@pytest.mark.parametrize("kind", ["cloned_card", "inflated_amount"])
def test_two_kinds_show_in_no_value_alone(kind):
    columns = generate(40_000, 0, anomaly_share=0.05)
    fraud, normal = columns[LABEL] == kind, columns[LABEL] == NORMAL
    for name, values in columns.items():
        if values.dtype == np.float64:
            low, high = np.nanquantile(values[normal], [0.001, 0.999])
            inside = (values[fraud] >= low) & (values[fraud] <= high)
            assert inside[~np.isnan(values[fraud])].mean() > 0.97, name
        elif values.dtype == object and name != LABEL:
            assert set(values[fraud]) <= set(values[normal]), name


def test_a_clone_is_abroad_and_at_home_at_once():
    columns = generate(40_000, 0, anomaly_share=0.05)
    abroad = columns["country"] != columns["card_country"]
    both = abroad & columns["card_present"] & (columns["distance_from_home_km"] < 100)
    assert both[columns[LABEL] == NORMAL].sum() == 0
    assert both[columns[LABEL] == "cloned_card"].all()


def test_records_are_json(tmp_path):
    import json

    columns = generate(200, 0)
    rows = records(columns)
    assert len(rows) == 200
    assert LABEL not in rows[0]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert {type(row["transactions_24h"]) for row in rows} == {int}
    assert any(row["distance_from_home_km"] is None for row in rows)


def test_command(tmp_path):
    out = tmp_path / "payments.csv"
    command = [sys.executable, "-m", "training.example", "--rows", "50", "--seed", "1", "--output", str(out)]
    subprocess.run(command, check=True)
    assert out.read_text().count("\n") == 51
    with pytest.raises(SystemExit):
        main(["--rows", "0", "--output", str(out)])
