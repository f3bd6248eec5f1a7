"""Loads gRPC with or without its event engine."""

from __future__ import annotations

import os

VARIABLE = "GRPC_EXPERIMENTS"
"""Environment variable that gRPC reads once, when it is imported."""

WITHOUT_EVENT_ENGINE = "-event_engine_client,-event_engine_listener"
"""Its value that has gRPC's older poller do all input and output."""


def load_grpc(*, event_engine: bool) -> None:
    """Imports gRPC; has no effect if it is imported already.

    The older poller takes a stream's step in half to three quarters of the time: the event
    engine hands every read and write to another thread.

    Args:
        event_engine: whether gRPC uses its event engine. ``GRPC_EXPERIMENTS`` in the environment
            takes precedence.
    """
    if event_engine or VARIABLE in os.environ:
        import grpc

        return
    os.environ[VARIABLE] = WITHOUT_EVENT_ENGINE
    try:
        import grpc  # noqa: F401
    finally:
        del os.environ[VARIABLE]  # processes that this one starts choose for themselves
