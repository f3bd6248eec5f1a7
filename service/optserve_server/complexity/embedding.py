"""A table of vectors."""

from __future__ import annotations

from dataclasses import dataclass

from optserve_server.complexity.base import MAX_EXTENT, Cost, Layer, Shape
from optserve_server.hyperparameters import hyper


@dataclass(frozen=True)
class Embedding(Layer):
    """A vector of the table for each index of the input.

    With v vectors of extent d there are v*d parameters. Looking up computes nothing.
    """

    vocabulary: int = hyper(ge=1, le=MAX_EXTENT)
    dimension: int = hyper(ge=1, le=MAX_EXTENT)

    def cost(self, shape: Shape) -> Cost:
        return Cost((*shape, self.dimension), tensors=((self.vocabulary, self.dimension),))
