"""Loads gRPC without its event engine, unless the user has chosen otherwise."""

from __future__ import annotations

import os
import sys

VARIABLE = "GRPC_EXPERIMENTS"
"""Environment variable that gRPC reads once, when it is imported."""

FORK_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"
"""Environment variable that has gRPC's older poller work in forked children; read in the same way."""

WITHOUT_EVENT_ENGINE = "-event_engine_client,-event_engine_listener"
"""Its value that has gRPC's older poller do all input and output."""


def load_grpc() -> None:
    """Imports gRPC; leaves it as it is if it is imported already, or ``GRPC_EXPERIMENTS`` is set.

    The older poller takes a stream's step in half to three quarters of the time: the event
    engine hands every read and write to another thread.
    """
    if "grpc" in sys.modules or VARIABLE in os.environ:
        return
    chosen = {VARIABLE: WITHOUT_EVENT_ENGINE, FORK_VARIABLE: "1"}
    added = {name: value for name, value in chosen.items() if name not in os.environ}
    os.environ.update(added)
    try:
        import grpc  # noqa: F401
    finally:
        for name in added:  # processes that this one starts choose for themselves
            del os.environ[name]


load_grpc()
