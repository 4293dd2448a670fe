"""Spans of the requests for scores, by OpenTelemetry: one of the server, and below it parse, queue and inference.

They are made once the answer is on its way, from times that were noted. Without ANOMALY_TRACING this file is not imported, nor is
OpenTelemetry's SDK. Where spans go is said by OpenTelemetry's own variables, OTEL_*.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from service.log import Scored
from service.settings import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

EXPORTER, PROTOCOL = "OTEL_TRACES_EXPORTER", ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
HTTP = "http/protobuf"
PARENT = (b"traceparent", b"tracestate")
STAGES = ("queue", "parse", "inference")


class Trace:
    """What is noted of one request while it is under way."""

    __slots__ = ("parent", "stages")

    def __init__(self, headers: Mapping[bytes, bytes]) -> None:
        self.parent = {name.decode(): headers[name].decode("latin-1") for name in PARENT if name in headers}
        self.stages: list[tuple[str, float, float]] = []  # name, when it began by perf_counter, seconds

    def add(self, queue: tuple[float, float], parse: tuple[float, float], inference: tuple[float, float]) -> None:
        """Notes when each stage began, by perf_counter, and the seconds that it took; again for each block of a stream."""
        self.stages += [(name, *times) for name, times in zip(STAGES, (queue, parse, inference), strict=True)]


class Tracing:
    """Makes spans of what was noted, and hands them to these processors."""

    def __init__(self, processors: Sequence[SpanProcessor], version: str = "0") -> None:
        """Raises SettingsError where the extra `trace` is not installed."""
        try:
            from opentelemetry import trace  # noqa: PLC0415 - an extra
            from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415
        except ImportError:
            raise missing() from None
        own = {"service.name": "anomaly", "service.version": version}
        resource = Resource.create(own).merge(OTELResourceDetector().detect())  # OTEL_SERVICE_NAME and its like count more
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        for processor in processors:
            self._provider.add_span_processor(processor)
        self._api, self._tracer = trace, self._provider.get_tracer("service")
        self._context = TraceContextTextMapPropagator()

    @classmethod
    def from_environment(cls, version: str) -> Tracing:
        """As OpenTelemetry's variables say. Raises SettingsError where they ask for what is not there."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter  # noqa: PLC0415
        except ImportError:
            raise missing() from None
        made: dict[str, Any] = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}
        names = [name.strip() for name in (os.environ.get(EXPORTER, "") or "otlp").split(",")]
        unknown = sorted({*names} - {*made, "none"})
        if unknown:
            raise SettingsError(f"{EXPORTER} must be {', '.join(made)} or none, or several with commas: not {unknown[0]}")
        protocol = next((os.environ[name] for name in PROTOCOL if os.environ.get(name)), HTTP)
        if "otlp" in names and protocol != HTTP:
            raise SettingsError(f"{PROTOCOL[1]} must be {HTTP}, which is the one that is there: not {protocol}")
        return cls([BatchSpanProcessor(made[name]()) for name in names if name != "none"], version)

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace:
        """What is to be noted of a request with these headers."""
        return Trace(headers)

    def end(
        self, trace: Trace, route: str, method: str, status: int, began: float, request_id: str, scored: Scored | None
    ) -> str | None:
        """Makes the spans of a request that has had its answer, and returns the id of its trace in 32 hexadecimal digits."""
        wall, ended = time.time_ns(), perf_counter()

        def at(moment: float) -> int:
            return wall - int((ended - moment) * 1e9)

        attributes: dict[str, Any] = {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "anomaly.request_id": request_id,
        }
        if scored is not None:
            names = ("anomaly.model", "anomaly.version", "anomaly.records", "anomaly.anomalies")
            attributes.update(zip(names, scored, strict=True))
        parent = self._context.extract(trace.parent) if trace.parent else None
        span = self._tracer.start_span(
            f"{method} {route}", context=parent, kind=self._api.SpanKind.SERVER, attributes=attributes, start_time=at(began)
        )
        if span.is_recording():
            below = self._api.set_span_in_context(span)
            for name, start, seconds in trace.stages:
                self._tracer.start_span(name, context=below, start_time=at(start)).end(at(start + seconds))
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status(self._api.StatusCode.ERROR)
        span.end(wall)
        trace_id = span.get_span_context().trace_id
        return f"{trace_id:032x}" if trace_id else None

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def missing() -> SettingsError:
    """What to do without the extra."""
    return SettingsError("ANOMALY_TRACING needs OpenTelemetry's SDK: pip install 'tabular-anomaly-service[trace]'")
