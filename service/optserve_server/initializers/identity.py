"""The identity matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.base import Initializer, require_rank
from optserve_server.initializers.draws import Draws


@dataclass(frozen=True)
class Identity(Initializer):
    """gain on the diagonal and 0 elsewhere."""

    gain: float = hyper(1.0)

    def values(self, shape: tuple[int, ...], draws: Draws) -> npt.NDArray[np.float64]:
        require_rank(self.name, len(shape) == 2, "2", len(shape))
        return self.gain * np.eye(shape[0], shape[1])
