"""What operators see of the disk."""

from __future__ import annotations

from pathlib import Path

from optserve.v1 import session_service_pb2 as pb
from tests.integration.test_operations import samples
from tests.recovery.test_durability import VALUES, gradient, running


def test_metrics_count_records_syncs_and_snapshots(tmp_path: Path) -> None:
    with running(tmp_path, metrics_port=0) as (server, client):
        session = client.create(VALUES, session_id="a")
        for number in range(3):
            client.step(session.name, gradient(number))
        client.sessions.CreateSnapshot(pb.CreateSnapshotRequest(name=session.name), timeout=20)
        found = samples(server)
    assert found["optserve_journal_records_total", ""] == 5, "a creation, steps and a snapshot"
    assert found["optserve_journal_syncs_total", ""] == 5
    assert 0 < found["optserve_journal_sync_seconds_total", ""] < 10
    assert found["optserve_journal_bytes", ""] > 3 * 4000
    assert found["optserve_snapshots_total", ""] == 1
    assert found["optserve_snapshots_failed_total", ""] == 0


def test_metrics_count_damaged_sessions(tmp_path: Path) -> None:
    with running(tmp_path) as (_, client):
        for session_id in "ab":
            client.create(VALUES, session_id=session_id)
    (tmp_path / "sessions" / "a" / "manifest.json").write_bytes(b"damaged")
    with running(tmp_path, metrics_port=0) as (server, client):
        found = samples(server)
        assert found["optserve_sessions_damaged", ""] == 1
        assert found["optserve_recovery_sessions", "outcome=restored"] == 1
        assert found["optserve_recovery_sessions", "outcome=damaged"] == 1
        assert 0 < found["optserve_recovery_seconds", ""] < 60
        client.sessions.DeleteSession(pb.DeleteSessionRequest(name="sessions/a"), timeout=20)
        assert samples(server)["optserve_sessions_damaged", ""] == 0
