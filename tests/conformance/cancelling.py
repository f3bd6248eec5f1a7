"""A proxy that cancels calls, as a server does that goes away."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Iterator

from tests.integration.python_client.proxy import Pair, Proxy
from tests.support.http2 import CANCEL, HEADERS, PREFACE, RST_STREAM, frame

HEAD_BYTES = 9
"""Of a frame: length, kind, flags and stream."""


class CancellingProxy(Proxy):
    """Forwards HTTP/2 connections without TLS, frame by frame."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._incomplete: defaultdict[socket.socket, bytearray] = defaultdict(bytearray)
        self._last_call: dict[socket.socket, int] = {}
        self._cancelled: set[tuple[socket.socket, int]] = set()
        self._passing = threading.Lock()
        super().__init__(target)

    def cancel_calls(self) -> None:
        """Cancels the last call of every connection, at both ends; what is held back of it is lost."""
        with self._lock, self._passing:
            for pair in self._pairs:
                stream = self._last_call[pair.near]
                self._cancelled.add((pair.near, stream))
                for end in (pair.near, pair.far):
                    end.sendall(frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big")))

    def _pass(self, pair: Pair, sink: socket.socket, data: bytes) -> None:
        with self._passing:
            received = self._incomplete[sink]
            received += data
            for found in take_frames(received):
                kind, stream = found[3], int.from_bytes(found[5:HEAD_BYTES], "big")
                if sink is pair.far and kind == HEADERS and found != PREFACE:
                    self._last_call[pair.near] = stream
                if (pair.near, stream) not in self._cancelled or sink is pair.far:
                    sink.sendall(found)


def take_frames(received: bytearray) -> Iterator[bytes]:
    """Takes the complete frames from the beginning of a buffer, and the preface as if it were one."""
    while len(received) >= HEAD_BYTES:
        is_preface = PREFACE.startswith(received[:HEAD_BYTES])
        size = len(PREFACE) if is_preface else HEAD_BYTES + int.from_bytes(received[:3], "big")
        if len(received) < size:
            return
        yield bytes(received[:size])
        del received[:size]
