"""All zeros."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optserve_server.initializers.base import Initializer
from optserve_server.initializers.draws import Draws


@dataclass(frozen=True)
class Zeros(Initializer):
    """0 everywhere."""

    def values(self, shape: tuple[int, ...], draws: Draws) -> npt.NDArray[np.float64]:
        return np.zeros(shape)
