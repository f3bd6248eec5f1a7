"""HTTP server for operators and the dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from optserve_server.resources.descriptors import OPERATIONS_RESERVE
from optserve_server.rpc.transport.accept_loop import AcceptLoop

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HttpRequest:
    """A GET or HEAD request.

    Attributes:
        path: without the query.
        query: the last value of each name.
        headers: by lower-case name.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HttpResponse:
    """An answer: status, content type and body."""

    status: int
    content_type: str
    body: bytes


Page = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""Answers a request."""

TIMEOUT_S = 5.0
"""Seconds within which a client must have sent its request and read the answer."""

MAX_REQUEST_BYTES = 8192
MAX_CONNECTIONS = 64
"""Connections at once; the oldest is closed for one more, because requests are answered at once."""

_STATUS_TEXTS = {
    200: "OK",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Service Unavailable",
}

_HEADERS = (
    "Cache-Control: no-store\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n"
    "Content-Security-Policy: default-src 'self'; frame-ancestors 'none'\r\n\r\n"
)


class HttpServer:
    """Answers GET and HEAD, each on a connection of its own.

    It runs on the event loop that answers calls, so an answer shows that the loop runs.

    Args:
        pages: by path.

    Attributes:
        pages: the same; may be replaced.
    """

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self.pages = pages
        self._open: dict[asyncio.Task[Any], None] = {}  # oldest first
        self._accept_loop = AcceptLoop(
            self._handle_connection, "an operator could not connect", reserve=OPERATIONS_RESERVE
        )

    async def start(self, host: str, port: int) -> int:
        """Listens, and returns the port.

        Raises:
            OSError: the address cannot be bound.
        """
        loop, bound = asyncio.get_running_loop(), port
        for family, *_, address in await loop.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            listener = socket.create_server((address[0], bound), family=family)
            bound = int(listener.getsockname()[1])  # names of several addresses have one port
            self._accept_loop.start_accepting(listener)
        return bound

    async def stop(self) -> None:
        """Listens no more, and closes every connection."""
        await self._accept_loop.close()

    async def _handle_connection(self, connection: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None  # coroutines run in tasks
        self._open[task] = None
        if len(self._open) > MAX_CONNECTIONS:
            next(iter(self._open)).cancel()
        try:
            with contextlib.suppress(OSError, ValueError, TimeoutError):
                async with asyncio.timeout(TIMEOUT_S):
                    response = await self._make_response(await _receive_head(connection))
                    await asyncio.get_running_loop().sock_sendall(connection, response)
        except Exception:
            _log.exception("defect in a page for operators")
        finally:
            self._open.pop(task, None)
            await asyncio.sleep(0)  # until the event loop no longer watches it
            OPERATIONS_RESERVE.close_file(connection.detach())

    async def _make_response(self, data: bytes) -> bytes:
        first, *lines = data.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        parts = urlsplit(target)
        page = self.pages.get(parts.path)
        if method not in ("GET", "HEAD"):
            response = HttpResponse(405, "text/plain", b"only GET and HEAD\n")
        elif page is None:
            response = HttpResponse(404, "text/plain", b"no such page\n")
        else:
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            response = await page(HttpRequest(parts.path, dict(parse_qsl(parts.query)), headers))
        head = (
            f"HTTP/1.1 {response.status} {_STATUS_TEXTS[response.status]}\r\n"
            f"Content-Type: {response.content_type}\r\nContent-Length: {len(response.body)}\r\n{_HEADERS}"
        )
        return head.encode("latin-1") + (response.body if method != "HEAD" else b"")


async def _receive_head(connection: socket.socket) -> bytes:
    """Receives a request up to its empty line.

    Raises:
        OSError: the connection ended before, or the request is too long.
    """
    connection.setblocking(False)
    received = bytearray()
    while b"\r\n\r\n" not in received:
        data = await asyncio.get_running_loop().sock_recv(connection, MAX_REQUEST_BYTES)
        received += data
        if not data or len(received) > MAX_REQUEST_BYTES:
            raise ConnectionError("this is no request")
    return bytes(received)
