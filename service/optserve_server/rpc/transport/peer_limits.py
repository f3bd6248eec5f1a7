"""Limits of each peer at gRPC's port: its connections, and the calls that it resets.

gRPC bounds connections and calls of all peers together. One peer alone could therefore shut the
others out. What a peer holds is counted in the kernel's list of connections, and a peer that exceeds a
limit is blocked: the kernel drops its new connections for a while.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from optserve_server.resources.descriptors import (
    AcceptedConnection,
    count_open_descriptors,
    duplicate_listeners,
    list_accepted,
    shut_down,
)
from optserve_server.rpc.transport.accept_filter import (
    MAX_ADDRESSES,
    drop_new_connections,
    network_text,
    peer_network,
)

CHECK_INTERVAL_S = 0.1
"""Between two counts of connections."""

RESETS_PER_SECOND = 200.0
"""Calls that a peer may reset in the long run."""

RESET_BURST = 4000
"""Calls that a peer may reset at once."""

RESETS_OF_CONNECTION = 250
"""Resets of a connection from which on it is closed when its peer is blocked."""

RESET_AGE_S = 1.0
"""Age of a call below which its cancellation is a reset."""

BLOCK_S = 30.0
"""Seconds for which a peer that resets more calls is blocked."""

LOG_INTERVAL_S = 1.0
"""Seconds between two log lines of peers that are blocked."""

MAX_COUNTED_PEERS = 10_000
"""Peers whose resets are counted; those that reset least recently are forgotten."""

_log = logging.getLogger(__name__)


class ResetCounter:
    """Resets of one peer.

    Attributes:
        ports: how many each of its connections sent, by its port.
    """

    def __init__(self) -> None:
        self._left, self._then = float(RESET_BURST), time.monotonic()
        self.ports: Counter[int] = Counter()

    def add(self, port: int) -> bool:
        """Counts a reset; whether it is one too many."""
        now = time.monotonic()
        self._left = min(float(RESET_BURST), self._left + (now - self._then) * RESETS_PER_SECOND)
        if self._left == RESET_BURST:
            self.ports.clear()
        self._then = now
        self._left -= 1
        self.ports[port] += 1
        return self._left < 0


class PeerLimits:
    """Blocks peers with too many connections or resets. A peer is an IPv4 address, or an IPv6 /64.

    Args:
        max_connections: connections of one peer; 0 for no limit.

    Attributes:
        closed: connections that were closed, by cause: connections or resets.
    """

    def __init__(self, max_connections: int) -> None:
        self._most = max_connections
        self._port = 0
        self._listeners: list[socket.socket] = []
        self._known: dict[tuple[str, int], None] = {}  # those of the last count, oldest first
        self._resets: dict[bytes, ResetCounter] = {}  # least recent resets first
        self._full: set[bytes] = set()
        self._until: dict[bytes, float] = {}
        self._dropped: set[bytes] = set()
        self._logged = -LOG_INTERVAL_S
        self.closed: Counter[str] = Counter({"connections": 0, "resets": 0})

    @property
    def blocked_count(self) -> int:
        """Peers whose new connections are dropped."""
        return len(self._dropped)

    def start(self, port: int) -> None:
        """Limits the peers of a port that is listening from now on."""
        self._port, self._listeners = port, duplicate_listeners(port)

    def close(self) -> None:
        """Limits no more."""
        while self._listeners:
            self._listeners.pop().close()

    async def run(self) -> None:
        """Keeps peers within their limits until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self._check_connections()
            except Exception:
                _log.exception("defect while connections were counted")

    def count_cancelled(self, peer: str, age_s: float) -> None:
        """Counts a call that its client has cancelled, and blocks the client if these are too many.

        Args:
            peer: of the call, as gRPC names it.
            age_s: of the call.
        """
        host, port = _parse_peer(peer)
        if age_s > RESET_AGE_S or not host:
            return
        network = peer_network(host)
        counter = self._resets.pop(network, None) or ResetCounter()
        self._resets[network] = counter
        if len(self._resets) > MAX_COUNTED_PEERS:
            del self._resets[next(iter(self._resets))]
        if not counter.add(port):
            return
        if network not in self._until:
            self._until[network] = time.monotonic() + BLOCK_S
            self._apply_blocks()
            guilty = {p for p, count in counter.ports.items() if count >= RESETS_OF_CONNECTION}
            self._close((c for c in list_accepted(self._port) if c.peer[1] in guilty), "resets")
        elif counter.ports[port] == RESETS_OF_CONNECTION:
            self._close((c for c in list_accepted(self._port) if c.peer[1] == port), "resets")

    async def _check_connections(self) -> None:
        now = time.monotonic()
        self._until = {network: until for network, until in self._until.items() if until > now}
        full: set[bytes] = set()
        # Unless more descriptors are open, no peer has more connections.
        if self._most and count_open_descriptors() > self._most:
            accepted = await asyncio.to_thread(list_accepted, self._port)
            full = self._close_excess(accepted)
        self._full = full
        self._apply_blocks()

    def _close_excess(self, accepted: Sequence[AcceptedConnection]) -> set[bytes]:
        """Closes the newest connections of peers that have too many; returns those that may not have more."""
        of_peers: defaultdict[bytes, list[AcceptedConnection]] = defaultdict(list)
        ages = {peer: age for age, peer in enumerate(self._known)}
        for connection in sorted(accepted, key=lambda one: ages.get(one.peer, len(ages))):
            of_peers[peer_network(connection.peer[0])].append(connection)
        kept = {network: found[: self._most] for network, found in of_peers.items()}
        self._known = {one.peer: None for found in kept.values() for one in found}
        for found in of_peers.values():
            self._close(found[self._most :], "connections")
        return {network for network, found in of_peers.items() if len(found) >= self._most}

    def _close(self, connections: Iterable[AcceptedConnection], cause: str) -> None:
        self.closed[cause] += sum(map(shut_down, connections))

    def _apply_blocks(self) -> None:
        """Lets the kernel drop new connections of all peers that are blocked."""
        blocked = set([*self._until, *self._full][:MAX_ADDRESSES])
        added = blocked - self._dropped
        if blocked == self._dropped:
            return
        self._dropped = blocked
        now = time.monotonic()
        if added and now >= self._logged + LOG_INTERVAL_S:
            self._logged = now
            peers = {network_text(one): "resets" if one in self._until else "connections" for one in added}
            _log.warning("new connections of peers are dropped", extra={"facts": {"peers": peers}})
        for listener in self._listeners:
            try:
                drop_new_connections(listener, blocked)
            except OSError as error:
                _log.warning("connections cannot be dropped: %s", error)


def _parse_peer(peer: str) -> tuple[str, int]:
    """Address and port of a peer; an empty address if it has none, as over a Unix socket."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return "", 0
    host, _, port = rest.rpartition(":")
    return host.strip("[]"), int(port)
