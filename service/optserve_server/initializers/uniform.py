"""A uniform distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optserve_server.errors import conflict_error
from optserve_server.hyperparameters import hyper
from optserve_server.initializers.base import Initializer
from optserve_server.initializers.draws import Draws


@dataclass(frozen=True)
class Uniform(Initializer):
    """minimum + (maximum - minimum)*u with u uniform on [0, 1)."""

    minimum: float = hyper(-0.05)
    maximum: float = hyper(0.05)

    def validate(self) -> None:
        if self.minimum > self.maximum:
            text = f"minimum is {self.minimum}, but must be at most maximum, {self.maximum}"
            raise conflict_error("minimum", text)

    def values(self, shape: tuple[int, ...], draws: Draws) -> npt.NDArray[np.float64]:
        u = draws.draw_uniform(shape)
        return self.minimum * (1 - u) + self.maximum * u  # their difference could overflow
