"""TLS with real certificates: which clients are accepted, and the replacement of certificates."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509

from optserve.v1.capabilities_service_pb2 import GetCapabilitiesRequest
from optserve_server.rpc.authentication import tokens
from tests.integration.client import Client
from tests.integration.test_operations import samples
from tests.support.certificates import Authority
from tests.support.server import run_to_end, running_server
from tests.support.watching import wait_until

VALUES = {"w": np.ones(4, np.float32)}


def reaches(
    address: str, credentials: grpc.ChannelCredentials | None = None, token: str | None = None
) -> bool:
    """Whether a new connection can be made and used."""
    with Client(address, credentials, token) as client:
        try:
            client.capabilities.GetCapabilities(GetCapabilitiesRequest(), timeout=5)
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE
        return True


def test_tls_lets_in_who_trusts_the_authority(tmp_path: Path) -> None:
    authority, other = Authority(), Authority()
    with running_server(**authority.pair().write(tmp_path)) as server:
        assert reaches(server.address, authority.credentials())
        assert not reaches(server.address, other.credentials())
        assert not reaches(server.address)
        with Client(server.address, authority.credentials()) as client:
            session = client.create(VALUES)
            assert client.step(session.name, VALUES).result.step == 1
            assert client.pull(session.name)["w"].tolist() == [0.5] * 4


def test_mutual_tls_asks_for_a_certificate_of_its_authority(tmp_path: Path) -> None:
    servers, clients, strangers = Authority(), Authority(), Authority()
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(clients.pem)
    with running_server(**servers.pair().write(tmp_path), tls_client_ca=trusted) as server:
        assert reaches(server.address, servers.credentials(clients.pair("alice")))
        assert not reaches(server.address, servers.credentials())
        assert not reaches(server.address, servers.credentials(strangers.pair("mallory")))


def test_certificates_are_read_again_when_they_change(tmp_path: Path) -> None:
    """Open connections go on; new ones get the new certificate."""
    old, new = Authority("old"), Authority("new")
    paths = old.pair().write(tmp_path)
    with running_server(**paths) as server, Client(server.address, old.credentials()) as client:
        session = client.create(VALUES)
        new.pair().write(tmp_path)
        assert reaches(server.address, new.credentials())
        assert not reaches(server.address, old.credentials())
        assert client.step(session.name, VALUES).result.step == 1


def test_certificates_that_cannot_be_used_are_not_taken(tmp_path: Path) -> None:
    """A certificate that came before its key, and no certificate at all."""
    authority = Authority()
    paths = authority.pair().write(tmp_path)
    with running_server(**paths) as server:
        paths["tls_certificate"].write_bytes(authority.pair().certificate)
        assert reaches(server.address, authority.credentials())
        paths["tls_certificate"].unlink()
        assert reaches(server.address, authority.credentials())
        told = [line["message"] for line in server.log() if line["level"] == "error"]
        assert len(told) == 2
        assert all(text.startswith("the certificates stay as they were: ") for text in told)
        newer = Authority()
        newer.pair().write(tmp_path)
        assert reaches(server.address, newer.credentials())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_without_tls_a_server_stays_on_loopback(host: str) -> None:
    ended = run_to_end("--host", host, "--port=0")
    assert ended.returncode == 2
    assert "--allow-plaintext-beyond-loopback=yes" in ended.stderr
    assert "others can listen in" in ended.stderr


def test_beyond_loopback_without_tls_when_told_so() -> None:
    with running_server(host="0.0.0.0", allow_plaintext_beyond_loopback="yes") as server:
        assert reaches(server.address)


def test_beyond_loopback_with_tls(tmp_path: Path) -> None:
    authority = Authority()
    with running_server(host="0.0.0.0", **authority.pair().write(tmp_path)) as server:
        assert reaches(server.address, authority.credentials())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tls-key=nowhere"], "TLS needs tls_certificate and tls_key"),
        (["--tls-client-ca=nowhere"], "TLS needs tls_certificate and tls_key"),
        (["--tls-certificate=nowhere", "--tls-key=nowhere"], "cannot use nowhere with nowhere: "),
        (["--tcp=no"], "nowhere to listen"),
    ],
)
def test_settings_of_tls_that_cannot_be_used(arguments: list[str], told: str) -> None:
    ended = run_to_end(*arguments)
    assert (ended.returncode, told in ended.stderr) == (2, True), ended.stderr


def test_a_unix_socket_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with running_server(unix_socket=path) as server, Client(f"unix:{path}") as client:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        session = client.create(VALUES)
        with Client(server.address) as other:
            assert other.get(session.name).step == 0
    with running_server(unix_socket=path, tcp="no"):
        assert reaches(f"unix:{path}")


@pytest.mark.parametrize(("days", "level"), [(20, "warning"), (-1, "error")])
def test_the_expiry_of_a_certificate_is_seen(tmp_path: Path, days: int, level: str) -> None:
    authority = Authority()
    pair = authority.pair(days=days)
    expiry = x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc
    with running_server(**pair.write(tmp_path), metrics_port=0) as server:
        wait_until(lambda: any("certificate" in line["message"] for line in server.log()))
        (line,) = [line for line in server.log() if "certificate" in line["message"]]
        assert (line["level"], line["expiry"]) == (level, expiry.isoformat())
        found = samples(server)["optserve_certificate_expiry_timestamp_seconds", ""]
        assert found == expiry.timestamp()


@pytest.mark.parametrize("secret", ["tls_key", "tokens_file"])
def test_secrets_that_every_user_may_read_are_refused(tmp_path: Path, secret: str) -> None:
    paths: dict[str, Any] = Authority().pair().write(tmp_path) | {"tokens_file": tmp_path / "tokens.toml"}
    tokens.add_token(paths["tokens_file"], "alice", "alice")
    paths[secret].chmod(0o644)
    with pytest.raises(RuntimeError, match=f"{paths[secret]} .mode 0644.") as caught, running_server(**paths):
        pass
    assert "allow_world_readable_secrets" in str(caught.value)
    with running_server(**paths, allow_world_readable_secrets="yes"):
        pass
    paths[secret].chmod(0o640)
    with running_server(**paths):
        pass


def test_a_token_file_that_becomes_world_readable_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    first = tokens.add_token(path, "alice", "alice")
    with running_server(tokens_file=path) as server:
        path.chmod(0o644)
        wait_until(lambda: any("the tokens stay as they were" in line["message"] for line in server.log()))
        with Client(server.address, token=first) as client:
            client.create(VALUES)
        path.chmod(0o600)
        wait_until(lambda: any("tokens read again" in line["message"] for line in server.log()))
