"""One learning rate between each pair of boundaries."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from optserve_server.errors import DomainError, Reason
from optserve_server.hyper import hyper
from optserve_server.schedules.base import Schedule


class BoundarySide(StrEnum):
    """Which value holds on a boundary itself: the one before it or the one after it."""

    BEFORE = "BEFORE"
    AFTER = "AFTER"


@dataclass(frozen=True)
class PiecewiseConstant(Schedule):
    """values[i], where i is by `boundary_side` the number of

    BEFORE  boundaries < s   (Keras)
    AFTER   boundaries <= s  (PyTorch, optax)
    """

    name: ClassVar[str] = "piecewise_constant"

    boundaries: tuple[int, ...] = hyper()
    values: tuple[float, ...] = hyper()
    boundary_side: BoundarySide = hyper(
        BoundarySide.BEFORE, torch=BoundarySide.AFTER, optax=BoundarySide.AFTER
    )

    def validate(self) -> None:
        if not self.boundaries:
            raise DomainError(Reason.FIELD_REQUIRED, "boundaries is required", field="boundaries")
        for i, boundary in enumerate(self.boundaries):
            least = self.boundaries[i - 1] + 1 if i else 0
            if boundary < least:
                raise _out_of_range(f"boundaries[{i}]", boundary, f"at least {least}")
        for i, value in enumerate(self.values):
            if not 0 <= value < math.inf:
                raise _out_of_range(f"values[{i}]", value, "at least 0")
        if len(self.values) != len(self.boundaries) + 1:
            raise DomainError(
                Reason.CONFLICTING_FIELDS,
                f"there are {len(self.values)} values for {len(self.boundaries)} boundaries, "
                f"but there must be {len(self.boundaries) + 1}",
                field="values",
            )

    def rate(self, step: int) -> float:
        if self.boundary_side is BoundarySide.BEFORE:
            return self.values[bisect.bisect_left(self.boundaries, step)]
        return self.values[bisect.bisect_right(self.boundaries, step)]


def _out_of_range(field: str, actual: float, allowed: str) -> DomainError:
    return DomainError(
        Reason.OUT_OF_RANGE,
        f"{field} is {actual}, but must be {allowed}",
        field=field,
        metadata={"range": allowed, "actual": actual},
    )
