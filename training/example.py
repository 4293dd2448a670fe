"""Example data: card payments of 2,000 customers with habits, and five kinds of fraud.

python -m training.example --rows 20000 --seed 0 --output payments.csv

The customers are the same for every seed, so that two files are samples of one population: what is normal in one is in the other.
Three kinds of fraud stand out by a value; cloned_card and inflated_amount only by how values go together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CUSTOMERS = 2_000
POPULATION_SEED = 20_250_101
LABEL, NORMAL = "label", "normal"
KINDS = ("stolen_card", "night_takeover", "card_testing", "cloned_card", "inflated_amount")
COUNTRIES = np.array(["AT", "CH", "CZ", "DE", "ES", "FR", "GB", "IT", "NL", "PL", "US"])
HOME_WEIGHTS = np.array([18, 6, 5, 40, 4, 9, 3, 6, 4, 4, 1]) / 100
SEGMENTS = ("student", "family", "business", "retired")
SCALES = np.array([0.6, 1.0, 1.8, 0.9])  # what a segment spends, relative to a family
# A merchant category: median amount, usual hour, spread in hours, share bought online, popularity by segment.
CATEGORIES: dict[str, tuple[float, float, float, float, tuple[int, int, int, int]]] = {
    "grocery": (38, 17, 2.5, 0.05, (26, 34, 14, 36)),
    "restaurant": (27, 19, 2.0, 0.10, (22, 12, 24, 10)),
    "fuel": (58, 12, 4.0, 0.00, (4, 14, 16, 10)),
    "online_retail": (45, 20, 2.5, 1.00, (22, 18, 12, 8)),
    "pharmacy": (19, 14, 3.0, 0.15, (3, 7, 3, 18)),
    "entertainment": (16, 20, 2.0, 0.70, (17, 7, 6, 4)),
    "electronics": (210, 16, 3.0, 0.50, (4, 4, 8, 3)),
    "travel": (420, 13, 4.0, 0.75, (2, 4, 17, 11)),
}
NAMES = np.array(list(CATEGORIES))
SHOPS = np.array([0, 2, 4])  # grocery, fuel and pharmacy: never hundreds
ONLINE_DEVICES = np.array(["phone", "laptop", "tablet"])
MISSING = {"device": 0.02, "account_age_days": 0.01, "minutes_since_last": 0.03, "merchant_category": 0.005}

Columns = dict[str, NDArray[Any]]


def generate(rows: int, seed: int, anomaly_share: float = 0.01) -> Columns:
    """Columns (rows,) of payments in no order; the last, `label`, says normal or the kind of fraud. NaN or None is missing.

    round(rows * anomaly_share) rows are fraud, the five kinds in turn.
    """
    rng = np.random.default_rng(seed)
    payments, customer = _normal(rows, rng)
    label = np.full(rows, NORMAL, object)
    frauds = rng.permutation(rows)[: round(rows * anomaly_share)]
    for place, kind in enumerate(KINDS):
        chosen = frauds[place :: len(KINDS)]
        _plant(kind, payments, customer, chosen, rng)
        label[chosen] = kind
    for name, share in MISSING.items():
        lost = rng.random(rows) < share
        payments[name][lost] = np.nan if payments[name].dtype == np.float64 else None
    return {**payments, LABEL: label}


def records(columns: Columns) -> list[dict[str, Any]]:
    """The payments as JSON records, None where a value is missing, without their label."""
    cells = {name: _cells(name, values) for name, values in columns.items() if name != LABEL}
    return [dict(zip(cells, values, strict=True)) for values in zip(*cells.values(), strict=True)]


def write_csv(columns: Columns, path: Path) -> None:
    """Writes the columns with a header, an empty cell where a value is missing."""
    texts = [[_text(name, cell) for cell in _cells(name, values)] for name, values in columns.items()]
    lines = [",".join(columns), *(",".join(row) for row in zip(*texts, strict=True))]
    path.write_bytes(("\n".join(lines) + "\n").encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a CSV file of payments."""
    parser = argparse.ArgumentParser(prog="python -m training.example", description="Example data: card payments.")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anomaly-share", type=float, default=0.01, help="0: normal payments only")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.csv")
    args = parser.parse_args(arguments)
    if args.rows < 1 or not 0 <= args.anomaly_share <= 1:
        parser.error("--rows must be 1 at least and --anomaly-share from 0 to 1")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_csv(generate(args.rows, args.seed, args.anomaly_share), args.output)
    return 0


def _normal(rows: int, rng: np.random.Generator) -> tuple[Columns, Columns]:
    """Normal payments, and for each row its customer's habits."""
    customer = _pick(rows, rng)
    shares = np.array([row[4] for row in CATEGORIES.values()], float).T  # (segments, categories)
    until = np.cumsum(shares / shares.sum(axis=1, keepdims=True), axis=1)[customer["segment"]]
    category = (rng.random((rows, 1)) > until).sum(axis=1).clip(max=len(NAMES) - 1)
    median, hour, spread, online_share = (np.array([row[i] for row in CATEGORIES.values()], float)[category] for i in range(4))
    online = rng.random(rows) < online_share
    abroad = rng.random(rows) < np.where(category == list(NAMES).index("travel"), 0.35, 0.02)
    home = customer["home"]
    country = np.where(abroad, (home + rng.integers(1, len(COUNTRIES), rows)) % len(COUNTRIES), home)
    near = rng.lognormal(1.2, 0.8, rows) * customer["reach"]
    distance = np.where(abroad & ~online, rng.lognormal(6.9, 0.35, rows) + 200, near)
    busy = rng.poisson(customer["rate"])
    # Evenings run late: the hour leans on the category and on the customer, and wraps at midnight.
    at = (hour + customer["shift"] + rng.normal(size=rows) * spread) % 24
    day = np.datetime64("2025-01-01") + rng.integers(0, 365, rows)
    time = day.astype("M8[s]") + (at * 3600).astype(np.int64)
    device = np.where(
        online, ONLINE_DEVICES[customer["device"]], np.where(rng.random(rows) < customer["tap"], "contactless", "chip")
    )
    payments: Columns = {
        "time": time,
        "amount": np.round(median * customer["scale"] * rng.lognormal(0, 0.4, rows), 2),
        "merchant_category": NAMES[category].astype(object),
        "country": COUNTRIES[country].astype(object),
        "card_country": COUNTRIES[home].astype(object),
        "device": device.astype(object),
        "card_present": ~online,
        "account_age_days": customer["age"].astype(np.float64),
        "distance_from_home_km": np.where(online, np.nan, np.round(distance, 1)),  # unknown for what is bought online
        "transactions_24h": busy.astype(np.float64),
        "minutes_since_last": np.round(rng.gamma(2.0, 0.5, rows) * 1440 / (busy + 0.5)) + 2,
        "credit_limit": customer["limit"],
    }
    return payments, customer


