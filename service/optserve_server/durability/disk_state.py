"""State of the disk: result of the last write, and rejection of changes while writes fail."""

from __future__ import annotations

import contextlib
import errno
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from optserve_server.errors import DomainError, Reason
from optserve_server.storage.files import Disk, write_file_atomically

RETRY_AFTER_S = 2.0
"""Seconds after which a full disk is tried again."""

_TRIAL_BYTES = 1 << 20
"""Bytes of a trial write that must succeed before a full disk is used again."""

_log = logging.getLogger(__name__)


class DiskState:
    """Whether the disk accepts writes, as the results of writes show.

    A load balancer may stop sending because of readiness; so `probe_disk` writes something
    now and then while the disk fails, and at no other time.

    Args:
        disk: the disk.
        root: the data directory.

    Attributes:
        trouble: why it did not take what was written last; empty if it did.
    """

    def __init__(self, disk: Disk, root: Path) -> None:
        self.trouble = ""
        self._disk = disk
        self._trial = root / "trial"
        self._tried = 0.0

    @contextlib.contextmanager
    def convert_errors(self) -> Iterator[None]:
        """Turns an error of the disk into a refusal, and remembers how the block ended.

        Raises:
            DomainError: STORAGE_FULL or STORAGE_UNAVAILABLE.
        """
        try:
            yield
        except OSError as error:
            _log.warning("the disk refuses: %s", error)
            reason = self._note_failure(error)
            text = f"{self.trouble}; nothing was applied"
            raise DomainError(reason, text, retry_after=RETRY_AFTER_S) from error
        self.trouble = ""

    def is_probe_due(self) -> bool:
        """Whether to `probe_disk`."""
        return bool(self.trouble) and time.monotonic() - self._tried >= RETRY_AFTER_S

    def probe_disk(self) -> None:
        """Writes something, to see whether the disk takes it by now; blocks for that time."""
        self._tried = time.monotonic()
        try:
            write_file_atomically(self._disk, self._trial, [bytes(_TRIAL_BYTES)])
            self._disk.remove(self._trial)
        except OSError as error:
            self._note_failure(error)
        else:
            _log.info("the disk takes what is written again")
            self.trouble = ""

    def _note_failure(self, error: OSError) -> Reason:
        self._tried = time.monotonic()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self.trouble = "the server's disk is full"
            return Reason.STORAGE_FULL
        if error.errno in (errno.EMFILE, errno.ENFILE):
            self.trouble = "the server has no file descriptor left"
        else:
            self.trouble = "the server's disk has failed"
        return Reason.STORAGE_UNAVAILABLE
