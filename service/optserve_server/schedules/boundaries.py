"""Validation of lists of steps at which a schedule changes."""

from __future__ import annotations

from collections.abc import Sequence

from optserve_server.errors import DomainError, Reason


def require_increasing(field: str, boundaries: Sequence[int], least: int) -> None:
    """Refuses an empty list, and one that does not increase from at least ``least``.

    Raises:
        DomainError: FIELD_REQUIRED or OUT_OF_RANGE, naming the field or the item.
    """
    if not boundaries:
        raise DomainError(Reason.FIELD_REQUIRED, f"{field} is required", field=field)
    for i, boundary in enumerate(boundaries):
        if boundary < least:
            raise out_of_range(f"{field}[{i}]", boundary, f"at least {least}")
        least = boundary + 1


def out_of_range(field: str, actual: float, allowed: str) -> DomainError:
    """The error of a number that is out of its range."""
    return DomainError(
        Reason.OUT_OF_RANGE,
        f"{field} is {actual}, but must be {allowed}",
        field=field,
        metadata={"range": allowed, "actual": actual},
    )