def _pick(rows: int, rng: np.random.Generator) -> Columns:
    """The habits of `rows` customers drawn from the population, which is the same every time."""
    own = np.random.default_rng(POPULATION_SEED)
    segment = own.choice(len(SEGMENTS), CUSTOMERS, p=[0.2, 0.4, 0.2, 0.2])
    scale = SCALES[segment] * own.lognormal(0, 0.25, CUSTOMERS)
    ages = np.array([500, 2200, 1800, 5200])[segment]
    people = {
        "segment": segment,
        "home": own.choice(len(COUNTRIES), CUSTOMERS, p=HOME_WEIGHTS),
        "scale": scale,
        "limit": np.round(2500 * scale * own.lognormal(0, 0.15, CUSTOMERS), -2),
        "age": np.round(ages * own.lognormal(0, 0.4, CUSTOMERS)) + 30,
        "shift": own.normal(size=CUSTOMERS) * 0.7 + np.array([1.5, 0, 0.5, -2.5])[segment],
        "reach": own.lognormal(0, 0.4, CUSTOMERS),
        "rate": own.lognormal(0.3, 0.4, CUSTOMERS),
        "device": own.choice(len(ONLINE_DEVICES), CUSTOMERS, p=[0.6, 0.3, 0.1]),
        "tap": own.beta(5, 2, CUSTOMERS),
    }
    who = rng.integers(CUSTOMERS, size=rows)
    return {name: habit[who] for name, habit in people.items()}


def _plant(kind: str, payments: Columns, customer: Columns, rows: NDArray[np.intp], rng: np.random.Generator) -> None:
    """Turns these rows into fraud of one kind."""
    n = len(rows)

    def put(**columns: Any) -> None:
        for name, values in columns.items():
            payments[name][rows] = values

    midnight = payments["time"][rows].astype("M8[D]").astype("M8[s]")
    night = midnight + (rng.uniform(2, 5, n) * 3600).astype("m8[s]")
    scale = customer["scale"][rows]
    other = COUNTRIES[(customer["home"][rows] + rng.integers(1, len(COUNTRIES), n)) % len(COUNTRIES)]
    if kind == "stolen_card":  # a spree, far away, until the card is blocked
        put(merchant_category="electronics", device="chip", card_present=True, country=other)
        put(amount=np.round(rng.uniform(900, 2500, n) * scale, 2), distance_from_home_km=np.round(rng.uniform(900, 4000, n), 1))
        put(transactions_24h=rng.integers(7, 15, n), minutes_since_last=rng.integers(2, 12, n))
    elif kind == "night_takeover":  # someone else shops online while the owner sleeps
        put(merchant_category="online_retail", card_present=False, distance_from_home_km=np.nan, time=night)
        put(device=rng.choice(ONLINE_DEVICES, n), amount=np.round(rng.uniform(250, 700, n) * scale, 2))
    elif kind == "card_testing":  # many tiny payments: does the number still work?
        put(merchant_category="entertainment", card_present=False, distance_from_home_km=np.nan)
        put(device="laptop", amount=np.round(rng.uniform(0.5, 2.0, n), 2))
        put(transactions_24h=rng.integers(12, 40, n), minutes_since_last=rng.integers(1, 4, n))
    elif kind == "cloned_card":  # abroad, but near home: the one cannot be with the other
        put(merchant_category=NAMES[rng.choice(SHOPS, n)], card_present=True, device="chip", country=other)
        put(amount=np.round(rng.uniform(20, 60, n) * scale, 2), distance_from_home_km=np.round(rng.uniform(1, 8, n), 1))
    else:  # inflated_amount: the price of a journey, at the counter of a small shop
        put(
            merchant_category=NAMES[rng.choice(SHOPS, n)],
            card_present=True,
            device="chip",
            country=COUNTRIES[customer["home"][rows]],
        )
        put(amount=np.round(rng.uniform(350, 800, n) * scale, 2), distance_from_home_km=np.round(rng.uniform(1, 8, n), 1))


def _cells(name: str, values: NDArray[Any]) -> list[Any]:
    if name == "time":
        return [str(text) for text in np.datetime_as_string(values)]
    whole = name in ("account_age_days", "transactions_24h", "minutes_since_last", "credit_limit")
    missing = [value is None for value in values] if values.dtype == object else np.isnan(values.astype(float))
    return [None if lost else int(value) if whole else value for value, lost in zip(values.tolist(), missing, strict=True)]


def _text(name: str, cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"{cell:.2f}" if name == "amount" else str(cell)


if __name__ == "__main__":
    sys.exit(main())
