"""Dropout (Srivastava et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.complexity.base import Cost, Layer, Shape


@dataclass(frozen=True)
class Dropout(Layer):
    """Does nothing in inference, and has an output of its own while it trains."""

    def cost(self, shape: Shape) -> Cost:
        return Cost(shape)
