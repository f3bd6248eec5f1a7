"""gRPC without its event engine: over each transport, with fork and shutdown; and who chooses it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.server import running_server

TRACE = {"GRPC_VERBOSITY": "debug", "GRPC_TRACE": "tcp"}
"""Has gRPC log each read and write with the source file that does it."""

CHOSEN = "GRPC_EXPERIMENTS"

CLIENT = """
import os, sys
import numpy as np
import optserve

assert os.environ.get("GRPC_EXPERIMENTS", "event_engine_client") == "event_engine_client"  # not ours

def train(steps):
    credentials = optserve.tls.credentials(sys.argv[2]) if sys.argv[2:] else None
    options = {"shared_memory": False, "data_connections": False, "timeout": 20}
    client = optserve.connect(sys.argv[1], credentials=credentials, **options)
    rule = optserve.optimizers.Momentum(learning_rate=1, momentum=0)
    session = client.create_session({"w": np.zeros(10_000, np.float32)}, rule)
    with session.stream(pull=True) as stream:
        for step in range(1, steps + 1):
            values = stream.step({"w": np.ones(10_000, np.float32)}).parameters
            assert (values["w"] == -step).all(), step
            yield
    client.close()

training = train(6)
for _ in range(3):
    next(training)
child = os.fork()
if child == 0:  # beside an open stream of its parent, with a channel of its own
    for _ in train(2):
        pass
    os._exit(0)
for _ in training:
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def uses_event_engine(log: str) -> bool:
    """Whether gRPC's input and output were done by its event engine, in a log with `TRACE`."""
    files = set(re.findall(r"\b(endpoint|tcp_posix)\.cc:", log))
    assert len(files) == 1, files
    return files == {"endpoint"}


def train(*arguments: str, before: str = "", **variables: str) -> str:
    """Runs `CLIENT` to its end, behind other statements; returns its log."""
    environment = {name: value for name, value in os.environ.items() if name != CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", before + CLIENT, *arguments],
        env={**environment, **TRACE, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.mark.parametrize("transport", ["tcp", "tls", "unix"])
def test_neither_side_uses_the_event_engine(transport: str, tmp_path: Path) -> None:
    flags: dict[str, object] = {}
    authority = Authority()
    certificate = tmp_path / "authority.pem"
    certificate.write_bytes(authority.pem)
    if transport == "tls":
        flags |= authority.pair().write(tmp_path)
    elif transport == "unix":
        flags["unix_socket"] = tmp_path / "socket"
    with running_server(variables=TRACE, **flags) as server:
        address = f"unix:{tmp_path}/socket" if transport == "unix" else server.address
        log = train(address, *([str(certificate)] if transport == "tls" else []))
        assert not uses_event_engine(log)
        assert server.stop() == 0
        assert not uses_event_engine(server.log_path.read_text())


def test_the_users_choice_counts() -> None:
    """A setting of the server, and ``GRPC_EXPERIMENTS`` in the environment of either."""
    chosen = {CHOSEN: "event_engine_client"}
    with running_server(variables=TRACE, grpc_event_engine="yes") as server:
        assert uses_event_engine(train(server.address, **chosen))
        assert server.stop() == 0
        assert uses_event_engine(server.log_path.read_text())
    with running_server(variables={**TRACE, CHOSEN: ""}, grpc_event_engine="no") as server:
        assert not uses_event_engine(train(server.address))
        assert server.stop() == 0
        assert uses_event_engine(server.log_path.read_text())


def test_an_imported_grpc_is_left_alone() -> None:
    with running_server() as server:
        assert uses_event_engine(train(server.address, before="import grpc\n"))
