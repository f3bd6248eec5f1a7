"""A server that is killed and starts again on its journal, behind a proxy that cuts connections."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from optserve_server.storage.failpoints import VARIABLE
from tests.integration.client import Client
from tests.integration.python_client.proxy import Proxy
from tests.support.server import RunningServer, run_to_end, running_server

KILL_SECONDS = 60.0
"""Bound on the time until a server comes to its failpoint."""


class Killable:
    """A server with one data directory and one token, behind a proxy that keeps its address.

    Args:
        root: an empty directory.

    Attributes:
        token: what its clients need.
        proxy: where they connect.
        server: the process that runs now.
        kills: how many were killed.
    """

    def __init__(self, root: Path) -> None:
        self._settings = {"data_dir": root / "data", "tokens_file": root / "tokens.toml"}
        made = run_to_end(
            "token", f"--tokens-file={root / 'tokens.toml'}", "--namespace=alice", "--name=transcript"
        )
        assert made.returncode == 0, made.stderr
        self.token = made.stdout.strip()
        self.kills = 0
        self._life = contextlib.ExitStack()
        self.server = self._begin("")
        self.proxy = Proxy(self.target)

    def restart(self, failpoint: str = "", port: int = 0) -> None:
        """Kills the server, and starts the next one; returns when that one listens.

        Args:
            failpoint: where that one kills itself, ``name:count``; nowhere when empty.
            port: where it listens; at any free one when 0.
        """
        self.server.process.kill()
        self._follow(failpoint, port)

    @contextlib.contextmanager
    def starting_again(self, failpoint: str = "") -> Iterator[threading.Event]:
        """Starts the next server as soon as this one has killed itself, which it does within the block.

        Yields:
            What is set when the next one runs.

        Raises:
            AssertionError: it did not kill itself, or the next one did not start.
        """
        again, failures = threading.Event(), []

        def follow() -> None:
            try:
                self.server.process.wait(KILL_SECONDS)
                self._follow(failpoint)
            except Exception as error:
                failures.append(error)
            again.set()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield again
        except BaseException:
            self.server.process.kill()  # or the thread waits for nothing
            raise
        finally:
            thread.join()
        assert not failures, f"the server was not killed, or did not start again: {failures[0]!r}"

    def client(self) -> Client:
        """A client of the server itself, by generated stubs, which meets no faults."""
        return Client(self.server.address, token=self.token)

    def close(self) -> None:
        """Ends server and proxy."""
        self.proxy.close()
        self._life.close()

    @property
    def target(self) -> tuple[str, int]:
        """Where the server listens."""
        host, port = self.server.address.rsplit(":", 1)
        return host, int(port)

    def _follow(self, failpoint: str, port: int = 0) -> None:
        status = self.server.process.wait(KILL_SECONDS)
        assert status == -signal.SIGKILL, (
            f"the server ended with {status}:\n{self.server.log_path.read_text()}"
        )
        self.kills += 1
        self.server = self._begin(failpoint, port)
        self.proxy.route(self.target)

    def _begin(self, failpoint: str, port: int = 0) -> RunningServer:
        self._life.close()
        variables = {VARIABLE: failpoint} if failpoint else {}
        flags = {**self._settings, "port": port}
        return self._life.enter_context(running_server("numpy", variables=variables, **flags))
