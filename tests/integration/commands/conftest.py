"""A server with TLS and tokens, and the command ``optserve`` that uses it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optserve
from optserve.commands.main import main
from tests.support.certificates import Authority
from tests.support.server import run_to_end, running_server


@dataclass(frozen=True)
class SecureServer:
    """A server that needs TLS and a token.

    Attributes:
        address: ``host:port``.
        folder: of its files.
        token: a bearer token.
    """

    address: str
    folder: Path
    token: str

    @property
    def ca(self) -> Path:
        """The authority of its certificate."""
        return self.folder / "ca.pem"

    def variables(self) -> dict[str, str]:
        """The environment of a command that uses it."""
        return {
            "OPTSERVE_SERVER": self.address,
            "OPTSERVE_TOKEN": self.token,
            "OPTSERVE_CA": str(self.ca),
            "XDG_CONFIG_HOME": str(self.folder / "no-contexts"),
        }


@dataclass(frozen=True)
class Ended:
    """A command that has ended: its exit status, standard output and standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run_command(*words: str) -> Ended:
    """Runs ``optserve`` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: Any = main(words)
        except SystemExit as ended:
            status = ended.code
    return Ended(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    folder, authority = tmp_path_factory.mktemp("secure"), Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    tokens = folder / "tokens.toml"
    token = run_to_end("token", f"--tokens-file={tokens}", "--namespace=alice").stdout.strip()
    files = {**authority.pair().write(folder), "tokens_file": tokens, "data_dir": folder / "data"}
    with running_server(**files) as server:
        yield SecureServer(server.address, folder, token)


@pytest.fixture
def run(secure: SecureServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ended]:
    """Runs a command against the server, in an empty folder."""
    for name, value in secure.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return run_command


@pytest.fixture
def session(secure: SecureServer) -> Iterator[optserve.SessionHandle]:
    """Two small tensors under plain gradient descent with rate 1."""
    credentials = optserve.tls.credentials(secure.ca)
    with optserve.connect(secure.address, token=secure.token, credentials=credentials) as client:
        initial = {"w": np.arange(3.0), "b": np.ones((2, 2), np.float32)}
        session = client.create_session(initial, optserve.optimizers.SGD(learning_rate=1.0))
        yield session
        with contextlib.suppress(optserve.errors.NotFound):
            session.delete()
