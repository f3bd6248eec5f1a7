"""Long short-term memory (Hochreiter and Schmidhuber, 1997; Gers et al., 2000)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from optserve_server.complexity.recurrent import Recurrent


@dataclass(frozen=True)
class LSTM(Recurrent):
    """c = f*c + i*g and h = o*tanh(c), with four gates i, f, g, o.

    Beside the matrix products a unit takes 13 operations a step, a sum and a function for
    each gate, 3 for c and 2 for h, and 4 for its biases.
    """

    gates: ClassVar[int] = 4

    @property
    def operations_per_unit(self) -> int:
        return 4 * 2 + 3 + 2 + self.biases_per_unit
