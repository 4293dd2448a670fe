"""A small table of every feature kind, with missing values, rare and unknown categories."""

import numpy as np

from service.manifest import Feature

FEATURES = (
    Feature(name="amount", kind="numeric", low=-9, high=9),
    Feature(name="age", kind="numeric", integer=True, low=0, high=99, missing_rate=0.1),
    Feature(name="shop", kind="categorical", categories=("food", "fuel", "toys"), missing_rate=0.2),
    Feature(name="city", kind="categorical", categories=tuple(f"c{i}" for i in range(90))),
    Feature(name="code", kind="categorical", integer=True, categories=(3, 1, 7)),
    Feature(name="online", kind="boolean", missing_rate=0.3),
    Feature(name="time", kind="datetime"),
)


def rows(n, seed=0):
    """x (n, C) of FEATURES: amount and shop depend on each other; fuel is seldom told to be bought online; all in one month."""
    random = np.random.default_rng(seed)
    shop = random.integers(0, 3, n).astype(float)
    x = np.column_stack(
        [
            shop * 3 + random.normal(size=n),
            np.floor(random.uniform(18, 90, n)),
            shop,
            np.minimum(random.geometric(0.05, n) - 1, 89),
            random.integers(0, 3, n),
            random.integers(0, 2, n),
            random.uniform(0, 24, n),
            random.integers(0, 7, n),
            np.full(n, 11),
        ]
    )
    for column, rate in ((1, 0.1), (2, 0.2), (5, np.where(shop == 1, 0.95, 0.02))):
        x[random.random(n) < rate, column] = np.nan
    return x.astype(np.float32)


def odd_rows(seed=1):
    """x of records at the edges: nothing known, unknown categories, absurd numbers."""
    x = rows(8, seed)
    x[0] = np.nan
    x[1, [2, 3, 4]] = 3, 90, 3
    x[2, 0], x[3, 0], x[4, 1] = np.finfo(np.float32).max, -np.finfo(np.float32).max, 1e30
    x[5, 6:9] = 23.999, 6, 1
    return x
