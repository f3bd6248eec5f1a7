"""File systems that are really full: the server refuses changes, lives, and continues."""

from __future__ import annotations

from pathlib import Path

import pytest

from optserve_server.durability.disk_state import RETRY_AFTER_S
from optserve_server.errors import DomainError, Reason
from optserve_server.sessions.session import Session
from optserve_server.storage.durable_positions import DurablePositions
from optserve_server.storage.files import Disk
from tests.recovery.keeping import House, bits, house, run
from tests.service.storage.journals import open_positions
from tests.support.disks import fill, list_filesystems, small_filesystem

KINDS = list_filesystems()
CYCLES = 30


def add_owners(table: DurablePositions) -> None:
    """Adds more owners than the table has blocks for."""
    for owner in range(1001, 5000, 2):
        table.add_owner(owner)


async def try_step(
    made: House, session: Session, seed: int, sequence: int
) -> tuple[Reason, float | None] | None:
    """Takes a step; returns how it was refused, or None."""
    try:
        await made.step(session, seed, worker="w", sequence=sequence)
    except DomainError as error:
        return error.reason, error.retry_after
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_positions_have_blocks_before_they_are_used(kind: str) -> None:
    """A store to a mapped file without blocks would end the process with SIGBUS."""
    with small_filesystem(kind) as root:
        table = open_positions(Disk(), root)
        with fill(root):
            for owner in range(1, 1000, 2):
                table.record_position(owner, 1)
            with pytest.raises(OSError, match="No space left"):
                add_owners(table)
            for owner in range(4001, 5000, 2):
                table.record_position(owner, 1)  # whose blocks cannot be allocated
        table.record_position(4999, 2)
        table.close()
        again = open_positions(Disk(), root)
        assert (again[1], again[999], again[4999]) == (1, 1, 2)
        again.close()


@pytest.mark.parametrize("kind", KINDS)
def test_thirty_times_full_and_free(kind: str) -> None:
    with small_filesystem(kind) as root:

        async def live(folder: Path) -> dict[str, bytes]:
            async with house(folder) as made:
                session, taken = made.create("a"), 0
                for cycle in range(CYCLES):
                    with fill(root):
                        refused = 0
                        for number in range(20):
                            refusal = await try_step(made, session, number, taken + 1)
                            taken += refusal is None
                            assert refusal in (None, (Reason.STORAGE_FULL, RETRY_AFTER_S))
                            assert session.step == taken
                            refused += refusal is not None
                        with pytest.raises(DomainError):
                            made.create(f"full{cycle}")
                        assert refused
                    await made.step(session, cycle, worker="w", sequence=taken + 1)
                    taken += 1
                    made.create(f"free{cycle}")
                assert session.durability is not None
                await made.durability_manager.save_session(session.durability)
                return bits(session)

        before = run(live(root / "data"))

        async def start_on_a_full_disk() -> dict[str, bytes]:
            with fill(root):
                async with house(root / "data") as made:
                    session = made.namespaces[""].store.get("a")
                    assert bits(session) == before
                    following, refused = session.step_deduplication.next_sequence("w"), 0
                    for number in range(20):
                        refusal = await try_step(made, session, number, following)
                        following += refusal is None
                        refused += refusal is not None
                    assert refused
                    (root / "filler").unlink()
                    assert await try_step(made, session, 1, following) is None
                    return bits(session)

        before = run(start_on_a_full_disk())

        async def again() -> None:
            async with house(root / "data") as made:
                store = made.namespaces[""].store
                assert len(store) == 1 + CYCLES
                assert bits(store.get("a")) == before

        run(again())
