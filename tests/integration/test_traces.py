"""Traces as a collector receives them, over OTLP."""

from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from optserve.v1 import session_service_pb2 as pb
from tests.integration.client import Client, expect_refusal, name_arrays
from tests.support.server import command, environment, running_server

VALUES = {"w": np.ones(4, np.float32)}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """A collector that keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.arrived = threading.Event()
        method = grpc.unary_unary_rpc_method_handler(
            self._export,
            otlp.ExportTraceServiceRequest.FromString,
            otlp.ExportTraceServiceResponse.SerializeToString,
        )
        handler = grpc.method_handlers_generic_handler(
            "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": method}
        )
        self.server = grpc.server(ThreadPoolExecutor(1), handlers=[handler])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _export(self, request: otlp.ExportTraceServiceRequest, _: grpc.ServicerContext) -> object:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        self.arrived.set()
        return otlp.ExportTraceServiceResponse()


def attributes(span: Span) -> dict[str, str]:
    return {attribute.key: attribute.value.string_value for attribute in span.attributes}


def test_a_span_for_every_call_within_the_callers_trace() -> None:
    collector = Collector()
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}"}
    with running_server(traces="yes", variables=variables) as server, Client(server.address) as client:
        session = client.create(VALUES, session_id="traced")
        step = pb.StepRequest(name=session.name, gradients=name_arrays(VALUES))
        with expect_refusal():
            client.sessions.GetSession(pb.GetSessionRequest(name="sessions/nobody"), timeout=5)
        metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "mine"))
        client.sessions.Step(step, timeout=5, metadata=metadata)
        assert server.stop() == 0
    assert collector.arrived.wait(10)
    collector.server.stop(0).wait()
    made, missed, stepped = collector.spans
    assert made.name == "optserve.v1.SessionService/CreateSession"
    assert attributes(made)["optserve.session"] == "traced"
    assert attributes(missed)["optserve.code"] == "SESSION_NOT_FOUND"
    assert (stepped.trace_id.hex(), stepped.parent_span_id.hex()) == (TRACE, PARENT)
    assert attributes(stepped)["optserve.request_id"] == "mine"
    assert attributes(stepped)["rpc.method"] == "Step"
    assert stepped.end_time_unix_nano > stepped.start_time_unix_nano


def test_traces_name_the_extra_that_they_need() -> None:
    """The error of an environment without the extra."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None; sys.argv[0] = 'optserve-server'\n"
        "from optserve_server.__main__ import main; sys.exit(main())"
    )
    arguments = [
        command()[0],
        "-c",
        code,
        "--traces=yes",
        "--port=0",
        "--backend=numpy",
        "--metrics-port=off",
    ]
    ended = subprocess.run(
        arguments, capture_output=True, text=True, timeout=30, env=environment(), check=False
    )
    assert ended.returncode == 2
    assert "optserve-server[otel]" in ended.stderr
