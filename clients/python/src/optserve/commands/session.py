"""``optserve session``: what a server holds."""

from __future__ import annotations

import argparse
from typing import Any

from optserve.commands import command_parser as parsers
from optserve.commands import confirmation, session_watch, top
from optserve.commands.array_files import SUFFIXES, read_arrays
from optserve.commands.command_parser import add_command, list_keys
from optserve.commands.connection import open_client
from optserve.commands.output import print_record, print_records
from optserve.commands.spec_options import GRAMMAR, add_spec_arguments, read_spec
from optserve.formatting import to_record
from optserve.parameter_init import Initialized
from optserve.plotting.spec_parser import WrongItem, parse_spec
from optserve.session_info import SessionInfo
from optserve.specs.initializers import Initializer
from optserve.state_transfer import StateTransfer

KEYS = list_keys(SessionInfo)
TYPES = ("float32", "float64")
PARAMETER = "values that the server computes, as w=784,128:glorot or 'b=10:constant(value=1)'"


def add_to(commands: parsers.Subparsers) -> None:
    """Adds the command to a parser's subcommands."""
    group = parsers.add_group(commands, "session", "sessions of a server")
    add_command(group, "ls", "list the sessions", run_ls, keys=top.SUMMARY, form="array")
    show = add_command(group, "show", "describe a session", run_show, keys=KEYS)
    create = add_command(group, "create", "create a session", run_create, keys=KEYS, notes=GRAMMAR)
    notes = f"{GRAMMAR} A transfer has {', '.join(list_keys(StateTransfer))}."
    keys, summary = (*KEYS, "transfers"), "replace parts of a session's specification"
    update = add_command(group, "update", summary, run_update, keys=keys, notes=notes)
    for parser in (show, create, update):
        parsers.add_session_argument(parser)
    add_spec_arguments(create)
    parsers.add_file_argument(create, "--parameters", ends=SUFFIXES, help="initial values")
    metavar = "NAME=SHAPE:INITIALIZER"
    create.add_argument("--parameter", action="append", default=[], metavar=metavar, help=PARAMETER)
    create.add_argument("--dtype", choices=TYPES, default="float32", help="of each --parameter")
    create.add_argument("--seed", type=parsers.parse_step, default=0, metavar="N", help="of the initializers")
    add_spec_arguments(update)
    parsers.add_expected_step(update)
    remove = add_command(group, "rm", "delete sessions, with their snapshots", run_rm, keys=("deleted",))
    names = remove.add_argument("words", nargs="+", metavar="SESSION", help="id, or sessions/{id}")
    parsers.complete_sessions(names)
    confirmation.add_flag(remove)
    session_watch.add_to(group)
    top.add_to(group)


def run_ls(options: argparse.Namespace) -> None:
    """Lists the sessions of the caller's namespace."""
    with open_client(options) as client:
        print_records(options, map(top.summarize, client.sessions()), top.SUMMARY)


def run_show(options: argparse.Namespace) -> None:
    """Describes a session."""
    with open_client(options) as client:
        print_session(options, client.session(options.session).get())


def print_session(options: argparse.Namespace, info: SessionInfo, **more: object) -> None:
    """Prints a session; for people with a line for each tensor and each field of its specification."""
    record = {**to_record(info), **more}
    if not options.json:
        layout, spec = record.pop("layout").values(), to_record(record.pop("spec"))
        tensors = {f"tensor {t.name}": f"{t.dtype.name} {list(t.shape)} {t.group}".rstrip() for t in layout}
        record |= tensors | {f"spec {n}": v for n, v in spec.items() if v not in (None, ())}
    print_record(options, record)


def run_create(options: argparse.Namespace) -> None:
    """Creates a session.

    Raises:
        WrongItem: a parameter or a field is wrong, or there is no parameter.
    """
    parameters: dict[str, Any] = {} if options.parameters is None else read_arrays(options.parameters)
    for text in options.parameter:
        name, values = _parse_parameter(text, options.dtype)
        if name in parameters:
            raise WrongItem(f"parameter {name!r} is given twice")
        parameters[name] = values
    if not parameters:
        raise WrongItem("a session needs --parameters FILE or --parameter NAME=SHAPE:INITIALIZER")
    spec, session_id = to_record(read_spec(options)), options.session.removeprefix("sessions/")
    with open_client(options) as client:
        session = client.create_session(parameters, **spec, session_id=session_id, seed=options.seed)
        print_session(options, session.get())


def _parse_parameter(text: str, dtype: str) -> tuple[str, Initialized]:
    """The name, and the values that the server computes."""
    name, _, rest = text.partition("=")
    shape, colon, initializer = rest.partition(":")
    sizes = [size.strip() for size in shape.split(",") if size.strip()]
    if not (name and colon and all(size.isdecimal() for size in sizes)):
        raise WrongItem(f"{text!r} is not NAME=SHAPE:INITIALIZER, such as w=784,128:glorot")
    return name, Initialized([int(size) for size in sizes], dtype, parse_spec(Initializer, initializer))


def run_rm(options: argparse.Namespace) -> None:
    """Deletes sessions."""
    confirmation.ask(options, f"delete {', '.join(options.words)}")
    with open_client(options) as client:
        sessions = [client.session(name) for name in options.words]
        for session in sessions:
            session.delete()
    print_record(options, {"deleted": [session.name for session in sessions]})


def run_update(options: argparse.Namespace) -> None:
    """Replaces the fields that are stated, or the whole specification."""
    with open_client(options) as client:
        session = client.session(options.session)
        transfers = session.update(read_spec(options, session.spec), expected_step=options.expected_step)
        print_session(options, session.get(), transfers=list(transfers.values()))
