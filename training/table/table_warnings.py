"""All that the user should know of a table that was read: of its columns by themselves, and of its rows in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from service.manifest import Feature
from training.table import copies, counters, identifiers
from training.table.column import Column
from training.table.column_warnings import warnings_of


def warnings_of_table(
    columns: Mapping[str, Column], features: Sequence[Feature], x: NDArray[np.float32], alike: str | None
) -> tuple[str, ...]:
    """Warnings without values, for the manifest: of columns, of records x (N, C), and `alike`, what order.warning says."""
    used = {feature.name for feature in features}
    told = {name: found for name, column in columns.items() if (found := warnings_of(column, dropped=name not in used))}
    of_rows = [found for found in (copies.warning(x, features), alike) if found]
    return (*chain(*told.values()), *identifiers.warnings(x, features), *counters.warnings(x, features, told), *of_rows)
