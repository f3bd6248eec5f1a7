"""What clipping by norm makes of gradients that are not finite. The corpus holds finite numbers alone.

Each line is a gradient of two tensors and what is left of it when clipped to a norm of 1: tensor
by tensor, and by the joint norm. `make conformance-sources` compares with the frameworks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

NAN, INF = math.nan, math.inf
Gradient = tuple[list[float], list[float]]


class Clipped(NamedTuple):
    """A gradient, and what clipping leaves of it."""

    gradient: Gradient
    by_tensor_norm: Gradient
    by_global_norm: Gradient


CLIPPED = [
    Clipped(([3.0, NAN], [4.0]), ([NAN, NAN], [1.0]), ([NAN, NAN], [NAN])),
    Clipped(([3.0, INF], [4.0]), ([0.0, NAN], [1.0]), ([0.0, NAN], [0.0])),
    Clipped(([3.0, -INF], [4.0]), ([0.0, NAN], [1.0]), ([0.0, NAN], [0.0])),
    Clipped(([3.0, NAN], [INF]), ([NAN, NAN], [NAN]), ([NAN, NAN], [NAN])),
]
