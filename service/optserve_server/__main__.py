"""The command ``optserve-server``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from optserve_server import __version__, config
from optserve_server.commands import backup, check, health, repair, token

_DEFAULT_COMMAND = "serve"
_COMMANDS = {
    "backup": backup,
    "check": check,
    "health": health,
    "repair": repair,
    "token": token,
}
_FORMS = ("-h", "--help", "--version")
"""Options of the command itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: without the program's name; None for the process' own. Where they begin with no
            subcommand they belong to ``serve``.

    Returns:
        The exit status: 0, 1 when the command fails, 2 for a wrong setting.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, commands = make_argument_parser()
    if not arguments or arguments[0] not in (*commands, *_FORMS):
        arguments.insert(0, _DEFAULT_COMMAND)
    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except config.ConfigError as error:
        status, text = 2, str(error)
    except (RuntimeError, OSError) as error:
        status, text = 1, str(error)
    command = parser.prog if arguments[0] == _DEFAULT_COMMAND else f"{parser.prog} {arguments[0]}"
    print(f"{command}: {text}", file=sys.stderr)
    return status


def make_argument_parser() -> tuple[argparse.ArgumentParser, Sequence[str]]:
    """The command line, and the names of its subcommands."""
    parser = argparse.ArgumentParser(
        prog="optserve-server",
        description="Optimizer steps as a service.",
        epilog="Without a COMMAND, serve runs: optserve-server --port 50051.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    serve = commands.add_parser(
        _DEFAULT_COMMAND,
        help="run a server until SIGTERM or SIGINT (default); its --help lists every setting",
        description="Runs a server until SIGTERM or SIGINT.",
        epilog="Each flag is also an environment variable (--max-sessions: OPTSERVE_MAX_SESSIONS) and a"
        " key of the TOML file that --config names (max_sessions). Flags take precedence over the"
        " environment, and that over the file. Sizes are in bytes, or have a unit: 64KiB, 64MiB, 1GiB.",
        allow_abbrev=False,
    )
    config.add_flags(serve)
    serve.set_defaults(run=_run_server)
    for name, command in _COMMANDS.items():
        explanation = command.DESCRIPTION.split(".")[0]
        added = commands.add_parser(
            name,
            help=explanation[0].lower() + explanation[1:],
            description=command.DESCRIPTION,
            allow_abbrev=False,
        )
        command.add_flags(added)
        added.set_defaults(run=command.run)
    return parser, list(commands.choices)


def _run_server(parsed: argparse.Namespace) -> int:
    """Runs a server.

    Raises:
        ConfigError: a setting is wrong.
        RuntimeError: an address cannot be bound, or the backend is not installed.
    """
    settings = config.load_settings(vars(parsed))
    # Imported here: they take a second of processor time, and health runs every few seconds.
    from optserve_server.resources.malloc_settings import configure_malloc
    from optserve_server.rpc.server.event_engine import load_grpc

    configure_malloc()
    load_grpc(event_engine=settings.grpc_event_engine)
    # Imported behind it: they import gRPC.
    from optserve_server.app import serve
    from optserve_server.event_loop import event_loop_factory
    from optserve_server.rpc.middleware import log_formats

    log_formats.configure_logs(settings.log_level, settings.log_format)
    with asyncio.Runner(loop_factory=event_loop_factory()) as runner:
        runner.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
