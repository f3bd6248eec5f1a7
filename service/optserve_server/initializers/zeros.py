"""All zeros."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optserve_server.initializers.base import Initializer


@dataclass(frozen=True)
class Zeros(Initializer):
    """0 everywhere."""

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
        return np.zeros(shape)
