"""Loads gRPC without its event engine, unless the user has chosen otherwise."""

from __future__ import annotations

import os
import sys

VARIABLE = "GRPC_EXPERIMENTS"
"""Environment variable that gRPC reads once, when it is imported."""

WITHOUT_EVENT_ENGINE = "-event_engine_client,-event_engine_listener"
"""Its value that has gRPC's older poller do all input and output."""


def load_grpc() -> None:
    """Imports gRPC; leaves it as it is if it is imported already, or ``GRPC_EXPERIMENTS`` is set.

    The older poller takes a stream's step in half to three quarters of the time: the event
    engine hands every read and write to another thread.
    """
    if "grpc" in sys.modules or VARIABLE in os.environ:
        return
    os.environ[VARIABLE] = WITHOUT_EVENT_ENGINE
    try:
        import grpc  # noqa: F401
    finally:
        del os.environ[VARIABLE]  # processes that this one starts choose for themselves


load_grpc()
