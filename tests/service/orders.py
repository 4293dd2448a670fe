"""Made orders whose columns keep a rule of every kind that training looks for; gaps and numbers are told by the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def orders(n: int, seed: int = 0) -> pd.DataFrame:
    """n orders."""
    draw = np.random.default_rng(seed)
    country, channel = draw.choice(["at", "de", "fr", "it"], n), draw.choice(["web", "shop", "phone"], n)
    quantity, price = draw.integers(1, 10, n), np.round(draw.lognormal(3, 1, n), 2)
    discount = draw.choice([0, 5, 10, 20], n, p=[0.6, 0.2, 0.1, 0.1])
    net = np.round(quantity * price * (100 - discount) / 100, 2)
    tax = np.round(net * draw.choice([0.1, 0.2], n), 2)
    table: dict[str, Any] = {
        "country": country,
        "channel": channel,
        "wrapping": np.where(channel == "web", draw.choice(["none", "gift"], n), draw.choice(["none", "bag"], n)),
        "quantity": quantity,
        "price": price,
        "discount": discount,
        "net": net,
        "tax": tax,
        "total": np.round(net + tax, 2),
        "paid": np.round((net + tax) * draw.choice([1, 1, 1, 0.5, 0], n), 2),
        "hour": draw.integers(0, 24, n),
        "weight": np.round(0.3 * quantity * (1 + 0.1 * draw.normal(size=n)), 3),
        "parcels": np.where(channel == "shop", np.nan, draw.integers(1, 4, n)),
        "express": draw.random(n) < 0.2,
        "at": pd.Timestamp("2026-01-05") + pd.to_timedelta(draw.integers(0, 300 * 86_400, n), "s"),
    }
    return pd.DataFrame(table)


def with_one_cell_of_another(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Each record with one cell of another record: most of them break a rule."""
    draw, made = np.random.default_rng(seed), table.copy()
    column, other = draw.integers(0, table.shape[1], len(table)), draw.permutation(len(table))
    for place, name in enumerate(table):
        made[name] = table[name].where(column != place, table[name].to_numpy()[other])
    return made
