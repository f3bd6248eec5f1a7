"""``optserve snapshot``: a session's snapshots on its server's disk, and as files."""

from __future__ import annotations

import argparse
from typing import Any

from optserve.commands import command_parser as parsers
from optserve.commands import confirmation
from optserve.commands.command_parser import add_command
from optserve.commands.connection import open_client
from optserve.commands.output import print_record, print_records
from optserve.formatting import to_record
from optserve.snapshots import Snapshot

KEYS = parsers.list_keys(Snapshot)
SESSION_KEYS = ("session", "step")


def add_to(commands: parsers.Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    group = parsers.add_group(commands, "snapshot", "snapshots of a session")
    listing = add_command(group, "ls", "list a session's snapshots", run_ls, keys=KEYS, form="array")
    create = add_command(group, "create", "save a session on the server's disk", run_create, keys=KEYS)
    summary = "restore a session from a snapshot"
    restore = add_command(group, "restore", summary, run_restore, keys=SESSION_KEYS)
    remove = add_command(group, "rm", "delete a snapshot", run_rm, keys=("deleted",))
    summary, keys = "write a session as a safetensors file", (*SESSION_KEYS, "file")
    export = add_command(group, "export", summary, run_export, keys=keys)
    for parser in (listing, create, restore, remove, export):
        parsers.add_session_argument(parser)
    step: dict[str, Any] = {"type": parsers.parse_step, "metavar": "STEP"}
    for parser in (restore, remove):
        parser.add_argument("step", **step, help="of the snapshot")
        confirmation.add_flag(parser)
    restore.add_argument("--weights-only", action="store_true", help="restore only the parameters")
    export.add_argument("step", nargs="?", **step, help="of a snapshot; default: the session as it is")
    parsers.add_file_argument(export, "-o", "--output", required=True, help="where to write")
    import_ = add_command(group, "import", "create a session from a file", run_import, keys=SESSION_KEYS)
    parsers.add_file_argument(import_, "file", help="that export wrote")
    import_.add_argument("session", nargs="?", default="", metavar="SESSION", help="id; default: a new one")


def run_ls(options: argparse.Namespace) -> None:
    """Lists the snapshots, the latest first."""
    with open_client(options) as client:
        snapshots = client.session(options.session).snapshots.list()
    print_records(options, snapshots, ("step", "created", "byte_count", "kept"))


def run_create(options: argparse.Namespace) -> None:
    """Creates a snapshot, which the server keeps until it is deleted."""
    with open_client(options) as client:
        print_record(options, to_record(client.session(options.session).snapshots.create()))


def run_restore(options: argparse.Namespace) -> None:
    """Restores the session, which loses the steps after the snapshot."""
    confirmation.ask(options, f"restore {options.session} to step {options.step} and lose later steps")
    with open_client(options) as client:
        snapshots = client.session(options.session).snapshots
        info = snapshots.restore(options.step, weights_only=options.weights_only)
    print_record(options, {"session": info.name, "step": info.step})


def run_rm(options: argparse.Namespace) -> None:
    """Deletes a snapshot."""
    confirmation.ask(options, f"delete the snapshot of {options.session} at step {options.step}")
    with open_client(options) as client:
        session = client.session(options.session)
        session.snapshots.delete(options.step)
    print_record(options, {"deleted": [f"{session.name}/snapshots/{options.step}"]})


def run_export(options: argparse.Namespace) -> None:
    """Writes the file."""
    with open_client(options) as client:
        session = client.session(options.session)
        step = session.snapshots.export(options.output, options.step)
    print_record(options, {"session": session.name, "step": step, "file": options.output})


def run_import(options: argparse.Namespace) -> None:
    """Creates the session."""
    with open_client(options) as client:
        session = client.import_session(options.file, session_id=options.session.removeprefix("sessions/"))
    print_record(options, {"session": session.name, "step": session.step_number})
