"""Sliding windows: the number of positions along each dimension."""

from __future__ import annotations

from enum import StrEnum

from optserve_server.complexity.base import Shape, check_extents, format_shape, shape_mismatch_error
from optserve_server.errors import conflict_error, out_of_range_error

MAX_DIMENSIONS = 3
"""Dimensions that a window may slide along."""


class LayerPadding(StrEnum):
    """What happens at the borders of a sliding window."""

    VALID = "VALID"
    SAME = "SAME"


class PoolingForm(StrEnum):
    """What pooling makes of a window."""

    MAX = "MAX"
    AVERAGE = "AVERAGE"

    def operations_per_window(self, elements: int) -> int:
        """Operations for one window: comparisons, or additions and a division."""
        return elements - 1 if self is PoolingForm.MAX else elements


def check_window(window: Shape, field: str, **others: Shape) -> None:
    """Checks a window and what is stated for each of its dimensions.

    Raises:
        DomainError: OUT_OF_RANGE, or CONFLICTING_FIELDS if another list is not as long.
    """
    if not 1 <= len(window) <= MAX_DIMENSIONS:
        allowed = f"in [1, {MAX_DIMENSIONS}]"
        message = f"{field} has {len(window)} extents, but their number must be {allowed}"
        raise out_of_range_error(field, len(window), allowed, message)
    check_extents(window, field)
    for name, values in others.items():
        if len(values) != len(window):
            raise conflict_error(name, f"{name} has {len(values)} numbers, but {field} has {len(window)}")
        check_extents(values, name)


def count_window_positions(
    shape: Shape, window: Shape, strides: Shape, dilation: Shape, padding: LayerPadding, field: str
) -> Shape:
    """The places of a window along each dimension of an input with channels behind them.

    With n the input's extent, s the stride and d*(k - 1) + 1 the window's span:

        VALID  floor((n - span)/s) + 1
        SAME   ceil(n/s)

    Raises:
        DomainError: SHAPE_MISMATCH at ``field`` where the dimensions do not match or no
            window fits.
    """
    if len(shape) != len(window) + 1:
        expected = f"{len(window)} dimensions and channels"
        message = f"{field} has {len(window)} extents, but the input is {format_shape(shape)}"
        raise shape_mismatch_error(message, expected, shape, field)
    if padding is LayerPadding.SAME:
        return tuple(-(-n // s) for n, s in zip(shape, strides, strict=False))
    spans = tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))
    if any(n < span for n, span in zip(shape, spans, strict=False)):
        message = f"{field} spans {format_shape(spans)}, but the input is {format_shape(shape)}"
        raise shape_mismatch_error(message, f"at least {format_shape(spans)} and channels", shape, field)
    return tuple((n - span) // s + 1 for n, span, s in zip(shape, spans, strides, strict=False))
