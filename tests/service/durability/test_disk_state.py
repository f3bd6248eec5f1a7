"""What a failed write says of the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from optserve_server.durability.disk_state import DiskState
from optserve_server.errors import DomainError, Reason
from optserve_server.storage.files import Disk


@pytest.mark.parametrize(
    ("code", "reason", "trouble"),
    [
        (errno.ENOSPC, Reason.STORAGE_FULL, "the server's disk is full"),
        (errno.EIO, Reason.STORAGE_UNAVAILABLE, "the server's disk has failed"),
        (errno.EMFILE, Reason.STORAGE_UNAVAILABLE, "the server has no file descriptor left"),
        (errno.ENFILE, Reason.STORAGE_UNAVAILABLE, "the server has no file descriptor left"),
    ],
)
def test_errors_are_told_apart(tmp_path: Path, code: int, reason: Reason, trouble: str) -> None:
    state = DiskState(Disk(), tmp_path)
    with pytest.raises(DomainError, match=trouble) as caught, state.convert_errors():
        raise OSError(code, "no")
    assert caught.value.reason is reason
    assert state.trouble == trouble
    state.probe_disk()
    assert state.trouble == ""
