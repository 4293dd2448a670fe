"""Tables of service.client: whatever speaks Arrow, as bodies of so many rows, and the answers as one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

from arro3.core import Table
from arro3.io import read_ipc_stream, write_ipc_stream


def split(table: Any, size: int) -> Iterator[bytes]:
    """Arrow streams of at most `size` rows each, one at least."""
    if size < 1:
        raise ValueError(f"a request of {size} rows: 1 is the least")
    if not hasattr(table, "__arrow_c_stream__"):
        raise TypeError(f"a {type(table).__name__} does not speak Arrow: a table with __arrow_c_stream__ is needed")
    for batch in Table.from_arrow(table).rechunk(max_chunksize=size).to_batches():
        body = BytesIO()
        write_ipc_stream(batch, body, compression=None)
        yield body.getvalue()


def join(bodies: Sequence[bytes]) -> Table:
    """The table in these Arrow streams, whose schemas are one."""
    if not bodies:
        raise ValueError("the table has no rows")
    return Table.from_batches([batch for body in bodies for batch in read_ipc_stream(BytesIO(body))])
