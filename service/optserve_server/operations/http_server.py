"""HTTP server for operators: ``/metrics``, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

_log = logging.getLogger(__name__)

Page = Callable[[], tuple[int, str, bytes]]
"""Gives a status, a content type and a body."""

_SECONDS = 5.0
"""How long a client may take to ask, and to read."""

_LONGEST = 8192
"""Bytes of a request."""

_CONNECTIONS = 64
"""Connections at once; the oldest is closed for one more, because who asks is answered at once."""

_WORDS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class HttpServer:
    """Answers GET and HEAD, each on a connection of its own.

    It runs on the event loop that answers calls, so that an answer shows that this one turns.

    Args:
        pages: by path.
    """

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages
        self._open: dict[asyncio.StreamWriter, None] = {}  # oldest first
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listens, and returns the port.

        Raises:
            OSError: the address cannot be bound.
        """
        self._server = await asyncio.start_server(self._handle_connection, host, port, limit=_LONGEST)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Listens no more."""
        if self._server is not None:
            self._server.close()

    async def _handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        if len(self._open) > _CONNECTIONS:
            next(iter(self._open)).transport.abort()
        try:
            with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(_SECONDS):
                    writer.write(self._make_response(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except asyncio.LimitOverrunError:
            pass  # a request of this length is none
        except Exception:
            _log.exception("defect in a page for operators")
        finally:
            self._open.pop(writer, None)
            writer.close()

    def _make_response(self, request: bytes) -> bytes:
        method, path, _ = request.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
        page = self._pages.get(path.partition("?")[0])
        if method not in ("GET", "HEAD"):
            status, kind, body = 405, "text/plain", b"only GET and HEAD\n"
        elif page is None:
            status, kind, body = 404, "text/plain", b"no such page\n"
        else:
            status, kind, body = page()
        head = (
            f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode("latin-1") + (body if method != "HEAD" else b"")
