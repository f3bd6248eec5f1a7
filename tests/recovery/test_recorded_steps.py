"""Small steps that wait for their records: the event loop completes them even if the client has gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from optserve_server.errors import DomainError, Reason
from optserve_server.state.staging import NamedArray
from optserve_server.state.step_result import StepOptions, StepOutcome, StepResult
from optserve_server.stepping.step import Step
from tests.recovery.keeping import House, bits, gradient, house, run
from tests.support.disks import GatedDisk


def test_a_step_whose_caller_has_gone_is_taken_when_its_record_is_safe(tmp_path: Path) -> None:
    disk = GatedDisk()

    async def live() -> None:
        async with house(tmp_path, disk) as made:
            session, like = made.create("a"), made.create("b")
            disk.gated = True
            gone = asyncio.create_task(made.step(session, 1, worker="w", sequence=1))
            await asyncio.to_thread(disk.reached.wait, 10)
            waiting = asyncio.create_task(made.step(session, 2, worker="w", sequence=2))
            await asyncio.sleep(0)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert session.step == 0
            assert session.lock.locked()
            disk.opened.set()
            assert (await waiting).step == 2, "in its turn"
            again = await made.step(session, 1, worker="w", sequence=1)
            assert (again.step, again.replayed) == (1, True)
            for number in (1, 2):
                await made.step(like, number, worker="w", sequence=number)
            assert bits(session) == bits(like)

    run(live())


def test_what_is_refused_or_changes_nothing_gives_the_session_back_and_leaves_no_record(
    tmp_path: Path,
) -> None:
    async def live() -> None:
        async with house(tmp_path) as made:
            session = made.create("a")
            with pytest.raises(DomainError) as caught:
                await made.step(session, 1, worker="w", sequence=7)
            assert caught.value.reason is Reason.SEQUENCE_GAP
            result = await made.step(session, 1, validate_only=True)
            assert result.outcome is StepOutcome.VALIDATED
            assert not session.lock.locked()
            assert made.durability_manager.journal.records == 1, "that of the creation"
            assert (await made.step(session, 1, worker="w", sequence=1)).step == 1
            assert made.durability_manager.journal.records == 2

    run(live())


def test_a_defect_while_a_step_is_taken_reaches_its_caller_and_gives_the_session_back(
    tmp_path: Path,
) -> None:
    def fail(step: Step) -> StepResult:
        raise ZeroDivisionError("a defect")

    async def live() -> None:
        async with house(tmp_path) as made:
            session = made.create("a")
            staging = session.stage_arrays([NamedArray(n, a) for n, a in gradient(1).items()])
            with pytest.raises(ZeroDivisionError):
                await made.execution.commit(session, Step(session, staging, StepOptions()), fail)
            assert not session.lock.locked()

    run(live())


def test_steps_of_many_sessions_that_wait_together_share_syncs(tmp_path: Path) -> None:
    disk, count = GatedDisk(), 12

    async def live() -> None:
        async with house(tmp_path, disk) as made:
            sessions = [made.create(f"s{i}") for i in range(count)]
            syncs = made.durability_manager.journal.syncs
            disk.gated = True
            first = asyncio.create_task(made.step(sessions[0], 0))
            await asyncio.to_thread(disk.reached.wait, 10)
            others = [asyncio.create_task(made.step(s, i)) for i, s in enumerate(sessions) if i]
            await asyncio.sleep(0.05)
            disk.opened.set()
            results = await asyncio.gather(first, *others)
            assert [result.durable_step for result in results] == [1] * count
            assert made.durability_manager.journal.syncs - syncs == 2, "one for the first, one for all others"
            for i, session in enumerate(sessions):
                assert bits(session) == await _alone(made, i)

    run(live())


async def _alone(made: House, seed: int) -> dict[str, bytes]:
    """What a session holds after its one step."""
    session = made.create(f"alone{seed}")
    await made.step(session, seed)
    return bits(session)
