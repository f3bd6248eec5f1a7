"""Traces for OpenTelemetry, if its extra is installed.

Where spans go is stated the way OpenTelemetry does: OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER and the rest of its environment variables.
"""

from __future__ import annotations

import os
import time

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from optserve_server import __version__
from optserve_server.rpc.context.calls import Call

_FLUSH_MILLISECONDS = 3000
"""How long the last spans may take to be sent."""


class OpenTelemetryTracer:
    """Sends a span for every call; a stream is one, whatever the number of its steps."""

    def __init__(self) -> None:
        name = os.environ.get("OTEL_SERVICE_NAME", "optserve")
        resource = Resource.create({SERVICE_NAME: name, SERVICE_VERSION: __version__})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("optserve_server", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record_call(self, call: Call, metadata: object, nanoseconds: int) -> None:
        """Records the span of a call that has just ended; arguments as those of `Tracer.record_call`."""
        texts = {k: v for k, v in metadata or () if isinstance(v, str)}  # type: ignore[attr-defined]  # grpc leaves its type open
        service, _, method = call.method.lstrip("/").partition("/")
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
            "optserve.request_id": call.request_id,
            "optserve.code": call.code,
        }
        if call.caller is not None:
            attributes["optserve.namespace"] = call.caller.namespace.name
        if call.session:
            attributes["optserve.session"] = call.session
        ended = time.time_ns()
        span = self._tracer.start_span(
            call.method.lstrip("/"),
            context=self._propagator.extract(texts),
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=ended - nanoseconds,
        )
        if call.code == "INTERNAL":
            span.set_status(Status(StatusCode.ERROR, call.code))
        span.end(ended)

    def close(self) -> None:
        """Sends what has not been sent yet."""
        self._provider.force_flush(_FLUSH_MILLISECONDS)
        self._provider.shutdown()
