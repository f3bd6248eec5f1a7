"""Imports gRPC without its event engine, unless the user configured it."""

from __future__ import annotations

import os
import sys

VARIABLE = "GRPC_EXPERIMENTS"
"""Environment variable that gRPC reads once, when it is imported."""

FORK_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"
"""Environment variable that makes gRPC's older poller work in forked children; read once as well."""

WITHOUT_EVENT_ENGINE = "-event_engine_client,-event_engine_listener"
"""Its value that makes gRPC's older poller do all input and output."""


def load_grpc() -> None:
    """Imports gRPC; does nothing if it is imported already, or ``GRPC_EXPERIMENTS`` is set.

    With the older poller a stream's step takes half to three quarters of the time, because the event
    engine passes every read and write to another thread.
    """
    if "grpc" in sys.modules or VARIABLE in os.environ:
        return
    chosen = {VARIABLE: WITHOUT_EVENT_ENGINE, FORK_VARIABLE: "1"}
    added = {name: value for name, value in chosen.items() if name not in os.environ}
    os.environ.update(added)
    try:
        import grpc  # noqa: F401
    finally:
        for name in added:  # child processes read their own environment
            del os.environ[name]


load_grpc()
