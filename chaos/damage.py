"""Damages a data directory again and again, and looks whether ``optserve-server check`` finds it.

    python -m chaos.damage --damages 1000

Each damage is a bit that flips, a file that is cut off or removed, or two files that are swapped. It must be
found, or be in bytes that the check of the undamaged directory lists as unused; then a server must restore
every session with the same bits.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from optserve_server.commands.data_directory import check_data_directory
from optserve_server.durability.durability_manager import SnapshotPolicy
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.state.session_change import Request
from optserve_server.storage.directory_format import DirectoryError
from tests.recovery.keeping import bits, house, run

POLICY = SnapshotPolicy(generations=2, segment_bytes=20_000, journal_bytes=60_000)

State = dict[str, dict[str, bytes]]
Change = tuple[str, list[tuple[Path, int]]]
"""A damage in words; the files that it changed, and the first byte of each that it did."""


@dataclass
class Tally:
    """What was found.

    Attributes:
        found: damages that were found, by kind.
        unused: damages of bytes that are not used, by kind.
        missed: descriptions of the others.
    """

    found: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    missed: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The tally for people."""
        kinds = sorted(self.found.keys() | self.unused.keys())
        lines = [
            f"{kind:10} {self.found[kind]:6} found {self.unused[kind]:6} in unused bytes" for kind in kinds
        ]
        return [*lines, f"{len(self.missed)} missed", *self.missed]


def make_directory(root: Path, sessions: int) -> State:
    """Lets a server use a directory, and copies it to ``root`` as a killed one leaves it."""

    async def live(home: Path) -> State:
        async with house(home, policy=POLICY) as made:
            modes = (None, None, None, DurabilityMode.SNAPSHOT)
            found = [made.create(f"s{number}", mode=modes[number % 4]) for number in range(sessions)]
            for number in range(9):
                for place, session in enumerate(found):
                    await made.step(session, number, worker="w", sequence=number + 1)
                    if (number + place) % 4 == 0:
                        assert session.durability is not None
                        asked = Request() if place % 5 == 0 else None
                        await made.durability_manager.save_session(session.durability, asked=asked)
            for session in found[3::4]:
                assert session.durability is not None
                await made.durability_manager.save_session(session.durability)
            shutil.copytree(home, root)
            return {session.id: bits(session) for session in found}

    with tempfile.TemporaryDirectory() as folder:
        state: State = run(live(Path(folder)))
    return state


def flip(rng: random.Random, files: list[Path]) -> Change:
    """Flips a bit."""
    path = rng.choice([path for path in files if path.stat().st_size])
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return f"byte {place} of {len(data)} of {path} flipped", [(path, place)]


def cut(rng: random.Random, files: list[Path]) -> Change:
    """Cuts a file off."""
    path = rng.choice([path for path in files if path.stat().st_size])
    data = path.read_bytes()
    place = rng.randrange(len(data))
    path.write_bytes(data[:place])
    return f"{path} cut off at byte {place} of {len(data)}", [(path, place)]


def swap(rng: random.Random, files: list[Path]) -> Change:
    """Swaps the content of two files."""
    first, second = rng.sample(files, 2)
    data, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(data)
    differ = min(len(data), len(other))
    start = next((at for at in range(differ) if data[at] != other[at]), differ)
    return f"{first} and {second} swapped", [(first, start), (second, start)]


def remove(rng: random.Random, files: list[Path]) -> Change:
    """Removes a file."""
    path = rng.choice(files)
    path.unlink()
    return f"{path} removed", [(path, 0)]


KINDS: tuple[Callable[[random.Random, list[Path]], Change], ...] = (flip, cut, swap, remove)


def damage(damages: int, sessions: int, seed: int) -> Tally:
    """Damages a directory so often, each time a whole one."""
    rng, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "data")
        state = make_directory(root, sessions)
        clean = check_data_directory(root)
        assert not clean.findings, clean.findings
        assert clean.sessions.keys() == state.keys()
        contents = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for number in range(damages):
            kind = KINDS[number % len(KINDS)]
            text, changed = kind(rng, sorted(contents))
            if _is_found(root):
                tally.found[kind.__name__] += 1
            elif all(place >= clean.unused.get(path, 1 << 62) for path, place in changed) and _is_restored(
                root, state
            ):
                tally.unused[kind.__name__] += 1
            else:
                tally.missed.append(text)
            for path, _ in changed:
                path.write_bytes(contents[path])
    return tally


def _is_found(root: Path) -> bool:
    try:
        return bool(check_data_directory(root).findings)
    except DirectoryError as error:
        if "in use" in str(error):
            raise
        return True


def _is_restored(root: Path, state: State) -> bool:
    """Whether a server restores every session of a copy with the same bits."""

    async def live(home: Path) -> State:
        async with house(home, policy=POLICY) as made:
            return {session.id: bits(session) for session in made.namespaces[""].store.list_sessions()}

    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(root, Path(folder, "data"))
        found: State = run(live(Path(folder, "data")))
    return found == state


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--damages", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    stated = parser.parse_args()
    tally = damage(stated.damages, stated.sessions, stated.seed)
    print("\n".join(tally.lines()))
    return int(bool(tally.missed))


if __name__ == "__main__":
    sys.exit(main())
