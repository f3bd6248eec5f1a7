"""The recommended service config: it fits the contract, and the client's channels go by it."""

from __future__ import annotations

import json
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import optserve
from optserve._transport.retry import Retry
from optserve._transport.service_config import load_service_config, make_service_config
from optserve.activations import ReLU
from optserve.optimizers import SGD
from optserve.v1 import capabilities_service_pb2, function_service_pb2, session_service_pb2
from tests.integration.client import Client, refusal, tensor
from tests.support.server import running_server

CLIENT = Path(__file__).parents[3] / "clients/python"
VALUES = {"w": np.ones(4, np.float32)}
LARGE = np.ones(300_000, np.float32)
ACTIVATED = function_service_pb2.ComputeActivationResponse(output=tensor(VALUES["w"]))
ANSWERS = {"ComputeActivation": ACTIVATED.SerializeToString()}


class Unwilling(grpc.ServerInterceptor):
    """Refuses the first calls of each method with UNAVAILABLE, before a message is read.

    Attributes:
        refusals: how many.
        pushback: milliseconds after which it says that calls may come again; None to say nothing.
        seen: calls by method.
    """

    def __init__(self, refusals: int, pushback: int | None = None) -> None:
        self.refusals, self.pushback = refusals, pushback
        self.seen: Counter[str] = Counter()

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        method = details.method.rsplit("/", 1)[1]
        if method == "Check":  # which the client waits with for its connection
            return grpc.stream_unary_rpc_method_handler(lambda requests, context: b"")
        self.seen[method] += 1
        if self.seen[method] > self.refusals:
            return grpc.stream_unary_rpc_method_handler(lambda requests, context: ANSWERS.get(method, b""))
        return grpc.stream_unary_rpc_method_handler(self._refuse)

    def _refuse(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> None:
        if self.pushback is not None:
            context.set_trailing_metadata((("grpc-retry-pushback-ms", str(self.pushback)),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "not now")


@contextmanager
def refusing(refusals: int, retry: Any, pushback: int | None = None) -> Iterator[tuple[Any, Unwilling]]:
    unwilling = Unwilling(refusals, pushback)
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[unwilling])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with optserve.connect(f"127.0.0.1:{port}", retry=retry, timeout=20) as client:
        yield client, unwilling
    server.stop(None).wait(10)


def test_only_reads_of_the_contract_are_named() -> None:
    files = (session_service_pb2, function_service_pb2, capabilities_service_pb2)
    services = {s.full_name: s for file in files for s in file.DESCRIPTOR.services_by_name.values()}
    names = [name for method in load_service_config()["methodConfig"] for name in method["name"]]
    assert {name["service"] for name in names} == {*services, "grpc.health.v1.Health"}
    for name in names:
        service = services.get(name["service"])
        if service is not None and "method" in name:
            method = service.methods_by_name[name["method"]]
            assert name["method"].startswith(("Get", "List"))
            assert not method.client_streaming
            assert not method.server_streaming
            assert "request_id" not in method.input_type.fields_by_name
    whole = {name["service"] for name in names if "method" not in name}
    assert whole == {"optserve.v1.FunctionService", "optserve.v1.CapabilitiesService"}


def test_it_comes_with_the_client() -> None:
    data = tomllib.loads((CLIENT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "service_config.json" in data["optserve"]
    assert load_service_config() == json.loads((CLIENT.parents[1] / "proto/service_config.json").read_text())
    assert json.loads(make_service_config(retries=True)) == load_service_config()
    assert json.loads(make_service_config(retries=False)) == {
        "loadBalancingConfig": load_service_config()["loadBalancingConfig"],
        "methodConfig": [],
    }


def test_grpc_tries_reads_again_where_the_client_does_not() -> None:
    """Also those whose request is longer than what gRPC keeps by default."""
    with refusing(2, "grpc") as (client, unwilling):
        client.capabilities()
        client.activation(ReLU(), LARGE)
        assert unwilling.seen == {"GetCapabilities": 3, "ComputeActivation": 3}


def test_grpc_tries_no_change_again() -> None:
    with refusing(1, "grpc") as (client, unwilling):
        with pytest.raises(optserve.errors.Unavailable):
            client.create_session(VALUES, SGD())
        assert unwilling.seen == {"CreateSession": 1}


def test_attempts_of_both_are_not_multiplied() -> None:
    with refusing(100, Retry(attempts=4, initial=0.01)) as (client, unwilling):
        with pytest.raises(optserve.errors.Unavailable):
            client.capabilities()
        with pytest.raises(optserve.errors.Unavailable):
            client.create_session(VALUES, SGD())
        assert unwilling.seen == {"GetCapabilities": 4, "CreateSession": 4}


def test_once_is_once() -> None:
    with refusing(1, Retry(attempts=1)) as (client, unwilling):
        with pytest.raises(optserve.errors.Unavailable):
            client.capabilities()
        assert unwilling.seen == {"GetCapabilities": 1}


def test_grpc_waits_as_long_as_the_server_says() -> None:
    with refusing(1, "grpc", pushback=400) as (client, unwilling):
        began = time.monotonic()
        client.capabilities()
        assert time.monotonic() - began >= 0.4
        assert unwilling.seen == {"GetCapabilities": 2}


def test_the_server_says_so() -> None:
    """In words that gRPC itself reads, beside RetryInfo."""
    with running_server(max_concurrent_rpcs=1) as server, Client(server.address) as client:
        name = client.create(VALUES).name
        watching = client.sessions.WatchSession(
            session_service_pb2.WatchSessionRequest(name=name), timeout=20
        )
        next(watching)
        with pytest.raises(grpc.RpcError) as caught:
            client.get(name)
        told = dict(caught.value.trailing_metadata())
        watching.cancel()
    seconds = refusal(caught.value).retry_seconds
    assert seconds == 0.5
    assert told["grpc-retry-pushback-ms"] == "500"
