"""A TCP proxy on loopback that delays, holds back, or cuts what passes through it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

WAIT = 30.0
BLOCK = 65536


class Pair:
    """One connection of a client, and the one behind it to the server."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self._halved = False

    def cut(self) -> None:
        """Resets both connections."""
        for end in (self.near, self.far):
            _reset(end)

    def halve(self, near: bool) -> None:
        """Resets the client's connection or the server's; the other end gets no notice."""
        self._halved = True
        _reset(self.near if near else self.far)

    def on_end(self) -> None:
        """Passes on that one end was closed."""
        if not self._halved:
            self.cut()


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
    end.close()


class Proxy:
    """Forwards every connection to a server.

    ``answers`` is an event: while it is cleared, nothing goes back to the client, although the
    server sees all that the client sends; ``requests`` is the same for what clients send.
    ``upstream_budget`` and ``downstream_budget`` cut every connection once that many bytes have
    passed, and then allow any number again. While ``refuses`` is set, new connections are reset at
    once. ``upstream_bytes`` counts what clients have sent. ``delay`` is in seconds, for each block in
    either direction. It listens at ``at``, and may `forward` what comes to further addresses, or `route`
    it to another server. A connection that the server does not accept is reset.
    """

    def __init__(self, target: tuple[str, int], at: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self._listeners: list[socket.socket] = []
        self._targets: dict[socket.socket, tuple[str, int]] = {}
        self._pairs: list[Pair] = []
        self._lock = threading.Lock()
        self.answers = threading.Event()
        self.requests = threading.Event()
        self.delay = 0.0
        self.answers.set()
        self.requests.set()
        self.upstream_budget: int | None = None
        self.downstream_budget: int | None = None
        self.refuses = False
        self.cuts = self.upstream_bytes = 0
        self.forward(target, at)

    @property
    def address(self) -> str:
        """Where clients connect."""
        host, port = self._listeners[0].getsockname()
        return f"{host}:{port}"

    def forward(self, target: tuple[str, int], at: tuple[str, int]) -> None:
        """Forwards the connections of one more address."""
        listener = socket.create_server(at)
        self._listeners.append(listener)
        self._targets[listener] = target
        self._start(self._accept, listener)

    def route(self, target: tuple[str, int]) -> None:
        """Forwards what comes to the first address to another server; the connections so far are reset."""
        self._targets[self._listeners[0]] = target
        self.cut()

    def cut(self) -> None:
        """Resets every connection; new ones are accepted."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        self.cuts += 1
        for pair in pairs:
            pair.cut()

    def halve(self) -> None:
        """Resets one end of each connection, of every other one the client's; `cut` resets the rest."""
        with self._lock:
            for number, pair in enumerate(self._pairs):
                pair.halve(near=number % 2 == 0)

    def close(self) -> None:
        """Ends the proxy."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # or a thread that waits in it keeps its address
            listener.close()
        self.answers.set()
        self.requests.set()
        self.cut()

    def _start(self, target: object, *args: object) -> None:
        threading.Thread(target=target, args=args, daemon=True).start()  # type: ignore[arg-type]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                pair = Pair(near, socket.create_connection(self._targets[listener]))
            except OSError:
                _reset(near)
                continue
            if self.refuses:
                pair.cut()
                continue
            with self._lock:
                self._pairs.append(pair)
            self._start(self._upstream, pair)
            self._start(self._downstream, pair)

    def _upstream(self, pair: Pair) -> None:
        self._carry(pair, pair.near, pair.far, self.requests, "upstream_budget")

    def _downstream(self, pair: Pair) -> None:
        self._carry(pair, pair.far, pair.near, self.answers, "downstream_budget")

    def _carry(
        self, pair: Pair, source: socket.socket, sink: socket.socket, gate: threading.Event, budget: str
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(BLOCK):
                time.sleep(self.delay)
                if not gate.wait(WAIT):
                    break
                self._pass(pair, sink, data)
                if source is pair.near:
                    self.upstream_bytes += len(data)
                self._count(budget, len(data))
        pair.on_end()

    def _pass(self, pair: Pair, sink: socket.socket, data: bytes) -> None:
        sink.sendall(data)

    def _count(self, budget: str, byte_count: int) -> None:
        """Cuts when the bytes that may pass in a direction have passed."""
        left = getattr(self, budget)
        if left is None:
            return
        left -= byte_count
        setattr(self, budget, left if left > 0 else None)
        if left <= 0:
            self.cut()


@contextlib.contextmanager
def running_proxy(target: tuple[str, int], at: tuple[str, int] = ("127.0.0.1", 0)) -> Iterator[Proxy]:
    """A proxy for as long as the block lasts."""
    proxy = Proxy(target, at)
    try:
        yield proxy
    finally:
        proxy.close()
