"""What it costs to lose nothing: JOURNAL beside EPHEMERAL, and the journal beside its disk."""

from __future__ import annotations

import contextlib
import os
import queue
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.clients import throughput, together
from benchmarks.contenders import slow_disk_server
from benchmarks.contenders.remote import Remote, contender
from benchmarks.contenders.slow_disk_server import SECONDS as SYNC
from benchmarks.options import Options
from benchmarks.results import Finding, Result, Spread
from benchmarks.timing import Timed, interleave
from optserve_server.storage.directory_format import make_identity
from optserve_server.storage.durable_positions import DurablePositions
from optserve_server.storage.files import Disk
from optserve_server.storage.journal import Journal, Record
from tests.support.server import running_server

GROUP = "journal"
SMALL, MANY = 10_000, 16
SIZES = (10_000, 1_000_000, 25_000_000)
EPHEMERAL, JOURNALLED = "EPHEMERAL", "JOURNAL"
SLOW = f"{SYNC * 1e3:g} ms a sync"
SLOWLY = f"JOURNAL, {SLOW}"
DISK, JOURNAL = "write and fdatasync", "journal record"
KEPT = 8
"""Records after which a new file is begun, here."""


def run(options: Options) -> Iterator[Finding]:
    """All on the disk of the working folder, which is what a data directory would be on."""
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as folder:
        for n in options.sizes_of(SIZES):
            yield from _records(n, Path(folder), options)
        for n in options.sizes_of(SIZES):
            yield from _steps(n, Path(folder, f"data-{n}"), options)
        if options.heavy:  # 48 processes have to start
            yield from _sync_together(Path(folder, "data-many"), options)


def _records(n: int, folder: Path, options: Options) -> Iterator[Finding]:
    """A float32 gradient as a record, and the same bytes written by hand."""
    payload = np.random.default_rng(1).standard_normal(n, np.float32).view(np.uint8)
    with _plain(folder / "plain", payload) as plain, _journal(folder / f"journal-{n}", payload) as journal:
        times = interleave({DISK: plain, JOURNAL: journal}, options.rounds, options.seconds)
    amount = payload.nbytes / 1e9
    yield from times.rates(GROUP, DISK, n, "GB/s", amount)
    yield from times.rates(GROUP, JOURNAL, n, "GB/s", amount, DISK)


@contextlib.contextmanager
def _plain(path: Path, payload: npt.NDArray[np.uint8]) -> Iterator[Timed]:
    """Appends to a file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    written = 0

    def time_writes(repeats: int) -> float:
        nonlocal written
        spent = 0.0
        for _ in range(repeats):
            if written >= KEPT * max(payload.nbytes, 8 << 20):
                os.ftruncate(fd, 0)
                written = 0
            start = time.perf_counter()
            done = 0
            while done < payload.nbytes:
                done += os.pwrite(fd, payload[done:].data, written + done)
            os.fdatasync(fd)
            spent += time.perf_counter() - start
            written += payload.nbytes
        return spent

    try:
        yield time_writes
    finally:
        os.close(fd)
        path.unlink()


@contextlib.contextmanager
def _journal(folder: Path, payload: npt.NDArray[np.uint8]) -> Iterator[Timed]:
    """Appends records, and frees segments that are not needed."""
    folder.mkdir()
    disk = Disk()
    directory = make_identity()
    durable_positions = DurablePositions(disk, folder / "positions", directory, is_new=True)
    segment_bytes = KEPT * max(payload.nbytes, 8 << 20)
    journal = Journal(disk, folder, durable_positions, directory, segment_bytes=segment_bytes)
    number = 0

    def time_writes(repeats: int) -> float:
        nonlocal number
        spent = 0.0
        for _ in range(repeats):
            number += 1
            safe: queue.SimpleQueue[object] = queue.SimpleQueue()
            start = time.perf_counter()
            journal.append(Record(1, number, [payload.data], safe.put))
            safe.get()
            spent += time.perf_counter() - start
            journal.delete_old_segments({1: number}, 0)
        return spent

    try:
        yield time_writes
    finally:
        journal.close()
        durable_positions.close()


def _steps(n: int, root: Path, options: Options) -> Iterator[Finding]:
    """Gradient up and parameters down, with and without a journal."""
    with contextlib.ExitStack() as stack:
        timed: dict[str, Remote] = {}
        for name, settings in _servers(root).items():
            server = stack.enter_context(running_server("numba", **settings))
            timed[name] = stack.enter_context(contender("ours", n, "--at", server.address))
        times = interleave({k: r.time_steps for k, r in timed.items()}, options.rounds, options.seconds)
    yield from times.rates(GROUP, EPHEMERAL, n, "steps/s", 1)
    yield from times.rates(GROUP, JOURNALLED, n, "steps/s", 1, EPHEMERAL)


def _servers(root: Path) -> Mapping[str, Mapping[str, Any]]:
    return {EPHEMERAL: {}, JOURNALLED: {"data_dir": root, "journal_bytes": "1GiB"}}


def _sync_together(root: Path, options: Options) -> Iterator[Finding]:
    """Many small sessions, whose records share syncs, beside one of them alone."""
    slowly = {"data_dir": root / "slow", "journal_bytes": "1GiB", "module": slow_disk_server.__name__}
    for name, settings in {**_servers(root / "fast"), SLOWLY: slowly}.items():
        with running_server("numba", **settings) as server, contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(contender("ours", SMALL, "--at", server.address)) for _ in range(MANY)
            ]
            rounds = [
                [throughput(together(some, 2 * options.seconds)) for some in (clients[:1], clients)]
                for _ in range(options.rounds)
            ]
        one, many = f"{name}, one client", f"{name}, {MANY} clients"
        alone, total = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratios = [together_ / alone_ for alone_, together_ in rounds]
        yield Result(GROUP, one, SMALL, alone, "steps/s")
        yield Result(GROUP, many, SMALL, total, "steps/s", one, statistics.median(ratios))
        yield Spread(GROUP, many, SMALL, one, min(ratios), max(ratios))
