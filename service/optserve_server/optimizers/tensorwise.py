"""Rules that look at whole tensors before they move any element of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from optserve_server.arrays.ops import Ops, Value
from optserve_server.optimizers.base import ElementwiseRule

Norms = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TensorwiseRule(ElementwiseRule):
    """An element-wise rule with numbers of each tensor's own, made from norms of that tensor.

    A first pass takes the norms and changes nothing; `update` is the second.

    Attributes:
        tensor_numbers: the keyword arguments of `update` that each tensor has its own of.
    """

    tensor_numbers: ClassVar[tuple[str, ...]]

    @abstractmethod
    def tensor_sum_terms(self, ops: Ops, p: Value, g: Value, *state: Any, **numbers: Any) -> dict[str, Value]:
        """The values whose Euclidean norms are taken over each tensor, by name.

        Takes what `update` takes, without the tensors' own numbers.
        """

    @abstractmethod
    def compute_tensor_scalars(self, norms: Mapping[str, Norms]) -> dict[str, Norms]:
        """Each tensor's numbers (float64), by name, from its norms (float64), by name."""


def trust_ratio(parameters: Norms, updates: Norms, coefficient: float = 1.0, epsilon: float = 0.0) -> Norms:
    """coefficient*|p|/(|u| + epsilon), but 1 where either norm is 0, so that nothing stands still."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = coefficient * parameters / (updates + epsilon)
    return np.where((parameters == 0) | (updates == 0), 1.0, ratio)
