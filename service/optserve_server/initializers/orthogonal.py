"""Orthogonal matrices (Saxe, McClelland and Ganguli, 2013, arXiv:1312.6120)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optserve_server.hyperparameters import hyper
from optserve_server.initializers.base import Initializer, require_rank
from optserve_server.initializers.draws import Draws
from optserve_server.initializers.orthonormal_columns import orthonormal_columns


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """gain*Q, where Q has orthonormal columns, or rows if it has fewer of these (Keras).

    All dimensions but the last are rows. Q is that of a normal matrix' QR decomposition with
    R's diagonal made positive, which distributes it evenly over all such matrices.
    """

    gain: float = hyper(1.0)

    def values(self, shape: tuple[int, ...], draws: Draws) -> npt.NDArray[np.float64]:
        require_rank(self.name, len(shape) >= 2, "at least 2", len(shape))
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q = orthonormal_columns(draws.draw_normal((max(rows, columns), min(rows, columns))), draws.check)
        return self.gain * (q.T if rows < columns else q).reshape(shape)
