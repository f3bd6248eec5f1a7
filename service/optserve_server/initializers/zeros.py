"""All zeros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from optserve_server.initializers.base import Initializer


@dataclass(frozen=True)
class Zeros(Initializer):
    """0 everywhere."""

    name: ClassVar[str] = "zeros"

    def values(self, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.float64]:
        return np.zeros(shape)
