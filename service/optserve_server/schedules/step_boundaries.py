"""Validation of lists of steps at which a schedule changes, and of the rates between them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optserve_server.errors import DomainError, Reason, conflict_error, out_of_range_error


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


def require_values(values: Sequence[float], boundaries: Sequence[int]) -> None:
    """Refuses rates that are negative or not finite, and any number of them but one more than boundaries.

    Raises:
        DomainError: OUT_OF_RANGE naming the item, or CONFLICTING_FIELDS.
    """
    for i, value in enumerate(values):
        if not 0 <= value < math.inf:
            raise out_of_range_error(f"values[{i}]", value, "at least 0")
    if len(values) != len(boundaries) + 1:
        raise conflict_error(
            "values",
            f"there are {len(values)} values for {len(boundaries)} boundaries, "
            f"but there must be {len(boundaries) + 1}",
        )
