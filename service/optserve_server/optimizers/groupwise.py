"""Rules that look at all tensors of a parameter group before they move any of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optserve_server.arrays.ops import Ops, Value
from optserve_server.optimizers.base import ElementwiseRule


@dataclass(frozen=True)
class GroupwiseRule(ElementwiseRule):
    """An element-wise rule whose numbers depend on sums over its whole parameter group.

    A first pass takes the sums and changes nothing; `update` is the second.
    """

    @abstractmethod
    def group_sum_terms(self, ops: Ops, p: Value, g: Value, *state: Any, **numbers: Any) -> dict[str, Value]:
        """The values whose magnitudes are summed over the group, by name.

        Takes what `update` takes, without the numbers that `compute_group_scalars` adds.
        """

    @abstractmethod
    def compute_group_scalars(
        self, sums: Mapping[str, float], numbers: Mapping[str, float]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Computes numbers from the sums: further keywords of `update`, and those carried to the next step.

        Args:
            sums: over the group, float64, by name.
            numbers: what `compute_scalars` gave.
        """
