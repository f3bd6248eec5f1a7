"""Full and failing disks: changes are rejected, sessions stay unchanged, and steps resume afterwards."""

from __future__ import annotations

import asyncio
import errno
import time
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from optserve_server.durability.change_records import ReportChange, UpdateChange
from optserve_server.durability.disk_state import RETRY_AFTER_S
from optserve_server.errors import DomainError, Reason
from optserve_server.resources.budget import Kind
from optserve_server.sessions.session import Session
from optserve_server.spec.session_spec import DurabilityMode, DurabilitySpec
from optserve_server.state.session_change import Request
from optserve_server.wire.errors import CODES
from tests.recovery.keeping import House, bits, house, run
from tests.support.disks import FailingDisk, FullDisk, GatedDisk

CASES = [
    ("write", errno.ENOSPC, Reason.STORAGE_FULL, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ("write", errno.EDQUOT, Reason.STORAGE_FULL, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ("write", errno.EIO, Reason.STORAGE_UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
    ("sync", errno.EIO, Reason.STORAGE_UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
    ("sync", errno.ENOSPC, Reason.STORAGE_FULL, grpc.StatusCode.RESOURCE_EXHAUSTED),
]


@pytest.mark.parametrize(("operation", "number", "reason", "code"), CASES)
def test_a_refused_step_changes_nothing_and_is_taken_later(
    tmp_path: Path, operation: str, number: int, reason: Reason, code: grpc.StatusCode
) -> None:
    disk = FailingDisk()

    async def live() -> dict[str, bytes]:
        async with house(tmp_path, disk) as made:
            session = made.create("a")
            await made.step(session, 1, worker="w", sequence=1)
            before = bits(session)
            disk.failing = {operation: number}
            for _ in range(3):
                error = await _expect_refusal(made, session, 2, worker="w", sequence=2)
                assert (error.reason, CODES[error.reason]) == (reason, code)
                assert error.retry_after == RETRY_AFTER_S
                assert bits(session) == before
                assert session.step == session.durable_step == 1
            with pytest.raises(DomainError) as caught:
                made.create("b")
            assert caught.value.reason is reason
            disk.failing = {}
            assert (await made.step(session, 2, worker="w", sequence=2)).step == 2
            assert (await made.step(session, 3, worker="w", sequence=3)).durable_step == 3
            made.create("b")
            return bits(session)

    after = run(live())

    async def again() -> dict[str, bytes]:
        async with house(tmp_path) as made:
            assert len(made.namespaces[""].store) == 2
            return bits(made.namespaces[""].store.get("a"))

    assert run(again()) == after


async def _expect_refusal(made: House, session: Session, seed: int, **options: object) -> DomainError:
    with pytest.raises(DomainError) as caught:
        await made.step(session, seed, **options)
    return caught.value


async def _try_step(made: House, session: Session, number: int) -> Reason | None:
    try:
        await made.step(session, number, worker="w", sequence=number)
    except DomainError as error:
        return error.reason
    return None


def test_a_disk_that_fills_up_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """Bytes run out somewhere within a record, again and again."""
    disk = FullDisk(1 << 20)

    async def live() -> tuple[int, dict[str, bytes]]:
        async with house(tmp_path, disk) as made:
            session, taken = made.create("a"), 0
            for room in (0, 10, 39, 40, 41, 200, 900, 3000):
                disk.left = room
                for _ in range(10):
                    reason = await _try_step(made, session, taken + 1)
                    taken += reason is None
                    assert reason in (None, Reason.STORAGE_FULL)
                    assert session.step == taken
            disk.left = 1 << 20
            return taken, bits(session)

    taken, before = run(live())
    assert taken > 3

    async def again() -> None:
        async with house(tmp_path) as made:
            session = made.namespaces[""].store.get("a")
            assert session.step == taken
            assert bits(session) == before

    run(again())


def test_a_snapshot_that_fails_is_tried_again(tmp_path: Path) -> None:
    disk = FailingDisk()

    async def live() -> dict[str, bytes]:
        async with house(tmp_path, disk) as made:
            session = made.create("a", mode=DurabilityMode.SNAPSHOT)
            assert session.durability is not None
            for seed in range(3):
                await made.step(session, seed)
            disk.failing = {"write": errno.ENOSPC}
            with pytest.raises(DomainError) as caught:
                await made.durability_manager.save_session(session.durability)
            assert caught.value.reason is Reason.STORAGE_FULL
            assert session.durable_step == 0
            assert list(session.durability.folder.path.glob(".*")) == []
            disk.failing = {}
            await made.durability_manager.save_session(session.durability)
            assert session.durable_step == 3
            return bits(session)

    before = run(live())

    async def again() -> dict[str, bytes]:
        async with house(tmp_path) as made:
            return bits(made.namespaces[""].store.get("a"))

    assert run(again()) == before


def test_a_refused_report_is_not_counted(tmp_path: Path) -> None:
    disk = FailingDisk()

    async def live() -> None:
        async with house(tmp_path, disk) as made:
            session = made.create("a")
            await made.step(session, 1)
            disk.failing = {"sync": errno.EIO}
            with pytest.raises(DomainError):
                await made.change(session, ReportChange({"loss": 1.0}, request=Request("key", b"content")))
            assert session.durability is not None
            asked, requests = Request("key", b"content"), session.durability.requests
            assert requests.find_answer(asked) is None
            disk.failing = {}
            await made.change(session, ReportChange({"loss": 1.0}, request=Request("key", b"content")))
            assert requests.find_answer(asked) is not None

    run(live())


def test_a_record_that_is_safe_is_let_go_of(tmp_path: Path) -> None:
    async def live() -> None:
        async with house(tmp_path) as made:
            session = made.create("a")
            await made.step(session, 1)
            deadline = time.monotonic() + 10
            while session.budget.usage(Kind.IN_FLIGHT):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)

    run(live())


def test_a_slow_snapshot_takes_nothing_back(tmp_path: Path) -> None:
    """It is begun before a session is journaled, and durable only when a later one is."""
    disk = GatedDisk()

    async def live() -> None:
        async with house(tmp_path, disk) as made:
            session = made.create("a", mode=DurabilityMode.SNAPSHOT)
            assert session.durability is not None
            await made.step(session, 1)
            disk.gated = True
            slow = asyncio.create_task(made.durability_manager.save_session(session.durability))
            await asyncio.to_thread(disk.reached.wait, 10)
            await made.step(session, 2)
            spec = replace(session.spec, durability=DurabilitySpec(mode=DurabilityMode.JOURNAL))
            await made.change(session, UpdateChange(made.namespaces[""].store, spec))
            assert (await made.step(session, 3)).durable_step == 3
            disk.opened.set()
            await slow
            assert session.durable_step == 3
            assert (await made.step(session, 4)).durable_step == 4

    run(live())
