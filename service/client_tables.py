"""Tables of service.client: whatever speaks Arrow, as bodies of so many rows, and the answers as one table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

from arro3.core import RecordBatch, Table
from arro3.io import read_ipc_stream, write_ipc_stream

BYTES = 8 << 20  # of a body at most, unless a single row has more; the service takes 16 MiB by default
INDEX = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name, as a filtered frame has; no feature


def split(table: Any, size: int) -> Iterator[tuple[bytes, int]]:
    """Arrow streams of at most `size` rows, and BYTES, each, and how many rows they have; one row at least."""
    if size < 1:
        raise ValueError(f"a request of {size} rows: 1 is the least")
    if not hasattr(table, "__arrow_c_stream__"):
        raise TypeError(f"a {type(table).__name__} does not speak Arrow: a table with __arrow_c_stream__ is needed")
    whole = Table.from_arrow(table)
    features = whole.select([name for name in whole.column_names if not INDEX.fullmatch(name)])
    for batch in features.rechunk(max_chunksize=size).to_batches():
        yield from _bodies(batch)


def _bodies(batch: RecordBatch) -> Iterator[tuple[bytes, int]]:
    """The batch as one stream, or its parts where that is too large."""
    out = BytesIO()
    write_ipc_stream(batch, out, compression=None)
    body, rows = out.getvalue(), batch.num_rows
    if len(body) <= BYTES or rows == 1:
        yield body, rows
    else:
        most = -(-rows // -(-len(body) // BYTES))
        for start in range(0, rows, most):
            yield from _bodies(batch.slice(start, min(most, rows - start)))


def join(bodies: Sequence[bytes]) -> Table:
    """The table in these Arrow streams, whose schemas are one."""
    if not bodies:
        raise ValueError("the table has no rows")
    return Table.from_batches([batch for body in bodies for batch in read_ipc_stream(BytesIO(body))])
