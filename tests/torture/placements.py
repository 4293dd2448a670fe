"""Records for the example model, and every way to have them scored over HTTP."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from service.bundle import current_version
from tests.torture.probed import MODELS
from tests.torture.raw import Answer, post
from training import example

Record = dict[str, Any]
Scores = tuple[NDArray[np.float32], NDArray[np.float64]]  # score (N,) and p_value (N,)
Way = Callable[[list[Record]], tuple[bytes, Callable[[Answer], Scores]]]
NAME = "example"
VERSION = current_version(MODELS, NAME)
MANIFEST = json.loads((MODELS / NAME / VERSION / "manifest.json").read_bytes())
KINDS: dict[str, str] = {feature["name"]: feature["kind"] for feature in MANIFEST["features"]}
NUMBERS = [name for name, kind in KINDS.items() if kind == "numeric"]
ARROW_TYPES = {"numeric": pa.float64(), "boolean": pa.bool_(), "categorical": pa.string(), "datetime": pa.string()}
DATATYPES = {"numeric": "FP64", "boolean": "BOOL", "categorical": "BYTES", "datetime": "BYTES"}
# Where float32 ends, begins, and rounds; those of the last line do not fit it, the others do.
EDGES: list[float | int] = [
    *(3.4028234663852886e38, -3.4028234663852886e38, 3.4028235e38, 3.4e38, 1e38, -1e38, 3.4028235677973362e38),
    *(1.1754943508222875e-38, 1.1754942106924411e-38, 1.401298464324817e-45, -1.401298464324817e-45, 7e-46, 1e-300, 5e-324),
    *(0.0, -0.0, 0, 1, -1, 2**24, 2**24 + 1, 2**53 + 1, 2**63, 2**64, 10**30, 0.1, 1 / 3, 1e10, -1e10, 1e20, 65504.0),
    *(3.4028235677973366e38, 1e39, -1e39, 1e300, 1.7976931348623157e308, 10**39, 10**308),
]
TIMES = ("0001-01-01T00:00:00", "9999-12-31T23:59:59", "2024-02-29", "2026-11-23T12:00:00+14:00", "1969-12-31 23:59:59.999999")


def ordinary(n: int, seed: int) -> list[Record]:
    """Payments, a third of them with something odd: a value missing, unknown, or far outside."""
    draw, made = random.Random(seed), example.records(example.generate(n, seed=seed))
    for record in made[::3]:
        name = draw.choice(list(KINDS))
        if draw.random() < 0.4:
            del record[name]
        elif KINDS[name] == "numeric":
            record[name] = draw.choice([1e6, -5, 0.001, 123456.789])
        elif KINDS[name] == "categorical":
            record[name] = draw.choice(["", "NA", "é\u2028x", 'a"b\\', "null", "x" * 300])
        elif KINDS[name] == "datetime":
            record[name] = draw.choice(TIMES)
        else:
            record[name] = None
    return made


def extreme(draw: random.Random, base: Record) -> Record:
    """A record with some numbers at the edges of float32."""
    record = dict(base)
    for name in draw.sample(NUMBERS, draw.randint(1, len(NUMBERS))):
        edge = draw.choice(EDGES)
        record[name] = edge if draw.random() < 0.7 else float(edge) * draw.uniform(-1, 1)
    if draw.random() < 0.2:
        record["time"] = draw.choice(TIMES)
    return record


def as_records(made: list[Record]) -> tuple[bytes, Callable[[Answer], Scores]]:
    return post(dumped({"records": made})), of_records


def explained(made: list[Record]) -> tuple[bytes, Callable[[Answer], Scores]]:
    return post(dumped({"records": made, "explain": "all"}), f"/models/{NAME}/score"), of_records


def zipped(made: list[Record]) -> tuple[bytes, Callable[[Answer], Scores]]:
    target = f"/models/{NAME}/versions/{VERSION}/score"
    return post(gzip.compress(dumped({"records": made}), 1), target, Content_Encoding="gzip"), of_records


def in_chunks(made: list[Record]) -> tuple[bytes, Callable[[Answer], Scores]]:
    body = dumped({"records": made, "explain": "none"})
    parts = [body[start : start + 997] for start in range(0, len(body), 997)]
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n", of_records


def as_columns(made: list[Record]) -> tuple[bytes, Callable[[Answer], Scores]]:
    body = {"columns": columns_of(made), "explain": "none"}

    def read(answer: Answer) -> Scores:
        results = orjson.loads(answer.body)["results"]
        return np.array(results["score"], np.float32), np.array(results["p_value"])

    return post(dumped(body)), read


def as_lines(made: list[Record]) -> tuple[bytes, Callable[[Answer], Scores]]:
    body = b"\n".join(map(dumped, made))

    def read(answer: Answer) -> Scores:
        return of_results([orjson.loads(line) for line in answer.body.splitlines()])

    return post(body, "/score?explain=none", "application/x-ndjson"), read


def as_arrow(made: list[Record]) -> tuple[bytes, Callable[[Answer], Scores]]:
    out = io.BytesIO()
    table = as_table(made)
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)

    def read(answer: Answer) -> Scores:
        told = pa.ipc.open_stream(answer.body).read_all()
        return told["score"].to_numpy(), told["p_value"].to_numpy()

    return post(out.getvalue(), "/score", "application/vnd.apache.arrow.stream"), read


def as_tensors(made: list[Record]) -> tuple[bytes, Callable[[Answer], Scores]]:
    inputs = [
        {"name": name, "datatype": DATATYPES[KINDS[name]], "shape": [len(made)], "data": values}
        for name, values in columns_of(made).items()
    ]

    def read(answer: Answer) -> Scores:
        told = {output["name"]: output["data"] for output in orjson.loads(answer.body)["outputs"]}
        return np.array(told["score"], np.float32), np.array(told["p_value"])

    return post(dumped({"inputs": inputs}), f"/v2/models/{NAME}/infer"), read


WAYS: tuple[Way, ...] = (as_records, explained, zipped, in_chunks, as_columns, as_lines, as_arrow, as_tensors)


def columns_of(made: list[Record]) -> dict[str, list[Any]]:
    """The records' values by feature, None where one has none; a column that no record has is left out."""
    columns = {name: [record.get(name) for record in made] for name in KINDS}
    return {name: values for name, values in columns.items() if any(value is not None for value in values)} or {
        "amount": [None] * len(made)
    }


def as_table(made: list[Record]) -> pa.Table:
    """The same as a table."""
    columns = {
        name: [float(value) for value in values] if KINDS[name] == "numeric" and None not in values else values
        for name, values in columns_of(made).items()
    }
    return pa.table({name: pa.array(values, ARROW_TYPES[KINDS[name]]) for name, values in columns.items()})


def of_records(answer: Answer) -> Scores:
    """What the answer to records says."""
    return of_results(orjson.loads(answer.body)["results"])


def of_results(results: list[Any]) -> Scores:
    """Scores and p-values of these results."""
    return np.array([one["score"] for one in results], np.float32), np.array([one["p_value"] for one in results])


def dumped(value: Any) -> bytes:
    """JSON; with whole numbers of any size, which orjson does not write."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
