"""Errors of damaged files."""

from __future__ import annotations


class DamagedError(Exception):
    """A file is not as it was written; the message says what and where, for operators."""
