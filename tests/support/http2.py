"""HTTP/2 by hand: what a gRPC client library would not send."""

from __future__ import annotations

import select
import socket
import struct
import time
from types import TracebackType
from typing import Self

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE = 0, 1, 3, 4, 8
INITIAL_WINDOW_SIZE = 4
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = 8
SECONDS = 20.0
"""Bound on every wait."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def fields(**headers: str) -> bytes:
    """Header fields without compression; ``__`` begins the name of a pseudo-header."""
    encoded = b""
    for key, value in headers.items():
        name = key.replace("__", ":").replace("_", "-").encode()
        encoded += bytes([0, len(name)]) + name + bytes([len(value)]) + value.encode()
    return encoded


def call_headers(stream: int, method: str, **more: str) -> bytes:
    """The frame that begins a gRPC call."""
    content = "application/grpc"
    pseudo = {"__method": "POST", "__scheme": "http", "__path": method, "__authority": "localhost"}
    return frame(HEADERS, END_HEADERS, stream, fields(**pseudo, content_type=content, te="trailers", **more))


def message(length: int, data: bytes = b"") -> bytes:
    """The beginning of a gRPC message that announces ``length`` bytes."""
    return struct.pack(">BI", 0, length) + data


class Http2:
    """A connection that sends any frames.

    Args:
        address: of the server.
        speaks: whether it greets the server; a silent one only connects.
        source: address to connect from; the system's choice if it is empty.
        seconds: to wait for the connection.
    """

    def __init__(
        self, address: str, *, speaks: bool = True, source: str = "", seconds: float = SECONDS
    ) -> None:
        host, _, port = address.rpartition(":")
        bound = (source, 0) if source else None
        self.socket = socket.create_connection((host, int(port)), seconds, bound)
        self.socket.settimeout(SECONDS)
        self._received = bytearray()
        self._initial = 65535
        self._window = 65535
        self._windows: dict[int, int] = {}
        if speaks:
            self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def send(self, data: bytes) -> None:
        """Sends frames, and reads what has come, so that the server can go on writing."""
        self.is_open()
        self.socket.sendall(data)

    def send_body(self, stream: int, data: bytes, patience: float = 1.0) -> int:
        """Sends the bytes of a message as far as the server's windows allow.

        Args:
            stream: of the call, whose headers were sent.
            data: the bytes.
            patience: seconds to wait for a window.

        Returns:
            How many bytes were sent.
        """
        sent, until = 0, time.monotonic() + patience
        while sent < len(data) and time.monotonic() < until:
            if not self.is_open():
                break
            room = min(self._window, self._initial + self._windows.get(stream, 0), 16384, len(data) - sent)
            if room <= 0:
                select.select([self.socket], [], [], 0.05)
                continue
            self.socket.sendall(frame(DATA, 0, stream, data[sent : sent + room]))
            self._window -= room
            self._windows[stream] = self._windows.get(stream, 0) - room
            sent, until = sent + room, time.monotonic() + patience
        return sent

    def is_open(self) -> bool:
        """Reads what has come; returns whether the server has not closed the connection yet."""
        try:
            while select.select([self.socket], [], [], 0)[0]:
                part = self.socket.recv(1 << 16)
                if not part:
                    return False
                self._received += part
                self._read_frames()
        except OSError:
            return False
        return True

    def _read_frames(self) -> None:
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + length:
                return
            kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
            payload = bytes(self._received[9 : 9 + length])
            del self._received[: 9 + length]
            if kind == SETTINGS and not flags & ACK:
                for at in range(0, length, 6):
                    key, value = struct.unpack(">HI", payload[at : at + 6])
                    if key == INITIAL_WINDOW_SIZE:
                        self._initial = value
                self.socket.sendall(frame(SETTINGS, ACK, 0))
            elif kind == WINDOW_UPDATE and stream == 0:
                self._window += int.from_bytes(payload, "big")
            elif kind == WINDOW_UPDATE:
                self._windows[stream] = self._windows.get(stream, 0) + int.from_bytes(payload, "big")

    def close(self) -> None:
        """Closes the connection."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
