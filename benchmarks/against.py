"""Steps of this revision beside those of an earlier one: both servers run, and their clients take turns.

The earlier revision is extracted from the repository. Its server and its clients are processes of
their own that import its packages; the program of the clients (`benchmarks.contenders.ours`) and the
installed libraries are the same.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bounds import EARLIER, SIZES
from benchmarks.contenders.remote import ROOT, Remote, contender
from benchmarks.end_to_end import agree, reference
from benchmarks.options import Options
from benchmarks.results import Finding
from benchmarks.timing import interleave
from tests.support.server import running_server

GROUP = "against"
SMALL = 10_000
TRANSPORTS = {"gRPC": "grpc", "data connection": "data", "shared memory": "shared"}


@dataclass(frozen=True)
class Server:
    """A server of one revision.

    Attributes:
        address: host and port.
        variables: environment variables of its clients, which make them import the same revision.
    """

    address: str
    variables: Mapping[str, str]


def run(options: Options) -> Iterator[Finding]:
    """Steps per second, and their ratio to the earlier revision's."""
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as folder:  # journals are to be on a disk
        revisions: dict[str, Mapping[str, str]] = {
            "": {},
            EARLIER: extract(options.against, Path(folder, "revision").resolve()),
        }
        with _servers(revisions) as servers:
            for n in options.sizes_of(SIZES):
                for transport, over in TRANSPORTS.items():
                    calls = ("stream", "pipelined", "handle")
                    yield from _compare(f"{transport}, ", calls, over, servers, n, options)
                yield from _data_connection(servers[""], n, options)
            yield from _compare("", ("unary",), "grpc", servers, SMALL, options)
        with _servers(revisions, Path(folder)) as servers:
            yield from _compare("journalled, ", ("stream",), "data", servers, SMALL, options)


def extract(revision: str, folder: Path) -> Mapping[str, str]:
    """Extracts a revision into a folder.

    Returns:
        The environment variables with which Python imports its packages.

    Raises:
        subprocess.CalledProcessError: this is no repository, or it has no such revision.
    """
    command = ["git", "archive", revision, "service", "clients/python/src"]
    archive = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    paths = (folder / "service", folder / "clients/python/src")
    return {"PYTHONPATH": os.pathsep.join(map(str, paths))}


@contextlib.contextmanager
def _servers(
    revisions: Mapping[str, Mapping[str, str]], folder: Path | None = None
) -> Iterator[Mapping[str, Server]]:
    """Runs a server of each revision; with a journal each if there is a folder."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, variables in revisions.items():
            flags: dict[str, Any] = {} if folder is None else {"data_dir": folder / f"data of {name}"}
            server = stack.enter_context(running_server("numba", variables=variables, **flags))
            servers[name] = Server(server.address, variables)
        yield servers


def _compare(
    prefix: str,
    calls: Sequence[str],
    over: str,
    servers: Mapping[str, Server],
    n: int,
    options: Options,
) -> Iterator[Finding]:
    """Each kind of call by both revisions in turn; `SessionHandle.step` also beside the stream's steps."""
    with contextlib.ExitStack() as stack:
        remotes = {
            f"{prefix}{call}{name}": stack.enter_context(
                _client(server, n, f"--over={over}", f"--call={call}")
            )
            for call in calls
            for name, server in servers.items()
        }
        expected = reference(n)
        for remote in remotes.values():
            agree(remote.check(), expected, 1e-5)
        timed = {name: remote.time_steps for name, remote in remotes.items()}
        times = interleave(timed, options.rounds, options.seconds)
    for call in calls:
        yield from times.rates(GROUP, f"{prefix}{call}", n, "steps/s", 1, f"{prefix}{call}{EARLIER}", EARLIER)
    if "handle" in calls:
        yield from times.rates(GROUP, f"{prefix}handle", n, "steps/s", 1, f"{prefix}stream")


def _data_connection(server: Server, n: int, options: Options) -> Iterator[Finding]:
    """A stream over a data connection beside one over gRPC."""
    with contextlib.ExitStack() as stack:
        timed = {
            name: stack.enter_context(_client(server, n, f"--over={TRANSPORTS[name]}")).time_steps
            for name in ("data connection", "gRPC")
        }
        times = interleave(timed, options.rounds, options.seconds)
    yield from times.rates(GROUP, "data connection", n, "steps/s", 1, "gRPC")


def _client(server: Server, n: int, *arguments: str) -> contextlib.AbstractContextManager[Remote]:
    return contender("ours", n, "--at", server.address, *arguments, **server.variables)
