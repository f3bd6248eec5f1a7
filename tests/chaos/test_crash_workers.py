"""The short form of ``make crash-workers``."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.crash_workers.__main__ import MODES
from chaos.crash_workers.audit import Committed, Ledger, Replay, check_acknowledged
from chaos.crash_workers.campaign import DISTURBANCES, SERVER, Campaign
from chaos.crash_workers.contributions import VALUES, gradient
from optserve_server.state.session_change import ChangeKind
from optserve_server.storage.record_payload import pack_payload

LEASE = 1.0


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_killed_workers_and_servers_lose_and_double_nothing(mode: str, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, MODES[mode], processes=2, workers=4, lease=LEASE, seed=3)
    found = campaign.run(4)
    print("\n".join(found.lines()))
    assert set(found.deaths) == {SERVER, *DISTURBANCES}
    assert 0 < found.acknowledged <= found.committed
    # The full form checks it against the steps that it measures; this one shares its machine with tests.
    assert 0 < max(found.longest.values()) < LEASE + 20


def record(facts: dict[str, object], *buffers: bytes) -> memoryview:
    return memoryview(b"".join(bytes(piece) for piece in pack_payload(facts, buffers)))


def contribution(sequence: int, epoch: int, number: int) -> memoryview:
    values = gradient("worker-0", epoch, number)
    facts = {
        "kind": ChangeKind.CONTRIBUTION,
        "options": {"worker": "worker-0", "sequence": sequence},
        "tensors": [(name, array.dtype.name) for name, array in values.items()],
    }
    return record(facts, b"".join(array.tobytes() for array in values.values()))


@pytest.fixture
def replay() -> Replay:
    """A journal in which a worker joined and contributed once."""
    replay = Replay()
    replay.make(record({"kind": ChangeKind.JOIN, "worker": "worker-0", "lease_seconds": 1.0}))
    replay.make(contribution(1, 1, 1))
    return replay


class TestTheAudit:
    def test_it_follows_epochs(self, replay: Replay) -> None:
        replay.make(record({"kind": ChangeKind.JOIN, "worker": "worker-0", "lease_seconds": 1.0}))
        replay.make(contribution(2, 2, 1))
        assert replay.step == 2
        assert replay.committed["worker-0", 2, 1] == Committed(2, 2, "APPLIED")
        assert set(replay.parameters()) == set(VALUES)

    @pytest.mark.parametrize(
        ("sequence", "number"), [(1, 1), (3, 2)], ids=["twice", "without the one before"]
    )
    def test_it_finds_a_wrong_sequence(self, replay: Replay, sequence: int, number: int) -> None:
        with pytest.raises(AssertionError, match="instead of 2"):
            replay.make(contribution(sequence, 1, number))

    def test_it_finds_the_same_gradient_twice(self, replay: Replay) -> None:
        with pytest.raises(AssertionError, match="not the mean"):
            replay.make(contribution(2, 1, 1))

    def test_it_finds_a_contribution_of_an_epoch_that_has_ended(self, replay: Replay) -> None:
        replay.make(record({"kind": ChangeKind.JOIN, "worker": "worker-0", "lease_seconds": 1.0}))
        with pytest.raises(AssertionError, match="not the mean"):
            replay.make(contribution(2, 1, 2))

    def test_it_finds_a_contribution_of_no_member(self, replay: Replay) -> None:
        replay.make(
            record({"kind": ChangeKind.END_MEMBERSHIPS, "state": "EXPIRED", "members": [("worker-0", 1)]})
        )
        with pytest.raises(AssertionError, match="was fenced"):
            replay.make(contribution(2, 1, 2))

    def test_it_finds_a_lost_acknowledgement(self, replay: Replay) -> None:
        told = {
            ("worker-0", 1, 1): Committed(1, 1, "APPLIED"),
            ("worker-0", 1, 2): Committed(2, 2, "APPLIED"),
        }
        with pytest.raises(AssertionError, match="is None in the journal"):
            check_acknowledged(replay, Ledger(told, {}, 0))
