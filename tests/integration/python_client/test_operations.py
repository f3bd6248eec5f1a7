"""TLS, tokens, leases and events through the Python client, and the service config of others."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import optserve
from optserve.events import Began, Deleted, Pushed, Updated
from optserve.optimizers import SGD
from tests.integration.test_namespaces import token_for
from tests.support.certificates import Authority
from tests.support.server import RunningServer, running_server

VALUES = {"w": np.ones(4, np.float32)}


def test_mutual_tls_and_a_token(tmp_path: Path) -> None:
    """Every kind of call carries both."""
    authority = Authority()
    trusted, tokens = tmp_path / "authority.pem", tmp_path / "tokens.toml"
    trusted.write_bytes(authority.pem)
    token = token_for(tokens, "alice")
    own = authority.pair("alice").write(tmp_path, "client")
    settings = authority.pair().write(tmp_path) | {"tls_client_ca": trusted, "tokens_file": tokens}
    credentials = optserve.tls.credentials(trusted, own["tls_certificate"], own["tls_key"])
    with running_server(**settings) as server:
        with optserve.connect(server.address, credentials=credentials, token=token) as client:
            session = client.create_session(VALUES, SGD(learning_rate=0.5))
            assert session.step(VALUES).step == 1
            with session.stream() as stream:
                assert stream.step(VALUES).step == 2
            assert session.pull()["w"].tolist() == [0.0] * 4
            events: Any = session.watch()
            assert isinstance(next(events).what, Began)
            session.push(VALUES)
            assert next(events).what == Pushed(2)
            events.close()
        with optserve.connect(server.address, credentials=credentials) as client:
            with pytest.raises(optserve.errors.Unauthenticated) as caught:
                client.session(session.name)
            assert caught.value.reason is optserve.Reason.UNAUTHENTICATED


def test_a_certificate_goes_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        optserve.tls.credentials(certificate=tmp_path / "none.pem")


def test_events_until_the_lease_ends(server: RunningServer) -> None:
    lease = optserve.Lease(0.5, on_expiry=optserve.ExpiryAction.DELETE)
    with optserve.connect(server.address) as client:
        session = client.create_session(VALUES, SGD(learning_rate=0.5), lease=lease)
        assert session.spec.lease == lease
        events = session.watch()
        assert isinstance(next(events).what, Began)
        session.step(VALUES)
        session.update(optserve.SessionSpec(SGD(learning_rate=0.25), lease=lease))
        told = list(events)
        assert [type(event.what).__name__ for event in told] == ["StepResult", "Updated", "Deleted"]
        step, updated, deleted = (event.what for event in told)
        assert isinstance(step, optserve.StepResult)
        assert (step.step, told[0].dropped) == (1, 0)
        assert isinstance(updated, Updated)
        assert updated.session.spec.optimizer.learning_rate == 0.25  # type: ignore[attr-defined]
        assert deleted == Deleted(expired=True)
        with pytest.raises(optserve.errors.NotFound):
            next(session.watch())


def test_a_quota_is_a_typed_error(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    token = token_for(tokens, "bob")
    tokens.write_text(tokens.read_text() + "\n[namespaces.bob]\nmax_sessions = 1\n")
    with (
        running_server(tokens_file=tokens) as server,
        optserve.connect(server.address, token=token) as client,
    ):
        client.create_session(VALUES, SGD())
        with pytest.raises(optserve.errors.ResourceExhausted) as caught:
            client.create_session(VALUES, SGD())
        assert caught.value.reason is optserve.Reason.QUOTA_EXCEEDED
        assert caught.value.metadata["quota"] == "max_sessions"


def test_grpcs_own_refusal_of_too_many_calls_is_a_typed_error() -> None:
    """It has no details, and does not ask the client to retry."""
    with running_server(max_concurrent_rpcs=1) as server, grpc.insecure_channel(server.address) as channel:
        raw = channel.unary_stream(
            "/grpc.health.v1.Health/Watch", request_serializer=bytes, response_deserializer=bytes
        )
        waiting = [raw(b"", timeout=20) for _ in range(2)]
        for call in waiting:
            next(call)
        with optserve.connect(server.address) as client:
            with pytest.raises(optserve.errors.ResourceExhausted) as caught:
                client.capabilities()
            assert (caught.value.reason, caught.value.retry_after) == (None, None)
            for call in waiting:
                call.cancel()
            deadline = time.monotonic() + 10
            while True:
                try:
                    assert client.capabilities().backend == "numpy"
                    break
                except optserve.errors.ResourceExhausted:
                    assert time.monotonic() < deadline
