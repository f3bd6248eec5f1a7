"""A server that logs each callback that keeps its event loop busy for long: ``python -m`` runs it."""

from __future__ import annotations

import asyncio
import logging
import sys
import time

from optserve_server import event_loop
from optserve_server.__main__ import main

BUSY_S = 0.03
"""Processor time of one callback, several times what the longest one takes."""

_log = logging.getLogger("optserve_server.watched")


def watch() -> None:
    """Has asyncio's own loop run, and log callbacks that take longer."""
    run = asyncio.Handle._run

    def time_callback(handle: asyncio.Handle) -> None:
        begun = time.thread_time()
        run(handle)
        taken = time.thread_time() - begun
        if taken > BUSY_S:
            of = getattr(handle._callback, "__self__", handle)  # type: ignore[attr-defined]
            _log.warning("busy", extra={"facts": {"seconds": taken, "callback": repr(of)[:400]}})

    setattr(asyncio.Handle, "_run", time_callback)  # noqa: B010  mypy knows the method
    event_loop.event_loop_factory = lambda: None


if __name__ == "__main__":
    watch()
    sys.exit(main())
