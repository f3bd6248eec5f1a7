"""Where the time of a streamed step goes, by sampling server and client while they work.

py-spy looks at both processes from outside, some hundred times a second, and the innermost
line that belongs to a room decides. Messages go over a data connection, whose calls of the system
are made where Python sees them: what the kernel does in them is in the sockets' rooms. What is left
of the wall-clock time is waiting for the other side.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contenders.remote import Remote, contender
from benchmarks.options import Options
from benchmarks.results import Failure, Finding, Result
from tests.support.server import running_server

GROUP = "rooms"
SIZES = (10_000, 1_000_000, 25_000_000)
RATE = 400
"""Samples of a second."""

Table = Sequence[tuple[str, str]]
"""What a line of a stack holds, and the room that it belongs to; the first that fits counts."""

SESSION_PACKAGES = ("programs", "spec", "state", "stepping", "sessions", "shared_memory", "durability")
"""Packages of the server whose own time counts as the session's."""

INNERMOST: Table = (
    ("Step.on_received (", "fingerprint"),
    ("(optserve/_transport/grpc_channel", "gRPC, compiled"),
)
"""Rooms whose work is compiled, so that what calls it is the last line that is seen."""

OWN_WORK: Table = (
    ("decode (optserve/_codec/framing", "receive: decode"),
    ("_parts (optserve/_codec/framing", "receive: decode"),
    ("encode (optserve/_codec/framing", "send: encode"),
    ("join (optserve/_codec/framing", "send: encode"),
    ("(optserve/_codec/payload", "send: encode"),
    ("cut (optserve/_codec/chunks", "send: encode"),
    ("(optserve_server/wire/fields/chunks", "receive: into the buffer"),
    ("(optserve/_codec/chunks", "receive: into an array"),
    ("digest (", "fingerprint"),
    ("Step._measure", "measure"),
    ("(optserve_server/stepping/gradient_statistics", "measure"),
    ("Step._apply", "update, and the answer's values"),
    ("(optserve_server/state/reading", "send: copy out"),
    # Last: the messages that a client sends are made while it sends them.
    *((f"DataConnection.{name}", "receive: socket") for name in ("read", "receive", "_receive", "_fill")),
    *((f"DataConnection.{name}", "send: socket") for name in ("write", "send", "_send")),
)
"""Rooms that own whatever is called in them."""

AROUND: Table = (
    *((f"(optserve_server/{package}/", "session: bookkeeping") for package in SESSION_PACKAGES),
    ("(optserve_server/", "RPC: bookkeeping"),
    ("(optserve/", "RPC: bookkeeping"),
    ("(grpc/", "gRPC in Python"),
    # Nothing of what the loop calls is Python here: it is gRPC's compiled half.
    ("Handle._run (asyncio", "gRPC, compiled"),
    ("(asyncio/", "event loop and threads"),
    ("(concurrent/", "event loop and threads"),
    ("(threading", "event loop and threads"),
    ("(benchmarks/", "the caller"),
)
"""Rooms of the innermost line that belongs to any."""

WAITS = ("select (", "wait (", "_worker (", "EpollSelector.select (", "Condition.wait (", "_poll_wrapper (")
"""Beginnings of innermost lines that wait, whatever the system says that the thread does."""

HELPERS = ("optserve-arrays", "_poll_wrapper", "channel_spin")
"""Threads that work for another one, which is counted."""


def run(options: Options) -> Iterator[Finding]:
    """Milliseconds of a step in each room, and their share of it."""
    for n in options.sizes_of(SIZES):
        try:
            yield from _sampled(n, max(1.0, 6 * options.seconds))
        except (subprocess.SubprocessError, OSError) as error:
            yield Failure(GROUP, "sampling", n, str(error))


def _sampled(n: int, seconds: float) -> Iterator[Finding]:
    with running_server("numba") as server, contender("ours", n, "--at", server.address) as client:
        client.timed(10)
        for side, pid in (("server", server.process.pid), ("client", client.facts["pid"])):
            stacks, step = _stacks(client, pid, seconds)
            rooms = _rooms(stacks)
            rooms["waiting"] = max(round(seconds * RATE) - sum(rooms.values()), 0)
            total = sum(rooms.values())
            for room, count in rooms.most_common():
                share = count / total
                yield Result(GROUP, f"{side}, {room}", n, share * step * 1e3, "ms", "the step", share)


def _stacks(client: Remote, pid: int, seconds: float) -> tuple[dict[str, int], float]:
    """How often each stack was seen in a process, and the seconds of a step meanwhile."""
    client.goes_on(seconds + 1.5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stacks")
        command = [Path(sys.executable).with_name("py-spy"), "record", "--pid", pid, "--duration"]
        command += [int(seconds), "--rate", RATE, "--format", "raw", "--threads", "--nonblocking"]
        subprocess.run(
            [*map(str, command), "--output", str(path)], check=True, capture_output=True, timeout=seconds + 30
        )
        lines = [line.rpartition(" ") for line in path.read_text().splitlines()]
    return {stack: int(count) for stack, _, count in lines}, statistics.fmean(client.durations())


def _rooms(stacks: dict[str, int]) -> Counter[str]:
    """Samples by room; those of threads that wait are left out."""
    rooms: Counter[str] = Counter()
    for stack, count in stacks.items():
        thread, *lines = stack.split(";")
        waits = not lines or lines[-1].startswith(WAITS)
        if not waits and not any(helper in thread for helper in HELPERS):
            rooms[room_of(lines)] += count
    return rooms


def room_of(lines: Sequence[str]) -> str:
    """The room of a stack, whose innermost line is the last."""
    for needle, room in INNERMOST:
        if needle in lines[-1]:
            return room
    for needle, room in OWN_WORK:
        if any(needle in line for line in lines):
            return room
    for line in reversed(lines):
        for needle, room in AROUND:
            if needle in line:
                return room
    return "other"
