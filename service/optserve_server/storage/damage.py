"""Errors of damaged files."""

from __future__ import annotations


class DamagedError(Exception):
    """A file is not as it was written; the message says what and where, for operators."""


class UnknownFormatError(DamagedError):
    """A file is of a newer format than this server reads."""
