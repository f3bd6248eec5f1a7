"""Hostile peers: what they do to a server's transport, in a process of their own.

``python -m chaos.hostile_peers ADDRESS COUNT SEED [SESSION]`` runs them until its standard input
ends, and prints how often each did what it does as a JSON object.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random

from chaos import child_process
from optserve.v1 import session_service_pb2 as pb
from tests.support.http2 import CANCEL, DATA, END_STREAM, RST_STREAM, Http2, call_headers, frame, message

SESSIONS = "/optserve.v1.SessionService/"
HEALTH = "/grpc.health.v1.Health/"
PAUSE_S = 1.0
"""Between two attacks of a peer, at most."""

ENDLESS_BYTES = 1 << 20
"""Length of a request that never ends."""

ADDRESSES = 64
"""Addresses that they come from, none of which is that of honest clients."""

MAX_KEPT = 10
"""Connections that a peer keeps open."""


class Attacker:
    """One hostile peer.

    Args:
        address: of the server.
        session: name of a session whose parameters it pulls and does not read.
        random: draws what it does.
    """

    def __init__(self, address: str, session: str, random: Random) -> None:
        self._address, self._session, self.random = address, session, random
        self._kept: list[Http2] = []

    def run(self, over: threading.Event) -> Counter[str]:
        """Attacks until it is over, each kind before any comes again, and at least once.

        Returns:
            How often by kind.
        """
        done: Counter[str] = Counter()
        all_kinds: list[Callable[[], None]] = [
            self.reset_calls,
            self.keep_silent,
            self.send_without_token,
            self.read_nothing,
            self.watch_health,
            self.send_endless_request,
        ]
        kinds: list[Callable[[], None]] = []
        while len(done) < len(all_kinds) or not over.is_set():
            over.wait(self.random.uniform(0, PAUSE_S))
            kinds = kinds or self.random.sample(all_kinds, len(all_kinds))
            kind = kinds.pop()
            with contextlib.suppress(OSError):  # the server has closed the connection, or takes no more
                kind()
            done[kind.__name__.replace("_", " ")] += 1
            while len(self._kept) > MAX_KEPT:
                self._kept.pop(0).close()
        for connection in self._kept:
            connection.close()
        return done

    def reset_calls(self) -> None:
        """Begins and cancels calls."""
        with self._connect() as connection:
            for first in range(0, self.random.randrange(50, 1000), 50):
                connection.send(
                    b"".join(
                        call_headers(number, SESSIONS + "Step")
                        + frame(RST_STREAM, 0, number, CANCEL.to_bytes(4, "big"))
                        for number in range(1 + 2 * first, 101 + 2 * first, 2)
                    )
                )

    def keep_silent(self) -> None:
        """Connects, and sends nothing, or no call."""
        self._kept.append(self._connect(speaks=self.random.random() < 0.5))

    def send_without_token(self) -> None:
        """Makes calls with a token that does not exist."""
        with self._connect() as connection:
            for number in range(1, 2 * self.random.randrange(10, 100), 2):
                headers = call_headers(number, SESSIONS + "ListSessions", authorization="Bearer wrong")
                connection.send(headers + frame(DATA, END_STREAM, number, message(0)))

    def read_nothing(self) -> None:
        """Pulls parameters, and opens no window for them."""
        connection = self._keep()
        request = pb.PullParametersRequest(name=self._session).SerializeToString()
        for number in (1, 3):
            headers = call_headers(number, SESSIONS + "PullParameters")
            body = message(len(request), request)
            connection.socket.sendall(headers + frame(DATA, END_STREAM, number, body))

    def watch_health(self) -> None:
        """Watches the server's health many times."""
        connection = self._keep()
        for number in range(1, 2 * self.random.randrange(10, 100), 2):
            body = frame(DATA, END_STREAM, number, message(0))
            connection.send(call_headers(number, HEALTH + "Watch") + body)

    def send_endless_request(self) -> None:
        """Announces a request, and stops before its end."""
        connection = self._keep()
        connection.send(call_headers(1, self.random.choice([HEALTH + "Check", SESSIONS + "Step"])))
        connection.send_body(1, message(ENDLESS_BYTES, bytes(ENDLESS_BYTES - 1)), patience=0.2)

    def _connect(self, *, speaks: bool = True) -> Http2:
        """A connection from one of the peers' addresses, which the server may have blocked."""
        source = f"127.0.1.{self.random.randrange(1, ADDRESSES + 1)}"
        return Http2(self._address, speaks=speaks, source=source, seconds=1.0)

    def _keep(self) -> Http2:
        connection = self._connect()
        self._kept.append(connection)
        return connection


@contextlib.contextmanager
def hostile_peers(address: str, count: int, seed: int, session: str = "") -> Iterator[Counter[str]]:
    """Attacks a server until the block ends.

    Args:
        address: of the server.
        count: peers.
        seed: of what they do.
        session: name of a session whose parameters they pull.

    Yields:
        How often by kind, which is filled when the block has ended.
    """
    done: Counter[str] = Counter()
    process = child_process.start("chaos.hostile_peers", address, count, seed, session)
    try:
        yield done
    finally:
        told = child_process.end(process)
    assert process.returncode == 0, f"the hostile peers ended with {process.returncode}"
    done.update(json.loads(told))


def main() -> None:
    """Attacks until the standard input ends."""
    address, count, seed, session = sys.argv[1:5]
    over = threading.Event()
    with ThreadPoolExecutor(max(1, int(count))) as pool:
        peers = [Attacker(address, session, Random(int(seed) + number)) for number in range(int(count))]
        running = [pool.submit(peer.run, over) for peer in peers]
        sys.stdin.read()
        over.set()
        print(json.dumps(sum((one.result() for one in running), Counter[str]())))


if __name__ == "__main__":
    main()
