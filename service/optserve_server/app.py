"""The composition root: settings in, a running server out."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from optserve_server.arrays.backend import Backend
from optserve_server.arrays.select import select
from optserve_server.config import Settings
from optserve_server.rpc.server import Server
from optserve_server.sessions.store import Limits, Store

_log = logging.getLogger("optserve_server")


def compose(settings: Settings, backend: Backend, executor: ThreadPoolExecutor) -> Server:
    """A server that is not listening yet."""
    limits = Limits(
        max_sessions=settings.max_sessions,
        max_session_bytes=settings.max_session_bytes,
        max_tensors=settings.max_tensors,
        max_message_bytes=settings.max_message_bytes,
    )
    return Server(Store(backend, limits), executor, settings.max_concurrent_rpcs)


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, then finishes what is in flight.

    Raises:
        RuntimeError: the address cannot be bound, or the backend is not there.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    backend = select(settings.backend)
    with ThreadPoolExecutor(settings.threads, thread_name_prefix="step") as executor:
        server = compose(settings, backend, executor)
        port = await server.start(settings.host, settings.port)
        _announce(settings, backend, port)
        await stop.wait()
        _log.info("shutting down")
        await server.stop(settings.grace_seconds)
    _log.info("stopped")


def _announce(settings: Settings, backend: Backend, port: int) -> None:
    facts = {"host": settings.host, "port": port, "backend": backend.name, "device": backend.device}
    _log.info("listening", extra={"facts": facts})
    if settings.port_file:
        # Written beside and renamed, so that nobody reads half a number.
        path = Path(settings.port_file)
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.write_text(f"{port}\n", encoding="ascii")
        beside.replace(path)
