"""Validation of lists of steps at which a schedule changes."""

from __future__ import annotations

from collections.abc import Sequence

from optserve_server.errors import DomainError, Reason, out_of_range_error


def require_increasing(field: str, boundaries: Sequence[int], least: int) -> None:
    """Refuses an empty list, and one that does not increase from at least ``least``.

    Raises:
        DomainError: FIELD_REQUIRED or OUT_OF_RANGE, naming the field or the item.
    """
    if not boundaries:
        raise DomainError(Reason.FIELD_REQUIRED, f"{field} is required", field=field)
    for i, boundary in enumerate(boundaries):
        if boundary < least:
            raise out_of_range_error(f"{field}[{i}]", boundary, f"at least {least}")
        least = boundary + 1
