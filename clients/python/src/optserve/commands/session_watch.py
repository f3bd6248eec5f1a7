"""``optserve session watch``: a session's events as they happen."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

from optserve import events
from optserve._engine.step_result import StepResult
from optserve.commands.command_parser import Subparsers, add_command, add_session_argument, parse_count
from optserve.commands.connection import open_client
from optserve.commands.output import print_json
from optserve.formatting import format_field, to_record
from optserve.metrics import MetricsReport

KEYS = ("time", "kind", "dropped")
NOTES = (
    "The other keys are those of a step, a session or a worker, by the kind: began, step, contributed,"
    " updated, pushed, reported, joined, ended, deleted. The command ends when the session is deleted."
)
SHOWN = (
    *("name", "step", "learning_rate", "gradient_norm", "outcome", "worker", "rank", "epoch", "state"),
    *("dropped", "reduced", "stopped", "restored", "expired"),
)
"""Fields of events that people see, unless they are false or missing."""


def add_to(group: Subparsers) -> None:
    """Adds the command to those of ``session``."""
    summary = "print a session's events as they happen"
    parser = add_command(group, "watch", summary, run, keys=KEYS, form="lines", notes=NOTES)
    add_session_argument(parser)
    parser.add_argument("--count", type=parse_count, metavar="N", help="end after N events")


def run(options: argparse.Namespace) -> None:
    """Prints events until the session is deleted."""
    with open_client(options) as client:
        for event in itertools.islice(client.session(options.session).watch(), options.count):
            record = _to_record(event)
            if options.json:
                print_json(record, indent=None)
            else:
                shown = [f"{key}={format_field(key, record[key])}" for key in SHOWN if record.get(key)]
                print(f"{event.time.astimezone():%H:%M:%S} {record['kind']:<11}", *shown, flush=True)


def _to_record(event: events.Event) -> dict[str, Any]:
    """Time, kind and number of dropped events, with the fields of the result, session or worker."""
    kinds = {StepResult: "step", MetricsReport: "reported"}
    what: Any = event.what
    record = {"time": event.time, "kind": kinds.get(type(what), type(what).__name__.lower())}
    if isinstance(what, events.Began | events.Updated | events.Joined | events.Ended | events.Contributed):
        (what,) = vars(what).values()
    return {**record, "dropped": event.dropped, **to_record(what, without=("parameters",))}
