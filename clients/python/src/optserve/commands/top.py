"""``optserve session top``: all sessions and their speed, refreshed."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from optserve.client import Client
from optserve.commands.command_parser import Subparsers, add_command, parse_count, parse_seconds
from optserve.commands.connection import find_settings, open_client
from optserve.commands.output import make_console, make_table, print_json
from optserve.extras import import_extra
from optserve.formatting import escape_controls
from optserve.session_info import SessionInfo

SUMMARY = ("name", "step", "optimizer", "parameter_count", "resident_bytes", "skipped", "ready", "created")
KEYS = ("steps_per_second", *SUMMARY)
COLUMNS = ("name", "step", "steps_per_second", "optimizer", "parameter_count", "resident_bytes", "ready")


def add_to(group: Subparsers) -> None:
    """Adds the command to those of ``session``."""
    notes = f"Each session has {', '.join(KEYS)}. Without a terminal it prints JSON as with --json."
    summary = "show all sessions and their speed until interrupted, the fastest first"
    parser = add_command(group, "top", summary, run, keys=("sessions",), form="lines", notes=notes)
    parser.add_argument("--interval", type=parse_seconds, default=1.0, metavar="SECONDS", help="default: 1")
    parser.add_argument("--count", type=parse_count, metavar="N", help="end after N refreshes")


def summarize(info: SessionInfo) -> dict[str, Any]:
    """What lists of sessions show of one."""
    derived = {"optimizer": info.spec.optimizer.FIELD, "parameter_count": info.layout.parameter_count}
    return {key: derived[key] if key in derived else getattr(info, key) for key in SUMMARY}


def run(options: argparse.Namespace) -> None:
    """Shows the sessions; Ctrl-C is the way to end it, and no error."""
    with _catch_interrupt() as interrupted, open_client(options) as client:
        states = itertools.islice(_list_repeatedly(client, options.interval, interrupted), options.count)
        if options.json or not sys.stdout.isatty():
            for sessions in states:
                print_json({"sessions": sessions}, indent=None)
            return
        server, live = escape_controls(find_settings(options).server or ""), import_extra("rich.live", "cli")
        with live.Live(console=make_console(), screen=True, auto_refresh=False) as screen:
            for sessions in states:
                speed = sum(session["steps_per_second"] for session in sessions)
                title = f"{server}: {len(sessions)} sessions, {speed:.1f} steps/s"
                screen.update(make_table(sessions, COLUMNS, title), refresh=True)


@contextlib.contextmanager
def _catch_interrupt() -> Iterator[threading.Event]:
    """Yields an event that Ctrl-C sets; KeyboardInterrupt may be raised where Python ignores it."""
    interrupted = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _list_repeatedly(
    client: Client, interval: float, interrupted: threading.Event
) -> Iterator[list[dict[str, Any]]]:
    """The sessions with their steps per second since the list before, which is 0 at first."""
    steps: Mapping[str, int] = {}
    listed = time.monotonic()
    while not interrupted.is_set():
        sessions, now = [summarize(info) for info in client.sessions()], time.monotonic()
        for session in sessions:
            taken = max(0, session["step"] - steps.get(session["name"], session["step"]))
            session["steps_per_second"] = round(taken / max(now - listed, 1e-9), 1)
        yield sorted(sessions, key=lambda session: (-session["steps_per_second"], session["name"]))
        steps, listed = {session["name"]: session["step"] for session in sessions}, now
        interrupted.wait(interval)
