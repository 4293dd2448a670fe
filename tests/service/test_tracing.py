"""Spans of a request: what they say, where they go, and that without the setting there is nothing of them."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.settings import SettingsError
from service.tracing import Tracing
from tests.service.client import Client, check_problem
from tests.service.conftest import Serve
from tests.service.test_http_protocol import BODY, DEADLINE, POST, serving
from tests.service.tiny_bundle import GOOD, ODD

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=x"}


@pytest.fixture(autouse=True)
def _no_otel(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def traced(serve: Serve) -> tuple[Client, InMemorySpanExporter]:
    client, exporter = serve(log_requests=True), InMemorySpanExporter()
    client.app.tracing = Tracing([SimpleSpanProcessor(exporter)])
    return client, exporter


def arrow() -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"amount": [12.5, 3.0]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


LINES = b"\n".join([json.dumps(GOOD).encode()] * 1_100)
WAYS: list[tuple[str, str, bytes, dict[str, str], int]] = [
    ("/score", "/score", BODY, {}, 1),
    ("/models/tiny/score", "/models/{name}/score", json.dumps({"columns": {"amount": [1, 2]}}).encode(), {}, 1),
    ("/score", "/score", json.dumps({"records": [GOOD] * 600}).encode(), {}, 1),
    ("/score", "/score", gzip.compress(BODY), {"content-encoding": "gzip"}, 1),
    ("/score", "/score", LINES, {"content-type": "application/x-ndjson"}, 3),
    ("/score", "/score", arrow(), {"content-type": "application/vnd.apache.arrow.stream"}, 1),
    (
        "/v2/models/tiny/infer",
        "/v2/models/{name}/infer",
        json.dumps({"inputs": [{"name": "amount", "shape": [1], "datatype": "FP64", "data": [12.5]}]}).encode(),
        {},
        1,
    ),
]


def split(exporter: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    """The span of the server, and those below it, in the order of their beginning."""
    spans = exporter.get_finished_spans()
    (server,) = [span for span in spans if span.kind == SpanKind.SERVER]
    below = sorted((span for span in spans if span is not server), key=lambda span: span.start_time or 0)
    return server, below


@pytest.mark.parametrize(
    ("path", "route", "body", "headers", "blocks"), WAYS, ids=[f"{way[1]}-{i}" for i, way in enumerate(WAYS)]
)
def test_every_way_to_a_score_has_its_stages_below_the_servers_span(
    traced: tuple[Client, InMemorySpanExporter], path: str, route: str, body: bytes, headers: dict[str, str], blocks: int
) -> None:
    client, exporter = traced
    answer = client.post(path, content=body, headers={"content-type": "application/json", **headers, **SAMPLED})
    assert answer.status_code == 200, answer.text
    server, below = split(exporter)
    assert server.name == f"POST {route}"
    assert (server.context.trace_id, server.parent.span_id) == (int(TRACE, 16), int(PARENT, 16))
    assert server.parent.trace_state["vendor"] == "x"
    assert server.attributes is not None
    assert (server.attributes["http.route"], server.attributes["http.response.status_code"]) == (route, 200)
    assert server.attributes["anomaly.request_id"] == answer.headers["x-request-id"]
    assert server.attributes["anomaly.model"] == "tiny"
    times = Counter(span.name for span in below)
    assert times.keys() == {"parse", "queue", "inference"}
    assert blocks <= times["parse"] == times["queue"] == times["inference"] <= 2 * blocks - 1
    assert not any(span.attributes for span in below)
    seconds = dict.fromkeys(("parse", "queue", "inference"), 0.0)
    for span in below:
        assert (span.context.trace_id, span.parent.span_id) == (server.context.trace_id, server.context.span_id)
        assert server.start_time - 1000 <= span.start_time <= span.end_time <= server.end_time + 1000  # ns
        seconds[span.name] += (span.end_time - span.start_time) / 1e9
    for before, after in pairwise(below):
        assert before.end_time <= after.start_time + 10_000  # one after the other
    if blocks == 1:
        timing = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"])}
        for name, spent in seconds.items():
            assert spent * 1e3 == pytest.approx(timing[name], abs=0.002)


def test_without_a_parent_each_request_is_a_trace_of_its_own(traced: tuple[Client, InMemorySpanExporter]) -> None:
    client, exporter = traced
    for headers in ({}, {"traceparent": "nonsense"}, {"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, {"traceparent": "\xff"}):
        client.post("/score", content=BODY, headers=[(k.encode(), v.encode("latin-1")) for k, v in headers.items()])
    servers = [span for span in exporter.get_finished_spans() if span.kind == SpanKind.SERVER]
    assert [span.parent for span in servers] == [None] * 4
    assert len({span.context.trace_id for span in servers}) == 4


def test_a_refusal_and_a_fault_are_told_without_a_value(
    traced: tuple[Client, InMemorySpanExporter], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, exporter = traced
    check_problem(client.post("/score", json={"records": [{"amount": "s3cr3t"}]}), 422, "invalid_records")
    server, below = split(exporter)
    assert (server.status.status_code, below) == (StatusCode.UNSET, [])
    exporter.clear()

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("s3cr3t")

    monkeypatch.setattr(client.app.registry.default().detector, "score", broken)
    client.post("/score", json={"records": [ODD]})
    fault, _ = split(exporter)
    assert fault.status.status_code == StatusCode.ERROR
    assert fault.attributes is not None
    assert (fault.attributes["error.type"], fault.attributes["http.response.status_code"]) == ("500", 500)
    assert "s3cr3t" not in server.to_json() + fault.to_json()
    assert "100000" not in fault.to_json()


def test_the_line_of_the_log_has_the_trace(
    traced: tuple[Client, InMemorySpanExporter], capfd: pytest.CaptureFixture[str]
) -> None:
    client, exporter = traced
    client.post("/score", content=BODY, headers=SAMPLED)
    client.post("/score", content=BODY, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})  # its caller does not record it
    assert client.get("/models", headers=SAMPLED).status_code == 200
    client.app.requests.close()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"request"' in line]
    assert [line.get("trace_id") for line in lines] == [TRACE, TRACE, None]
    assert len(exporter.get_finished_spans()) == 4


def test_text_lines_have_the_trace(serve: Serve, capfd: pytest.CaptureFixture[str]) -> None:
    client = serve(log_requests=True, log_format="text")
    client.app.tracing = Tracing([])
    client.post("/score", content=BODY, headers=SAMPLED)
    client.app.requests.close()
    assert f" trace_id={TRACE} model=tiny " in capfd.readouterr().err


class Receiver(BaseHTTPRequestHandler):
    """What an OpenTelemetry collector does on /v1/traces."""

    received: list[tuple[str, ExportTraceServiceRequest]]
    arrived: threading.Event

    def do_POST(self) -> None:
        """Takes spans."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()
        self.arrived.set()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[str, type[Receiver]]]:
    handler = type("Handler", (Receiver,), {"received": [], "arrived": threading.Event()})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def test_a_served_process_exports_over_http_as_the_standard_variables_say(
    bundle_dir: Path, collector: tuple[str, type[Receiver]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, received = collector
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
        "OTEL_SERVICE_NAME": "payments-scoring",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }.items():
        monkeypatch.setenv(name, value)
    with serving(bundle_dir, tracing="true") as server:
        head = POST.rstrip(b"\r\n") + f"\r\ntraceparent: {SAMPLED['traceparent']}\r\n".encode()
        assert server.ask(head + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)[0] == 200
        assert received.arrived.wait(DEADLINE)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.stderr is not None
        log = server.process.stderr.read()
        assert server.process.wait(DEADLINE) in (0, -signal.SIGTERM)
    path, message = received.received[0]
    assert path == "/v1/traces"
    (resource,) = message.resource_spans
    attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert attributes["service.name"] == "payments-scoring"
    assert attributes["deployment.environment.name"] == "test"
    spans = {span.name: span for scope in resource.scope_spans for span in scope.spans}
    assert {*spans} == {"POST /score", "parse", "queue", "inference"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["POST /score"].parent_span_id.hex() == PARENT
    assert {spans[name].parent_span_id for name in ("parse", "queue", "inference")} == {spans["POST /score"].span_id}
    ends = [spans[name].end_time_unix_nano for name in ("parse", "queue")]
    starts = [spans[name].start_time_unix_nano for name in ("queue", "inference")]
    assert all(abs(start - end) < 1000 for start, end in zip(starts, ends, strict=True))  # ns: one begins where the other ends
    assert f'"trace_id":"{TRACE}"' in log


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp,zipkin"}, "OTEL_TRACES_EXPORTER must be otlp, console or none"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"),
    ],
)
def test_variables_that_ask_for_what_is_not_there_stop_the_start(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        serve(tracing=True)


def test_no_exporter_still_gives_ids(serve: Serve, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    client = serve(tracing=True, log_requests=True)
    client.post("/score", content=BODY)
    client.app.requests.close()
    assert re.search(r'"trace_id":"[0-9a-f]{32}"', capfd.readouterr().err)


def test_without_the_extra_the_setting_says_what_to_install(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opentelemetry.sdk", "opentelemetry.sdk.trace.export", "opentelemetry.exporter.otlp.proto.http.trace_exporter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=r"pip install 'tabular-anomaly-service\[trace\]'"):
        serve(tracing=True)


def test_without_the_setting_nothing_of_it_is_imported(bundle_dir: Path) -> None:
    code = (
        "import sys; from service.app import create_app; create_app();"
        "mine = ('opentelemetry.sdk', 'opentelemetry.exporter', 'service.tracing');"
        "print([name for name in sys.modules if name.startswith(mine)])"
    )
    environment = {**os.environ, "ANOMALY_MODELS_DIR": str(bundle_dir), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_frameworks_own_telemetry_tells_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI's would trace every other request, and put what was sent into the errors that it tells."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: provider)
    assert serve().get("/models").status_code == 200
    assert exporter.get_finished_spans() == ()
