"""What recovery says of files that are not as they were written."""

from __future__ import annotations


class DamagedError(Exception):
    """Something on the disk is not what was put there; the message says what and where, for operators."""
