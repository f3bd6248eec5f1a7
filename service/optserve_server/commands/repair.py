"""``optserve-server repair``: states what a repair would lose, and makes it on request."""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from optserve_server import config
from optserve_server.commands.data_directory import check_data_directory, find_data_dir, suppress_log

if TYPE_CHECKING:
    from optserve_server.durability.directory_check import Finding
    from optserve_server.durability.directory_repair import Repair
    from optserve_server.storage.files import Disk

DESCRIPTION = (
    "States how the damage of a data directory would be repaired, and what would be lost; with --apply, makes"
    " the repair. Copy the directory first. The exit status is 0 if nothing is wrong any more, otherwise 1."
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the server's flags, of which data_dir counts, and that of the command."""
    config.add_flags(parser)
    parser.add_argument("--apply", action="store_true", default=False, help="make the repair")


def run(parsed: argparse.Namespace) -> int:
    """Prints what would be repaired, and repairs it if that was asked for.

    Args:
        parsed: flags of the server and of the command.

    Returns:
        The exit status: 0 if nothing is wrong any more, otherwise 1.

    Raises:
        ConfigError: a setting is wrong, or there is no data directory.
        DirectoryError: a server uses the directory, or what is wrong cannot be repaired.
    """
    root = find_data_dir(parsed)
    with suppress_log():
        return _repair(root, apply=parsed.apply)


def _repair(root: Path, *, apply: bool) -> int:
    from optserve_server.storage.files import ReadOnlyDisk

    plan = _make_repair(root, ReadOnlyDisk())
    plan.examine().catalog.close()
    steps = [*plan.steps, *_find_unneeded(root, {step.path for step in plan.steps})]
    for step in steps:
        print(step)
    if not apply:
        print(f"{len(steps)} steps; nothing was changed: --apply makes them")
        return int(bool(steps))
    asyncio.run(_apply(root))
    findings = check_data_directory(root).findings
    for finding in findings:
        print(finding)
    print(f"{len(steps)} steps were made; {len(findings)} findings are left")
    return int(bool(findings))


def _find_unneeded(root: Path, planned: set[Path]) -> list[Finding]:
    """What is damaged in the journal and no session needs; a repair replaces the whole journal."""
    try:
        found = check_data_directory(root).findings
    except RuntimeError:  # what all sessions depend on; it is among the steps
        return []
    journal = [finding for finding in found if finding.path.parent.name == "journal"]
    return [
        replace(finding, text=f"{finding.text}; no session needs it, and it is removed")
        for finding in journal
        if finding.path not in planned
    ]


async def _apply(root: Path) -> None:
    repair = _make_repair(root)
    await repair.save_all(repair.run())


def _make_repair(root: Path, disk: Disk | None = None) -> Repair:
    from optserve_server.arrays.numpy_blocked import NumpyBackend
    from optserve_server.durability.directory_repair import Repair
    from optserve_server.sessions.namespaces import Namespaces
    from optserve_server.sessions.store import Limits
    from optserve_server.wire.messages.answers import encode_answer
    from optserve_server.wire.specifications.spec_text import SPEC_TEXT

    return Repair(root, Namespaces(NumpyBackend(), Limits(durable=True)), SPEC_TEXT, encode_answer, disk)
