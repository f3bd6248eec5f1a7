"""Time of each phase of a streamed step, by sampling server and client with py-spy.

py-spy samples the stacks of both processes some hundred times a second; the innermost line that
belongs to a phase decides. Messages use a data connection, whose system calls are made by Python
code, so that the kernel's part of them counts for the sockets' phases. The rest of the wall-clock
time is waiting for the other side.
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

GROUP = "phases"
SIZES = (10_000, 1_000_000, 25_000_000)
RATE = 400
"""Samples of a second."""

Table = Sequence[tuple[str, str]]
"""Text of a line of a stack, and the phase of such lines; the first match counts."""

SESSION_PACKAGES = ("programs", "spec", "state", "stepping", "sessions", "shared_memory", "durability")
"""Packages of the server whose own time counts as the session's."""

INNERMOST: Table = (
    ("Step.on_received (", "fingerprint"),
    ("(optserve/_transport/grpc_channel", "gRPC, compiled"),
)
"""Phases of compiled code, whose caller is the innermost line that py-spy sees."""

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
    # Last: a client makes its messages while it sends them.
    *((f"DataConnection.{name}", "receive: socket") for name in ("read", "receive", "_receive", "_fill")),
    *((f"DataConnection.{name}", "send: socket") for name in ("write", "send", "_send")),
)
"""Phases that include everything called in them."""

AROUND: Table = (
    *((f"(optserve_server/{package}/", "session: bookkeeping") for package in SESSION_PACKAGES),
    ("(optserve_server/", "RPC: bookkeeping"),
    ("(optserve/", "RPC: bookkeeping"),
    ("(grpc/", "gRPC in Python"),
    # The loop calls no Python here: it is the compiled part of gRPC.
    ("Handle._run (asyncio", "gRPC, compiled"),
    ("(asyncio/", "event loop and threads"),
    ("(concurrent/", "event loop and threads"),
    ("(threading", "event loop and threads"),
    ("(benchmarks/", "the caller"),
)
"""Phases of the innermost line that belongs to one."""

WAITS = ("select (", "wait (", "_worker (", "EpollSelector.select (", "Condition.wait (", "_poll_wrapper (")
"""Beginnings of innermost lines that wait, whatever state the system reports for the thread."""

HELPERS = ("optserve-arrays", "_poll_wrapper", "channel_spin")
"""Threads that work for another thread, which is counted."""


def run(options: Options) -> Iterator[Finding]:
    """Milliseconds of a step in each phase, and their share of it."""
    for n in options.sizes_of(SIZES):
        try:
            yield from _sample(n, max(1.0, 6 * options.seconds))
        except (subprocess.SubprocessError, OSError) as error:
            yield Failure(GROUP, "sampling", n, str(error))


def _sample(n: int, seconds: float) -> Iterator[Finding]:
    with running_server("numba") as server, contender("ours", n, "--at", server.address) as client:
        client.time_steps(10)
        for side, pid in (("server", server.process.pid), ("client", client.facts["pid"])):
            stacks, step = _stacks(client, pid, seconds)
            phases = _phases(stacks)
            phases["waiting"] = max(round(seconds * RATE) - sum(phases.values()), 0)
            total = sum(phases.values())
            for phase, count in phases.most_common():
                share = count / total
                yield Result(GROUP, f"{side}, {phase}", n, share * step * 1e3, "ms", "the step", share)


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


def _phases(stacks: dict[str, int]) -> Counter[str]:
    """Samples by phase; those of threads that wait are left out."""
    phases: Counter[str] = Counter()
    for stack, count in stacks.items():
        thread, *lines = stack.split(";")
        waits = not lines or lines[-1].startswith(WAITS)
        if not waits and not any(helper in thread for helper in HELPERS):
            phases[phase_of(lines)] += count
    return phases


def phase_of(lines: Sequence[str]) -> str:
    """The phase of a stack, whose innermost line is the last."""
    for needle, phase in INNERMOST:
        if needle in lines[-1]:
            return phase
    for needle, phase in OWN_WORK:
        if any(needle in line for line in lines):
            return phase
    for line in reversed(lines):
        for needle, phase in AROUND:
            if needle in line:
                return phase
    return "other"
