"""Directories that released versions have written are opened with the same bits."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from optserve_server.state.session_change import Request
from optserve_server.storage.directory_format import FORMAT, OLDEST_FORMAT
from tests.recovery.keeping import house, run
from tests.recovery.write_format import EXPECTED, FORMATS, POLICY, SESSIONS, describe


@pytest.mark.parametrize("number", range(OLDEST_FORMAT, FORMAT + 1))
def test_a_released_format_is_read(tmp_path: Path, number: int) -> None:
    with tarfile.open(FORMATS / f"{number}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    expected = json.loads((tmp_path / EXPECTED).read_text())

    async def live() -> None:
        for _ in range(2):  # as it was written, and as this version has left it
            async with house(tmp_path / "data", policy=POLICY) as made:
                for session_id, namespace in SESSIONS.items():
                    # An older format lacks what later ones have added.
                    found = describe(made.namespaces[namespace].store.get(session_id))
                    assert {fact: found[fact] for fact in expected[session_id]} == expected[session_id]
                requests = made.namespaces[""].requests
                assert requests.find_answer(Request("create", b"content")) is not None
                assert requests.find_answer(Request("everything7", b"content")) is not None
                kept = list((tmp_path / "data" / "sessions").glob("*/kept-*"))
                assert len(kept) == len(SESSIONS)

    run(live())
