"""Backups of a server while it serves: consistent, complete or refused, continued with the same bits."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import optserve
from optserve_server.__main__ import main
from optserve_server.durability.backup_copy import BackupError, copy_backup
from optserve_server.durability.durability_manager import SnapshotPolicy
from optserve_server.errors import Reason
from optserve_server.spec.session_spec import DurabilityMode
from optserve_server.state.session_change import Request
from optserve_server.storage.catalog import find_control_socket
from optserve_server.storage.directory_format import BACKUP, DirectoryError, read_backup_facts
from optserve_server.storage.failpoints import VARIABLE
from optserve_server.storage.files import Disk
from tests.recovery.keeping import House, bits, house, run
from tests.support.disks import FullDisk, fill, small_filesystem
from tests.support.server import RunningServer, run_to_end, running_server

SIZE = 6000
ZEROS = {"w": np.zeros(SIZE, np.float32)}
ADAM = optserve.optimizers.Adam(learning_rate=0.01)
POLICY = SnapshotPolicy(generations=2, segment_bytes=3000, journal_bytes=60_000)


def gradient(seed: int) -> dict[str, np.ndarray]:
    return {"w": np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)}


@dataclass(frozen=True)
class Logged:
    """An acknowledged step."""

    worker: str
    sequence: int
    seed: int
    parameters: bytes


@dataclass
class Load:
    """Workers that step sessions until they are stopped, and what they were answered.

    Attributes:
        steps: of each session, by the number of the step.
    """

    address: str
    stopping: threading.Event = field(default_factory=threading.Event)
    steps: dict[str, dict[int, Logged]] = field(default_factory=lambda: defaultdict(dict))
    errors: list[BaseException] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Three workers of one session, one of a session without a journal, and one that makes sessions."""
        works = [(self.step, "shared", worker) for worker in "abc"]
        works += [(self.step, "saved", "d"), (self.change_directory, "shared", "")]
        threads = [threading.Thread(target=self._guard, args=work) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in threads:
                thread.join(60)
        assert self.errors == []

    def _guard(self, work, *arguments: str) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self.errors.append(error)

    def step(self, name: str, worker: str) -> None:
        with optserve.connect(self.address) as client, client.session(name, worker=worker) as session:
            for number in range(100_000):
                if self.stopping.wait(0.01):
                    return
                seed = ord(worker) * 100_000 + number
                result = session.step(gradient(seed), pull=True)
                logged = Logged(worker, result.sequence, seed, result.parameters["w"].tobytes())
                self.steps[name][result.step] = logged

    def change_directory(self, name: str, _: str) -> None:
        with optserve.connect(self.address) as client, client.session(name) as session:
            for number in range(100_000):
                if self.stopping.wait(0.1):
                    return
                made = client.create_session(ZEROS, ADAM, session_id=f"brief{number}")
                session.snapshots.create()
                made.delete()

    def last_step(self, name: str) -> int:
        """The session's last step that was acknowledged by now."""
        return max(self.steps[name], default=0)

    def wait_for(self, name: str, count: int) -> None:
        deadline = time.monotonic() + 60
        goal = self.last_step(name) + count
        while self.last_step(name) < goal:
            assert time.monotonic() < deadline
            assert self.errors == []
            time.sleep(0.01)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    text: str


def command(*arguments: object) -> Ended:
    """Runs ``optserve-server`` in this process."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main([str(argument) for argument in arguments])
    return Ended(status, printed.getvalue())


def backup(root: Path, target: Path) -> Ended:
    return command("backup", f"--data-dir={root}", target)


def check(root: Path) -> Ended:
    return command("check", "--only=data", f"--data-dir={root}")


@contextlib.contextmanager
def serving(root: Path) -> Iterator[RunningServer]:
    # Live parameters in shared memory may be those of a later step than the result.
    with running_server(data_dir=root, journal_bytes="1MiB", shared_memory="no") as server:
        yield server


def create_sessions(address: str) -> None:
    with optserve.connect(address) as client:
        client.create_session(ZEROS, ADAM, session_id="shared")
        durability = optserve.Durability(mode="SNAPSHOT", snapshot_seconds=1000)
        client.create_session(ZEROS, ADAM, session_id="saved", durability=durability)


def test_backups_under_load_are_moments_of_every_session(tmp_path: Path) -> None:
    """Every change acknowledged before is in the copy; it continues as the original did, bit for bit."""
    copies: list[tuple[Path, dict[str, int], dict[str, int]]] = []
    with serving(tmp_path / "data") as server:
        create_sessions(server.address)
        load = Load(server.address)
        with load.running():
            for number in range(3):
                load.wait_for("shared", 60)  # a megabyte of records: segments are freed and used again
                load.wait_for("saved", 10)
                before = {name: load.last_step(name) for name in ("shared", "saved")}
                target = tmp_path / f"copy{number}"
                # In a process of its own, as operators run it, so that the load continues.
                done = run_to_end("backup", f"--data-dir={tmp_path / 'data'}", str(target))
                assert (done.returncode, done.stderr) == (0, "")
                copies.append((target, before, {name: load.last_step(name) for name in before}))
            load.wait_for("shared", 20)
        messages = [line["message"] for line in server.log()]
        assert messages.count("backup is complete") == 3
        assert list((tmp_path / "data" / "trash").iterdir()) == []
    for target, before, after in copies:
        checked = check(target)
        assert checked.status == 0, checked.text
        with serving(target) as server, optserve.connect(server.address) as client:
            assert not (target / BACKUP).exists()
            for name, log in load.steps.items():
                continue_as_logged(client, name, log, (before[name], after[name]))


def continue_as_logged(
    client: optserve.Client, name: str, log: dict[int, Logged], between: tuple[int, int]
) -> None:
    """Compares a restored session with the log, repeats its last step, and takes the ones that followed."""
    at = client.session(name).step_number
    # A step may have been recorded that was not acknowledged yet; each of four workers has one.
    assert between[0] <= at <= between[1] + 4
    assert client.session(name).pull()["w"].tobytes() == log[at].parameters
    last = {logged.worker: logged.sequence for step, logged in sorted(log.items()) if step <= at}
    workers = {
        worker: client.session(name, worker=worker) for worker in {logged.worker for logged in log.values()}
    }
    for step in range(at + 1, min(at + 20, max(log)) + 1):
        logged = log[step]
        result = workers[logged.worker].step(gradient(logged.seed), pull=True)
        assert (result.step, result.sequence) == (step, last.get(logged.worker, 0) + 1)
        assert result.parameters["w"].tobytes() == logged.parameters
        last[logged.worker] = result.sequence
    replayed = client.create_session(ZEROS, ADAM)
    for step in range(1, at + 1):
        replayed.step(gradient(log[step].seed))
    assert replayed.pull()["w"].tobytes() == log[at].parameters


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


async def live_on(made: House, steps: int) -> None:
    """Steps, saves, deletes and makes sessions, until every file of before has another content or is gone."""
    session = made.namespaces[""].store.get("a")
    assert session.durability is not None
    for number in range(steps):
        await made.step(session, number)
        if number % 10 == 9:
            await made.durability_manager.save_session(session.durability)
    kept = await made.durability_manager.save_session(session.durability, asked=Request("k", b"k"))
    await made.durability_manager.delete_snapshots(session.durability, [kept], Request("d", b"d"))
    gone = made.namespaces[""].store.get("b")
    await asyncio.to_thread(made.durability_manager.delete_session, gone.durability, Request("x", b"x"))


def test_what_the_server_does_meanwhile_does_not_reach_the_copy(tmp_path: Path) -> None:
    root, copy = tmp_path / "data", tmp_path / "copy"

    async def work() -> dict[str, dict[str, bytes]]:
        async with house(root, policy=POLICY) as made:
            for name in "ab":
                session = made.create(name)
                for number in range(25):
                    await made.step(session, number)
            saved = made.create("c", mode=DurabilityMode.SNAPSHOT)
            await made.step(saved, 1)
            source = await made.durability_manager.begin_backup()
            states = {name: bits(made.namespaces[""].store.get(name)) for name in "abc"}
            first = {path.name for path in (root / "journal").glob("*.journal")}
            await live_on(made, steps=80)
            assert len(first - {path.name for path in (root / "journal").glob("*.journal")}) >= 3
            facts, _ = await asyncio.to_thread(copy_backup, source.folder, copy)
            await made.durability_manager.end_backup(source)
            assert (facts.sessions, facts.is_complete) == (3, True)
            assert read_backup_facts(copy) == facts
            assert list((root / "trash").iterdir()) == []
        return states

    states = run(work())
    before = tree(copy)
    assert check(copy).status == 0
    assert tree(copy).items() >= before.items()

    async def compare() -> None:
        async with house(copy, policy=POLICY) as made:
            assert {name: bits(made.namespaces[""].store.get(name)) for name in "abc"} == states
            await live_on(made, steps=20)

    run(compare())
    assert check(copy).status == 0


class MeddlingDisk(Disk):
    """A disk that lets something else happen after a number of links.

    Attributes:
        meddle: called once.
        left: links until then.
    """

    def __init__(self) -> None:
        self.meddle: Callable[[], object] = bool
        self.left = 0

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        self.left -= 1
        if self.left == 0:
            self.meddle()


@pytest.mark.parametrize("links", range(1, 7))
def test_sessions_that_are_deleted_and_made_again_before_the_moment(tmp_path: Path, links: int) -> None:
    """Files get their second names in two passes; of a session that changes in between, the second counts."""
    disk, copy = MeddlingDisk(), tmp_path / "copy"

    async def work() -> dict[str, dict[str, bytes]]:
        async with house(tmp_path / "data", disk) as made:
            for name in ("again", "gone", "stays"):
                await made.step(made.create(name), 0)

            def meddle() -> None:
                for name in ("again", "gone"):
                    durability = made.namespaces[""].store.get(name).durability
                    made.durability_manager.delete_session(durability, Request(name, b"x"))
                    made.namespaces[""].store.delete(name)
                made.create("again", values={"other": np.ones(4)})
                made.create("new")

            disk.meddle, disk.left = meddle, links
            source = await made.durability_manager.begin_backup()
            assert disk.left < 0
            copy_backup(source.folder, copy)
            await made.durability_manager.end_backup(source)
            store = made.namespaces[""].store
            return {name: bits(store.get(name)) for name in ("again", "stays", "new")}

    states = run(work())
    assert check(copy) == Ended(0, "data      ok       3 sessions are whole; 0 findings\n")
    assert sorted(path.name for path in (copy / "sessions").iterdir()) == ["again", "new", "stays"]

    async def compare() -> None:
        async with house(copy) as made:
            store = made.namespaces[""].store
            assert {name: bits(store.get(name)) for name in states} == states

    run(compare())


def test_a_session_that_is_deleted_while_it_is_saved_for_a_backup(tmp_path: Path) -> None:
    async def work() -> int:
        async with house(tmp_path / "data") as made:
            saved, _ = made.create("c", mode=DurabilityMode.SNAPSHOT), made.create("a")
            await made.step(saved, 1)
            async with saved.lock:
                beginning = asyncio.create_task(made.durability_manager.begin_backup())
                await asyncio.sleep(0.05)
                saved.close()
            source = await beginning
            await made.durability_manager.end_backup(source)
            return source.facts.sessions

    assert run(work()) == 2


KILLED_AT = ["during-temp-write:1", "during-temp-write:3", "before-temp-write", "before-rename"]


@pytest.mark.parametrize("failpoint", KILLED_AT)
def test_a_killed_backup_is_refused_and_nothing_is_left_of_it(tmp_path: Path, failpoint: str) -> None:
    root, target = tmp_path / "data", tmp_path / "copy"
    with serving(root) as server, optserve.connect(server.address) as client:
        session = client.create_session(ZEROS, ADAM)
        session.step(gradient(0))
        killed = run_to_end("backup", f"--data-dir={root}", str(target), **{VARIABLE: failpoint})
        assert killed.returncode == -9
        checked = check(target)
        assert (checked.status, "a backup that was not completed" in checked.text) == (1, True)
        with pytest.raises(DirectoryError, match="not completed"):
            run(enter(target))
        deadline = time.monotonic() + 20
        while list((root / "trash").iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "backup was not completed" in [line["message"] for line in server.log()]
        session.step(gradient(1))
        again = backup(root, target)
        assert (again.status, "not an empty folder" in again.text) == (1, True)
        assert backup(root, tmp_path / "another").status == 0


async def enter(root: Path) -> None:
    async with house(root):
        pass


def test_a_full_target_is_a_typed_error(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with small_filesystem("tmpfs") as small, serving(root) as server:
        with optserve.connect(server.address) as client:
            client.create_session(ZEROS, ADAM)
        with fill(small):
            done = backup(root, small / "copy")
        assert done.status == 1
        assert done.text.startswith("optserve-server backup: STORAGE_FULL: ")
        assert not (small / "copy").exists()


@pytest.mark.parametrize("was_there", [True, False])
def test_a_target_that_gets_full_is_removed(tmp_path: Path, was_there: bool) -> None:
    target = tmp_path / "copy"
    if was_there:
        target.mkdir()

    async def work() -> None:
        async with house(tmp_path / "data") as made:
            made.create("a")
            source = await made.durability_manager.begin_backup()
            with pytest.raises(BackupError, match=r"STORAGE_FULL: .*No space left") as caught:
                copy_backup(source.folder, target, FullDisk(20_000))
            assert caught.value.reason is Reason.STORAGE_FULL
            await made.durability_manager.end_backup(source)

    run(work())
    assert target.exists() == was_there
    assert not was_there or list(target.iterdir()) == []


def test_two_servers_do_not_use_one_backup(tmp_path: Path) -> None:
    with serving(tmp_path / "data"):
        assert backup(tmp_path / "data", tmp_path / "copy").status == 0
        assert backup(tmp_path / "data", tmp_path / "data" / "copy").status == 1
        with (
            serving(tmp_path / "copy"),
            pytest.raises(RuntimeError, match=r"in use by another server \(process \d+ on \S+\)"),
            serving(tmp_path / "copy"),
        ):
            pass
    stopped = backup(tmp_path / "data", tmp_path / "late")
    assert (stopped.status, "no server on this host uses" in stopped.text) == (1, True)


def ask(name: str, *, as_user: int | None = None) -> str:
    """What the control socket answers; empty if it closes the connection."""
    text = (
        "import os, socket, sys\n"
        "if sys.argv[2]: os.setuid(int(sys.argv[2]))\n"
        "with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:\n"
        "    connection.connect('\\0' + sys.argv[1])\n"
        "    try:\n"
        "        connection.sendall(b'backup')\n"
        "        print(connection.recv(4096).decode())\n"
        "    except (BrokenPipeError, ConnectionResetError):\n"
        "        pass\n"
    )
    user = "" if as_user is None else str(as_user)
    return subprocess.run(
        [sys.executable, "-I", "-c", text, name, user], capture_output=True, text=True, timeout=30, check=True
    ).stdout.strip()


def test_one_backup_at_a_time_and_for_the_servers_user_alone(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with serving(root) as server:
        name = find_control_socket(root)
        assert (root / "LOCK").stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(30)
            connection.connect(f"\0{name}")
            connection.sendall(b"backup")
            assert b"folder" in connection.recv(4096)
            assert "another backup is being made" in ask(name)
            if os.geteuid() == 0:  # no other user can be one
                assert ask(name, as_user=65534) == ""
                assert "turned away" in server.log()[-1]["message"]
            assert len(list((root / "trash").iterdir())) == 1
            assert server.stop() == 0
        assert list((root / "trash").iterdir()) == []
