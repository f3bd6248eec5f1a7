"""Many journalled clients on a real disk with a limited number of writes a second.

A sync is several writes to a disk: on ext4 a record of 40 KB is four, its bytes, the file's new end
and the flush. 1,500 a second is what the provider of a cloud grants a volume of 500 GB by its size,
3,000 what the next generation of the same volumes has whatever its size.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.clients import throughput, together
from benchmarks.contenders.remote import contender
from benchmarks.limited_disk import LimitedDisk, LimitError, limit_disk
from benchmarks.options import Options
from benchmarks.results import Failure, Finding, Result
from benchmarks.sharing import GROUP, MANY, SMALL, rates, rows
from tests.support.server import running_server

LIMITS = (1500, 3000)
"""Writes per second."""

SLACK = 1.2
"""How much more than a limit a short measurement may find: writes are granted some at a time."""

Rounds = list[tuple[float, float, float]]
"""Records per second of the disk alone, and steps per second of one client and of many."""


def run(folder: Path, options: Options) -> Iterator[Finding]:
    """Rows for each limit, or why there are none."""
    try:
        with limit_disk(folder) as disk:
            found = _measure(disk, folder, options)
    except LimitError as error:
        for limit in LIMITS:
            yield Failure(GROUP, _many(limit), SMALL, str(error))
        return
    for limit, rounds in found.items():
        yield from findings(limit, rounds)


def findings(limit: int, rounds: Rounds) -> Iterator[Finding]:
    """The rows of a limit; a record is at least one write, so more of them say that it does not hold."""
    records = statistics.median(written for written, _, _ in rounds)
    if records > SLACK * limit:
        error = f"the limit does not hold: the disk took {records:.0f} records a second"
        yield Failure(GROUP, _many(limit), SMALL, error)
        return
    yield Result(GROUP, f"write and fdatasync, {limit:,} writes/s", SMALL, records, "records/s")
    one = f"JOURNAL, {limit:,} writes/s, one client"
    yield from rows(one, _many(limit), [(alone, total) for _, alone, total in rounds])


def _many(limit: int) -> str:
    return f"JOURNAL, {limit:,} writes/s, {MANY} clients"


def _measure(disk: LimitedDisk, folder: Path, options: Options) -> Mapping[int, Rounds]:
    """Limits take turns, and under each the disk, one client and all of them; they start without one."""
    found: dict[int, Rounds] = {limit: [] for limit in LIMITS}
    with contextlib.ExitStack() as stack:
        settings: dict[str, Any] = {"data_dir": folder / "data-limited", "journal_bytes": "1GiB"}
        server = stack.enter_context(running_server("numba", **settings))
        writer = stack.enter_context(contender("writer", SMALL, folder.resolve() / "limited"))
        for pid in (server.process.pid, writer.facts["pid"]):
            disk.admit(pid)
        ours = ("ours", SMALL, "--at", server.address)
        clients = [stack.enter_context(contender(*ours)) for _ in range(MANY)]
        for _ in range(options.rounds):
            for limit, rounds in found.items():
                disk.allow(limit)
                records = throughput(together([writer], options.seconds))
                rounds.append((records, *rates(clients, options.seconds)))
    return found
