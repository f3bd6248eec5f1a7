"""The plain recurrent layer (Elman, 1990)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optserve_server.complexity.recurrent import Recurrent


@dataclass(frozen=True)
class SimpleRNN(Recurrent):
    """h = tanh(x*W + h*U + b).

    Beside the matrix products a unit takes 2 operations a step, a sum and a function, and
    1 for its bias.
    """

    gates: ClassVar[int] = 1

    @property
    def operations_per_unit(self) -> int:
        return 2 + self.biases_per_unit
