"""``optserve-server check``: finds out whether a server with these settings would start and be well."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from optserve_server import config
from optserve_server.commands.data_directory import find_data_dir, suppress_log

if TYPE_CHECKING:
    from optserve_server.commands.start_checks import CheckResult

AREAS = "settings", "ports", "tls", "tokens", "backend", "limits", "disk", "data"
"""What is checked, in this order."""

DESCRIPTION = (
    "Checks whether a server with these settings would start: settings, ports, TLS, tokens, backend, limits,"
    " disk, and every file of the data directory. Changes nothing. No server may use the directory: of one"
    " that is in use, check a backup (--only data). The exit status is 0 if nothing failed, otherwise 1, and"
    " 2 for a wrong setting."
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the server's flags, and those of the command."""
    config.add_flags(parser)
    for flag, what in (("--only", "check this and nothing else"), ("--skip", "do not check this")):
        parser.add_argument(flag, action="append", choices=AREAS, default=[], help=f"{what}; may be repeated")
    parser.add_argument("--json", action="store_true", default=False, help="print JSON")


def run(parsed: argparse.Namespace) -> int:
    """Prints a line for each check, with what is wrong.

    Args:
        parsed: flags of the server and of the command.

    Returns:
        The exit status: 0 if nothing failed, otherwise 1.

    Raises:
        ConfigError: a setting has a wrong value, or ``--only data`` has no data directory.
    """
    if parsed.only == ["data"]:
        find_data_dir(parsed)
    settings = config.load_settings(vars(parsed))
    # Imported here: they take a second of processor time.
    from optserve_server.commands.start_checks import check_start

    areas = [area for area in AREAS if area in (parsed.only or AREAS) and area not in parsed.skip]
    with suppress_log():
        results = check_start(settings, areas)
    has_failed = any(result.status == "failed" for result in results)
    if parsed.json:
        print(json.dumps({"ok": not has_failed, "checks": [asdict(result) for result in results]}, indent=1))
    else:
        _print_table(results)
    return int(has_failed)


def _print_table(results: Sequence[CheckResult]) -> None:
    for result in results:
        print(f"{result.area:<9} {result.status:<8} {result.text}")
        for detail in result.details:
            print(f"{'':<18} {detail}")
