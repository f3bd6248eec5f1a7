"""Kills a real server again and again, and looks whether anything is lost or done twice.

    python -m chaos.crash --kills 200

Most kills are at a named failpoint, by the server itself, or at random moments from outside. Others end the
server by SIGTERM, or kill it while its disk is full; half of the servers after these start on the full disk.
After each, `optserve-server check` must find nothing wrong. Then a server starts on the same data directory,
clients repeat what was not answered, and every session is compared with a model, bit for bit.
"""

from __future__ import annotations

import argparse
import itertools
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.actors import Actor, Pair, Soloist
from optserve_server.commands.data_directory import check_data_directory
from optserve_server.storage.failpoints import NAMES, VARIABLE
from tests.support.disks import FILLER, fill_up, mount_filesystem
from tests.support.server import running_server

RANDOM = "at a random moment"
TERMINATED = "by SIGTERM"
FULL = "on a full disk"
FROM_OUTSIDE = (RANDOM, TERMINATED, FULL)
DISK_BYTES = 96 << 20
"""Size of the file system that is filled up."""

PATIENCE = 20.0
"""Seconds after which a server that has not come to its failpoint is killed from outside."""


@dataclass
class Tally:
    """What happened.

    Attributes:
        kills: how often, by place.
        answered: changes that were acknowledged.
        over_grpc: steps among them that went over gRPC.
        over_data: those over data connections.
        unknown: changes that were not acknowledged, and were repeated.
        recoveries: seconds from the start of a server to its answer.
    """

    kills: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    over_grpc: int = 0
    over_data: int = 0
    unknown: int = 0
    recoveries: list[float] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """The tally for people."""
        for name in (*NAMES, *FROM_OUTSIDE):
            yield f"{self.kills[name]:6}  {name}"
        yield f"{self.kills.total():6}  kills"
        yield f"{self.answered:6}  changes acknowledged: none lost, none made twice, all bits equal"
        yield f"{self.over_grpc:6}  of them steps over gRPC, {self.over_data} over data connections"
        yield f"{self.unknown:6}  changes cut off and repeated"
        yield f"{max(self.recoveries):6.2f}  seconds until a server was there again, at most"


def crash(kills: int, seed: int, root: Path, *, verbose: bool = False) -> Tally:
    """Kills servers.

    Args:
        kills: how many times.
        seed: of everything that is drawn here; the moments are the machine's own.
        root: an empty data directory.
        verbose: whether to say so as it goes.

    Raises:
        AssertionError: something was lost, made twice or changed.
    """
    with mount_filesystem("ext4", DISK_BYTES) as mounted:
        if mounted is None:
            print("this machine does not mount file systems, so no disk is filled up", flush=True)
        return _crash(kills, seed, root if mounted is None else mounted, mounted is not None, verbose)


def _crash(kills: int, seed: int, folder: Path, is_fillable: bool, verbose: bool) -> Tally:
    rng, tally, root = random.Random(seed), Tally(), folder / "data"
    actors: list[Actor] = [*(Soloist(f"solo{i}", seed + i) for i in range(3)), Pair("pair", seed + 9)]
    names = itertools.cycle(NAMES)
    others = itertools.cycle(FROM_OUTSIDE if is_fillable else (RANDOM, TERMINATED))
    for number in range(kills):
        # With twenty kills each failpoint has its turn, and four come from outside.
        place = next(others) if number % 5 == 4 or (kills > 40 and number % 2) else next(names)
        died_at = _life(place, rng, actors, root, tally)
        tally.kills[died_at] += 1
        findings = check_data_directory(root).findings
        assert not findings, f"after a kill {died_at}: {findings}"
        if verbose:
            print(f"{number + 1:4}  {died_at}", flush=True)
    _life("", rng, actors, root, tally)
    tally.answered = sum(actor.answered for actor in actors)
    tally.over_grpc = sum(actor.over_grpc for actor in actors)
    tally.over_data = sum(actor.over_data for actor in actors)
    tally.unknown = sum(actor.unknown for actor in actors)
    return tally


def _life(place: str, rng: random.Random, actors: list[Actor], root: Path, tally: Tally) -> str:
    """One server from its start to its end; returns where it was killed."""
    # Rare places are met at once, others after some work.
    often = place in ("", *FROM_OUTSIDE) or "journal" in place or "ack" in place or "apply" in place
    armed = (
        {} if place in ("", *FROM_OUTSIDE) else {VARIABLE: f"{place}:{rng.randint(1, 60 if often else 4)}"}
    )
    started = time.monotonic()
    settings: dict[str, Any] = {
        "data_dir": root,
        "journal_bytes": "1MiB",
        "log_level": "error",
        "grace_seconds": 5,
    }
    try:
        with running_server("numpy", variables=armed, **settings) as server:
            tally.recoveries.append(time.monotonic() - started)
            over = threading.Event()
            threads = [threading.Thread(target=actor.run, args=(server.address, over)) for actor in actors]
            for thread in threads:
                thread.start()
            died_at = _until_dead(server.process, place, rng, root.parent)
            over.set()
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()
            for actor in actors:
                if actor.failure is not None:
                    log = server.log_path.read_text()
                    raise AssertionError(f"{actor.name} before {died_at}\n{log}") from actor.failure
            return died_at
    except RuntimeError:
        if place in ("", *FROM_OUTSIDE):
            raise  # nothing was to kill it while it started
        return place


def _until_dead(process: subprocess.Popen[bytes], place: str, rng: random.Random, folder: Path) -> str:
    (folder / FILLER).unlink(missing_ok=True)  # of a server before this one
    if not place:  # the last one, in which everything is compared
        time.sleep(1)
        process.terminate()
        assert process.wait(30) == 0
        return place
    if place in FROM_OUTSIDE:
        time.sleep(rng.uniform(0.0, 0.8))
        if place == FULL:
            fill_up(folder / FILLER)
            time.sleep(rng.uniform(0.0, 0.4))
        process.send_signal(signal.SIGTERM if place == TERMINATED else signal.SIGKILL)
        status = process.wait(30)
        assert place != TERMINATED or status == 0, status
        if place == FULL and rng.random() < 0.5:
            (folder / FILLER).unlink()
        return place
    try:
        ended = process.wait(PATIENCE)
        assert ended == -signal.SIGKILL, f"the server ended by itself: {ended}"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        return RANDOM
    return place


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as root:
        tally = crash(arguments.kills, arguments.seed, Path(root), verbose=True)
    print("\n".join(tally.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
